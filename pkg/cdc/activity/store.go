package activity

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"path/filepath"
)

const (
	sectorSize    = 512
	sectorHeader  = 32
	sectorContent = sectorSize - sectorHeader
	// minSectors is how many sectors a file has for changes at least: 256 KiB. It has no fewer than its
	// first record takes, so that writing everything anew costs little for each change.
	minSectors = 512
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// store is the log's file. Calls are never concurrent.
type store struct {
	fs     FS
	path   string
	uid    string
	f      File
	file   uint64 // which file a sector belongs to
	at     uint32 // the first sector that wasn't written
	total  uint32
	least  uint32 // sectors for changes
	synced uint32 // the sectors before it are durable
	buf    []byte
}

// fits tells whether a record of n bytes can be appended.
func (s *store) fits(n int) bool {
	return s.f != nil && uint64(s.at)+uint64(sectorsOf(n)) <= uint64(s.total)
}

func sectorsOf(n int) uint32 { return uint32((n + sectorContent - 1) / sectorContent) }

func (s *store) commit(c *change) error {
	var err error
	switch {
	case c.nothing:
	case c.whole:
		err = s.rewrite(c)
	default:
		err = s.append(c.payload, c.sync)
	}
	if err != nil {
		return fmt.Errorf("commit activity log: %w", err)
	}
	return nil
}

// append writes a record behind the last one. After an error the file is not appended to any more.
func (s *store) append(record []byte, sync bool) error {
	s.buf = s.frame(s.buf[:0], record)
	n := len(s.buf) / sectorSize
	_, err := s.f.WriteAt(s.buf, int64(s.at)*sectorSize)
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", s.path, err), s.close())
	}
	s.at += uint32(n)
	if n > 16 {
		s.buf = nil
	}
	if !sync {
		return nil
	}
	if err := s.f.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync %s: %w", s.path, err), s.close())
	}
	s.synced = s.at
	return nil
}

// rewrite replaces the file by one that begins with everything. After an error the old file may be there,
// or the new one.
func (s *store) rewrite(c *change) error {
	if err := s.close(); err != nil {
		return fmt.Errorf("close %s: %w", s.path, err)
	}
	s.file, s.at, s.synced = rand.Uint64(), 0, 0
	n := sectorsOf(len(appendWhole(nil, s.uid, 0, c)))
	s.total = n + max(n, s.least)
	data := s.frame(make([]byte, 0, int(s.total)*sectorSize), appendWhole(nil, s.uid, s.total, c))
	data = data[:int(s.total)*sectorSize]
	tmp := s.path + ".new"
	f, err := s.fs.Create(tmp)
	if err != nil {
		return fmt.Errorf("make %s: %w", tmp, err)
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", tmp, err), f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync %s: %w", tmp, err), f.Close())
	}
	if err := s.fs.Rename(tmp, s.path); err != nil {
		return errors.Join(fmt.Errorf("replace %s: %w", s.path, err), f.Close())
	}
	if err := s.fs.SyncDir(filepath.Dir(s.path)); err != nil {
		return errors.Join(fmt.Errorf("sync directory of %s: %w", s.path, err), f.Close())
	}
	s.f, s.at, s.synced = f, n, n
	return nil
}

func (s *store) close() error {
	if s.f == nil {
		return nil
	}
	f := s.f
	s.f = nil
	return f.Close()
}

// frame appends the sectors of a record.
func (s *store) frame(b, record []byte) []byte {
	first, n := s.at, sectorsOf(len(record))
	for i := range n {
		at := len(b)
		b = append(b, make([]byte, sectorSize)...)
		h := b[at:]
		content := record[int(i)*sectorContent : min(len(record), int(i+1)*sectorContent)]
		binary.LittleEndian.PutUint64(h[4:], s.file)
		binary.LittleEndian.PutUint32(h[12:], first+i)
		binary.LittleEndian.PutUint32(h[16:], first)
		binary.LittleEndian.PutUint32(h[20:], n)
		binary.LittleEndian.PutUint32(h[24:], s.synced)
		binary.LittleEndian.PutUint32(h[28:], uint32(len(content)))
		copy(h[sectorHeader:], content)
		binary.LittleEndian.PutUint32(h, crc32.Checksum(h[4:], castagnoli))
	}
	return b
}

// sector is what the header of one says.
type sector struct {
	written bool
	file    uint64
	at      uint32 // its number in the file
	first   uint32 // of its record
	n       uint32 // sectors of its record
	synced  uint32
	content []byte
}

// errDamaged is what a file is that no crash leaves behind.
var errDamaged = errors.New("it is damaged")

func readSector(p []byte) (sector, error) {
	zero := true
	for _, b := range p {
		if b != 0 {
			zero = false
			break
		}
	}
	if zero {
		return sector{}, nil
	}
	length := binary.LittleEndian.Uint32(p[28:])
	if binary.LittleEndian.Uint32(p) != crc32.Checksum(p[4:], castagnoli) || length > sectorContent {
		return sector{}, errDamaged
	}
	return sector{
		written: true, file: binary.LittleEndian.Uint64(p[4:]), at: binary.LittleEndian.Uint32(p[12:]),
		first: binary.LittleEndian.Uint32(p[16:]), n: binary.LittleEndian.Uint32(p[20:]),
		synced: binary.LittleEndian.Uint32(p[24:]), content: p[sectorHeader : sectorHeader+int(length)],
	}, nil
}

// parse reads a file. A sector is either as it was made, or as it was written; so a record that
// lacks sectors was not finished, and anything else that isn't right is damage.
func parse(data []byte) (*image, error) {
	if len(data) == 0 || len(data)%sectorSize != 0 {
		return nil, errDamaged
	}
	sectors := make([]sector, len(data)/sectorSize)
	for i := range sectors {
		s, err := readSector(data[i*sectorSize : (i+1)*sectorSize])
		if err != nil {
			return nil, err
		}
		if s.written && (s.file != sectors[0].file && i > 0 || s.at != uint32(i)) {
			return nil, errDamaged
		}
		sectors[i] = s
	}
	m := new(image)
	end := 0
	for end < len(sectors) {
		record, n := wholeRecord(sectors, end)
		if n == 0 {
			break
		}
		if err := m.apply(record, end == 0); errors.Is(err, errVersion) {
			return nil, err
		} else if err != nil {
			return nil, fmt.Errorf("%w: %w", errDamaged, err)
		}
		end += n
	}
	if end == 0 || m.sectors != uint32(len(sectors)) {
		return nil, errDamaged
	}
	for _, s := range sectors[end:] {
		if s.written && s.synced > uint32(end) {
			return nil, errDamaged // what is missing had been made durable
		}
	}
	return m, nil
}

// wholeRecord returns the record that begins at a sector, and how many it has; 0: not all are there.
func wholeRecord(sectors []sector, at int) (record []byte, n int) {
	head := sectors[at]
	if !head.written || head.first != uint32(at) || head.n == 0 || uint64(at)+uint64(head.n) > uint64(len(sectors)) {
		return nil, 0
	}
	for _, s := range sectors[at : at+int(head.n)] {
		if !s.written || s.first != head.first || s.n != head.n {
			return nil, 0
		}
		record = append(record, s.content...)
	}
	return record, int(head.n)
}
