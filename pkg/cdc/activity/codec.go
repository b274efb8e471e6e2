package activity

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// The first byte of a record.
const (
	recordWhole  = 1 // everything: the first record of a file
	recordChange = 2
)

// formatVersion is the version of the file that is written, and the only one that is read.
const formatVersion = 1

const (
	flagSeeded = 1 << iota
	flagClosed
)

var magic = []byte("farshore activity log\n")

// errForeign and errVersion are why a file that is intact is not used.
var (
	errForeign = errors.New("it is another volume's")
	errVersion = errors.New("it was written by another version of the program")
)

func appendState(b []byte, s state) []byte {
	b = binary.AppendUvarint(b, uint64(s.size))
	b = binary.AppendUvarint(b, uint64(s.tenure.Generation))
	created := int64(0)
	if !s.tenure.Created.IsZero() {
		created = s.tenure.Created.UnixNano()
	}
	b = binary.AppendVarint(b, created)
	b = binary.AppendUvarint(b, s.tenure.Epoch)
	b = binary.AppendUvarint(b, s.acked)
	b = binary.AppendUvarint(b, s.reach)
	flags := uint64(0)
	if s.seeded {
		flags |= flagSeeded
	}
	if s.closed {
		flags |= flagClosed
	}
	b = binary.AppendUvarint(b, flags)
	b = binary.AppendVarint(b, s.mtime)
	return binary.AppendUvarint(b, uint64(s.now))
}

// appendChange appends a record of what changed: sets, in order, come onto the list, clears go.
func appendChange(b []byte, s state, sets []uint32, clears []cover) []byte {
	b = appendState(append(b, recordChange), s)
	b = appendRuns(b, sets)
	return appendCovers(b, s, clears)
}

// appendWhole appends a record of everything.
func appendWhole(b []byte, uid string, sectors uint32, c *change) []byte {
	b = append(append(b, recordWhole), magic...)
	b = binary.AppendUvarint(b, formatVersion)
	b = binary.AppendUvarint(b, uint64(len(uid)))
	b = append(b, uid...)
	b = binary.LittleEndian.AppendUint32(b, sectors)
	b = appendState(b, c.state)
	dirty := make([]uint32, 0, c.dirty.n)
	for r, ok := c.dirty.next(0); ok; r, ok = c.dirty.next(r + 1) {
		dirty = append(dirty, r)
	}
	b = appendRuns(b, dirty)
	return appendCovers(b, c.state, c.recent.list)
}

// appendRuns appends sorted regions as runs: how many, and for each how far it is from the last one's end,
// and its length.
func appendRuns(b []byte, regions []uint32) []byte {
	type run struct{ first, n uint32 }
	var runs []run
	for _, r := range regions {
		if k := len(runs); k > 0 && runs[k-1].first+runs[k-1].n == r {
			runs[k-1].n++
		} else {
			runs = append(runs, run{r, 1})
		}
	}
	b = binary.AppendUvarint(b, uint64(len(runs)))
	at := uint32(0)
	for _, r := range runs {
		b = binary.AppendUvarint(b, uint64(r.first-at))
		b = binary.AppendUvarint(b, uint64(r.n))
		at = r.first + r.n
	}
	return b
}

// appendCovers appends covers: how many, and for each how far its region is from the last one's, how
// long ago it was cleared, and its sequence.
func appendCovers(b []byte, s state, covers []cover) []byte {
	b = binary.AppendUvarint(b, uint64(len(covers)))
	at := int64(0)
	for _, c := range covers {
		b = binary.AppendVarint(b, int64(c.region)-at)
		at = int64(c.region)
		b = binary.AppendUvarint(b, uint64(max(0, int64(s.now)-int64(c.at)))) // a clock can be set back
		b = binary.AppendUvarint(b, c.seq)
	}
	return b
}

// decoder reads a record. Its first error stays.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("a record with a bad %s", what)
	}
	d.b = nil
}

func (d *decoder) uvarint(what string, limit uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > limit {
		d.fail(what)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint(what string) int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail(what)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes(what string, n int) []byte {
	if n > len(d.b) {
		d.fail(what)
		return make([]byte, n)
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) state() state {
	const any64 = ^uint64(0)
	var s state
	s.size = int64(d.uvarint("size", RegionSize<<31-1))
	s.tenure.Generation = uint32(d.uvarint("generation", 1<<32-1))
	if created := d.varint("time of creation"); created != 0 {
		s.tenure.Created = time.Unix(0, created).UTC()
	}
	s.tenure.Epoch = d.uvarint("epoch", any64)
	s.acked = d.uvarint("sequence", any64)
	s.reach = d.uvarint("reach", any64)
	flags := d.uvarint("flags", flagSeeded|flagClosed)
	s.seeded, s.closed = flags&flagSeeded != 0, flags&flagClosed != 0
	s.mtime = d.varint("modification time")
	s.now = uint32(d.uvarint("time", 1<<32-1))
	return s
}

// image is what a file says.
type image struct {
	state
	uid     string
	sectors uint32
	dirty   bitmap
	recent  recents
}

// apply reads a record into an image; first tells whether it is the first of its file.
func (m *image) apply(record []byte, first bool) error {
	d := &decoder{b: record}
	kind := d.bytes("kind", 1)[0]
	if d.err == nil && (kind == recordWhole) != first || kind != recordWhole && kind != recordChange {
		d.fail("kind")
	}
	if first && d.err == nil {
		if string(d.bytes("beginning", len(magic))) != string(magic) {
			d.fail("beginning")
		}
		if d.uvarint("version", ^uint64(0)) != formatVersion && d.err == nil {
			return errVersion
		}
		m.uid = string(d.bytes("UID", int(d.uvarint("UID", 1<<16))))
		m.sectors = binary.LittleEndian.Uint32(d.bytes("length", 4))
	}
	s := d.state()
	if d.err != nil {
		return d.err
	}
	if s.size < m.size || s.size <= 0 {
		d.fail("size")
	}
	if s.tenure.Generation != m.tenure.Generation || !s.tenure.Created.Equal(m.tenure.Created) {
		m.recent = recents{} // the sequences were another stream's
	}
	m.state = s
	m.recent.reach = max(m.recent.reach, s.reach)
	regions := uint32((s.size + RegionSize - 1) / RegionSize)
	m.dirty.grow(regions)
	m.runs(d, regions)
	m.covers(d, regions, !first)
	if d.err == nil && len(d.b) > 0 {
		d.fail("end")
	}
	return d.err
}

func (m *image) runs(d *decoder, regions uint32) {
	at := uint64(0)
	for n := d.uvarint("number of runs", uint64(regions)); n > 0 && d.err == nil; n-- {
		first := at + d.uvarint("run", uint64(regions))
		at = first + d.uvarint("run", uint64(regions))
		if at > uint64(regions) {
			d.fail("run")
			return
		}
		for r := first; r < at; r++ {
			m.dirty.set(uint32(r))
		}
	}
}

func (m *image) covers(d *decoder, regions uint32, clear bool) {
	at := int64(0)
	for n := d.uvarint("number of covers", 1<<32-1); n > 0 && d.err == nil; n-- {
		at += d.varint("cover")
		ago := d.uvarint("cover", 1<<32-1)
		seq := d.uvarint("cover", ^uint64(0))
		if d.err != nil || at < 0 || at >= int64(regions) {
			d.fail("cover")
			return
		}
		if clear {
			m.dirty.unset(uint32(at))
		}
		m.recent.add(cover{region: uint32(at), at: uint32(max(0, int64(m.now)-int64(ago))), seq: seq})
	}
}
