// Package sqlitevol stores one SQLite database on a raw volume: a block device or anything that
// reads and writes at offsets, without a file system in between.
//
// The volume has three slots of a fixed place and capacity: the main database, its rollback
// journal and its write-ahead log. Each slot has a header sector that tells whether the slot's file
// exists and how long it is. A crash at any write leaves what a journaling file system would: a
// slot's length never covers content that was not durable before it, a deleted file never comes back,
// and what was synced stays. Both of SQLite's journal modes rely on just that.
//
// The write-ahead log works without shared memory, that is with PRAGMA locking_mode=EXCLUSIVE;
// Open sets it where it is needed. A volume must be opened once only at a time.
package sqlitevol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"sync"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/util/vfsutil"
	"github.com/ncruces/go-sqlite3/vfs"
)

// Device is what a volume lies on. Calls are never concurrent.
type Device interface {
	// ReadAt reads len(p) bytes at off (bytes).
	ReadAt(p []byte, off int64) (int, error)
	// WriteAt writes p at off (bytes). It may return before p is durable. Writes are never
	// reordered, and a write of one sector is never torn.
	WriteAt(p []byte, off int64) (int, error)
	// Flush makes every earlier WriteAt durable.
	Flush() error
	// Size is the device's capacity in bytes.
	Size() int64
}

// MinSize is the smallest device that takes a database, in bytes.
const MinSize = 1 << 20

const (
	sector   = 512     // bytes of a header
	headers  = 4 << 10 // bytes from one header to the next
	dataFrom = 16 << 10
	align    = 4 << 10
)

var (
	magic = [8]byte{'F', 'S', 'Q', 'L', 'V', 'O', 'L', '1'}
	table = crc32.MakeTable(crc32.Castagnoli)
)

// ErrDamaged tells that a slot's header holds neither zeros nor a valid header.
var ErrDamaged = errors.New("slot header is damaged")

// name of the main database's file; the journals' names derive from it.
const mainName = "/main.db"

// Volume is a database's home on a device. It implements vfs.VFS.
type Volume struct {
	mu    sync.Mutex
	dev   Device
	slots [3]*slot
}

// New reads the slots of dev. A blank device holds no files. Any other content that is not a
// volume's is refused with ErrDamaged.
func New(dev Device) (*Volume, error) {
	size := dev.Size()
	if size < MinSize {
		return nil, fmt.Errorf("device of %d bytes is too small: a database volume needs %d", size, MinSize)
	}
	// Half of the volume is the main database, a quarter each is the journals'.
	quarter := (size - dataFrom) / 4 &^ (align - 1)
	v := &Volume{dev: dev}
	v.slots = [3]*slot{
		{vol: v, suffix: "", at: 0, from: dataFrom, room: 2 * quarter},
		{vol: v, suffix: "-journal", at: headers, from: dataFrom + 2*quarter, room: quarter},
		{vol: v, suffix: "-wal", at: 2 * headers, from: dataFrom + 3*quarter, room: quarter},
	}
	for _, s := range v.slots {
		if err := s.load(); err != nil {
			return nil, fmt.Errorf("read slot %s%s: %w", mainName, s.suffix, err)
		}
	}
	return v, nil
}

// Open opens the database of v under a VFS of the given name, which must be unique among the open
// volumes of the process, and makes it. journal is SQLite's journal mode, or empty for
// the one the database has. The connection's Close leaves dev open; call the returned function
// behind it to forget the name.
func Open(v *Volume, name, journal string) (*sqlite3.Conn, func(), error) {
	vfs.Register(name, v)
	forget := func() { vfs.Unregister(name) }
	conn, err := sqlite3.Open("file:" + mainName + "?vfs=" + name)
	if err != nil {
		forget()
		return nil, nil, fmt.Errorf("open database on %s: %w", name, err)
	}
	pragmas := "PRAGMA temp_store=MEMORY; PRAGMA synchronous=FULL;"
	wal, err := v.wal()
	if err != nil {
		forget()
		return nil, nil, errors.Join(fmt.Errorf("open database on %s: %w", name, err), conn.Close())
	}
	if wal || strings.EqualFold(journal, "wal") {
		pragmas = "PRAGMA locking_mode=EXCLUSIVE;" + pragmas // before anything looks at the log
	}
	if journal != "" {
		pragmas += "PRAGMA journal_mode=" + journal + ";"
	}
	if err := conn.Exec(pragmas); err != nil {
		forget()
		return nil, nil, errors.Join(fmt.Errorf("set up database on %s: %w", name, err), conn.Close())
	}
	return conn, forget, nil
}

// wal tells whether the database is in write-ahead log mode, by the format number in its header.
func (v *Volume) wal() (bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.slots[0]
	const writeVersion = 18
	if s.length <= writeVersion {
		return false, nil
	}
	var b [1]byte
	_, err := v.dev.ReadAt(b[:], s.from+writeVersion)
	return b[0] == 2, err
}

// Open implements vfs.VFS.
func (v *Volume) Open(name string, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	const passing = vfs.OPEN_TEMP_DB | vfs.OPEN_TEMP_JOURNAL | vfs.OPEN_TRANSIENT_DB | vfs.OPEN_SUBJOURNAL
	if name == "" || flags&passing != 0 {
		return &vfsutil.SliceFile{}, flags | vfs.OPEN_MEMORY, nil
	}
	s := v.slot(name)
	if s == nil {
		return nil, flags, sqlite3.CANTOPEN
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if !s.exists {
		if flags&vfs.OPEN_CREATE == 0 {
			return nil, flags, sqlite3.CANTOPEN
		}
		s.exists, s.length, s.dirty = true, 0, true
	}
	return &file{slot: s, deleteOnClose: flags&vfs.OPEN_DELETEONCLOSE != 0}, flags, nil
}

// Delete implements vfs.VFS. It returns when the deletion is durable, whether that is asked for
// or not: the next file in the slot must never be taken for this one.
func (v *Volume) Delete(name string, _ bool) error {
	s := v.slot(name)
	v.mu.Lock()
	defer v.mu.Unlock()
	if s == nil || !s.exists {
		return sqlite3.IOERR_DELETE_NOENT
	}
	return s.remove()
}

// Access implements vfs.VFS.
func (v *Volume) Access(name string, _ vfs.AccessFlag) (bool, error) {
	s := v.slot(name)
	v.mu.Lock()
	defer v.mu.Unlock()
	return s != nil && s.exists, nil
}

// FullPathname implements vfs.VFS.
func (v *Volume) FullPathname(name string) (string, error) {
	if !strings.HasPrefix(name, "/") {
		name = "/" + name
	}
	return name, nil
}

func (v *Volume) slot(name string) *slot {
	suffix, ok := strings.CutPrefix(name, mainName)
	if !ok {
		return nil
	}
	for _, s := range v.slots {
		if s.suffix == suffix {
			return s
		}
	}
	return nil
}

// slot is the place of one file. Its volume's lock guards it.
type slot struct {
	vol    *Volume
	suffix string
	at     int64 // of the header
	from   int64 // of the content
	room   int64 // bytes of content at most

	exists bool
	length int64 // bytes of content
	stored int64 // length in the header on the device
	dirty  bool  // that header tells something else
}

func (s *slot) load() error {
	h := make([]byte, sector)
	if _, err := s.vol.dev.ReadAt(h, s.at); err != nil {
		return err
	}
	if len(strings.Trim(string(h), "\x00")) == 0 {
		return nil
	}
	length := int64(binary.BigEndian.Uint64(h[16:]))
	if [8]byte(h) != magic || binary.BigEndian.Uint32(h[24:]) != crc32.Checksum(h[:24], table) || length < 0 || length > s.room {
		return ErrDamaged
	}
	s.exists, s.length, s.stored = h[8] == 1, length, length
	return nil
}

// store writes the header. Content that it covers must have been written before.
func (s *slot) store() error {
	h := make([]byte, sector)
	copy(h, magic[:])
	if s.exists {
		h[8] = 1
	}
	binary.BigEndian.PutUint64(h[16:], uint64(s.length))
	binary.BigEndian.PutUint32(h[24:], crc32.Checksum(h[:24], table))
	if _, err := s.vol.dev.WriteAt(h, s.at); err != nil {
		return err
	}
	s.stored, s.dirty = s.length, false
	return nil
}

func (s *slot) remove() error {
	s.exists, s.length = false, 0
	if err := s.store(); err != nil {
		return err
	}
	return s.vol.dev.Flush()
}

// zero fills a gap that a write beyond the end leaves: a file reads as zero there, the slot holds
// what an earlier file left.
func (s *slot) zero(from, to int64) error {
	blank := make([]byte, min(to-from, 64<<10))
	for from < to {
		n := min(to-from, int64(len(blank)))
		if _, err := s.vol.dev.WriteAt(blank[:n], s.from+from); err != nil {
			return err
		}
		from += n
	}
	return nil
}

// file is an open slot. One process has the volume, one connection the database: locks are trivial.
type file struct {
	slot          *slot
	lock          vfs.LockLevel
	deleteOnClose bool
}

var _ vfs.FileLockState = (*file)(nil)

// Close implements io.Closer.
func (f *file) Close() error {
	f.slot.vol.mu.Lock()
	defer f.slot.vol.mu.Unlock()
	switch {
	case f.deleteOnClose && f.slot.exists:
		return f.slot.remove()
	case f.slot.dirty:
		if err := f.slot.vol.dev.Flush(); err != nil {
			return err
		}
		return f.slot.store()
	}
	return nil
}

// ReadAt implements io.ReaderAt.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.slot.vol.mu.Lock()
	defer f.slot.vol.mu.Unlock()
	n := min(int64(len(p)), f.slot.length-off)
	if n <= 0 {
		return 0, io.EOF
	}
	done, err := f.slot.vol.dev.ReadAt(p[:n], f.slot.from+off)
	if err == nil && n < int64(len(p)) {
		err = io.EOF
	}
	return done, err
}

// WriteAt implements io.WriterAt.
func (f *file) WriteAt(p []byte, off int64) (int, error) {
	f.slot.vol.mu.Lock()
	defer f.slot.vol.mu.Unlock()
	end := off + int64(len(p))
	if end > f.slot.room {
		return 0, sqlite3.FULL
	}
	if off > f.slot.length {
		if err := f.slot.zero(f.slot.length, off); err != nil {
			return 0, err
		}
	}
	n, err := f.slot.vol.dev.WriteAt(p, f.slot.from+off)
	if err == nil && end > f.slot.length {
		f.slot.length, f.slot.dirty = end, true
	}
	return n, err
}

// Truncate implements vfs.File.
func (f *file) Truncate(size int64) error {
	f.slot.vol.mu.Lock()
	defer f.slot.vol.mu.Unlock()
	if size > f.slot.room {
		return sqlite3.FULL
	}
	if size > f.slot.length {
		if err := f.slot.zero(f.slot.length, size); err != nil {
			return err
		}
	}
	f.slot.length, f.slot.dirty = size, true
	if size > f.slot.stored {
		return nil // until Sync: what it covers need not be durable
	}
	return f.slot.store()
}

// Sync implements vfs.File. Content is durable before the length that covers it is: otherwise a
// power cut could make what an earlier file left in the slot, a whole journal say, part of this one.
func (f *file) Sync(vfs.SyncFlag) error {
	f.slot.vol.mu.Lock()
	defer f.slot.vol.mu.Unlock()
	if f.slot.dirty {
		if err := f.slot.vol.dev.Flush(); err != nil {
			return err
		}
		if err := f.slot.store(); err != nil {
			return err
		}
	}
	return f.slot.vol.dev.Flush()
}

// Size implements vfs.File.
func (f *file) Size() (int64, error) {
	f.slot.vol.mu.Lock()
	defer f.slot.vol.mu.Unlock()
	return f.slot.length, nil
}

// Lock implements vfs.File.
func (f *file) Lock(level vfs.LockLevel) error {
	f.lock = max(f.lock, level)
	return nil
}

// Unlock implements vfs.File.
func (f *file) Unlock(level vfs.LockLevel) error {
	f.lock = min(f.lock, level)
	return nil
}

// CheckReservedLock implements vfs.File.
func (f *file) CheckReservedLock() (bool, error) { return f.lock >= vfs.LOCK_RESERVED, nil }

// LockState implements vfs.FileLockState.
func (f *file) LockState() vfs.LockLevel { return f.lock }

// SectorSize implements vfs.File.
func (f *file) SectorSize() int { return sector }

// DeviceCharacteristics implements vfs.File: what is beside an overwritten range stays intact.
func (f *file) DeviceCharacteristics() vfs.DeviceCharacteristic {
	return vfs.IOCAP_POWERSAFE_OVERWRITE
}
