package replica

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// device is a Target on a block device. Zeroed ranges are unmapped where the device promises that
// they read as zero then, else zeroes are written.
type device struct {
	f     *os.File
	size  atomic.Int64 // of the volume; the device may be larger
	unit  int64        // bytes: what requests for zeroing are aligned to
	modes []uint32
}

var _ Target = (*device)(nil)

// OpenDevice opens the block device at path, exclusively, as a volume of size bytes. Its content is
// left alone: a first pass overwrites all of it.
func OpenDevice(path string, size int64) (Target, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("open replica %s: %w (is it mounted, or another applier's?)", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	t := &device{f: f, modes: []uint32{
		unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
		unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE,
	}}
	if err := t.prepare(size); err != nil {
		return nil, errors.Join(fmt.Errorf("open replica %s: %w", path, err), f.Close())
	}
	return t, nil
}

func (t *device) prepare(size int64) error {
	info, err := t.f.Stat()
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeDevice == 0 || info.Mode()&os.ModeCharDevice != 0 {
		return fmt.Errorf("%w: it is no block device", ErrForeign)
	}
	unit, err := unix.IoctlGetInt(int(t.f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return fmt.Errorf("read block size: %w", err)
	}
	t.unit = int64(unit)
	return t.Resize(size)
}

// ReadAt implements Target.
func (t *device) ReadAt(p []byte, off int64) (int, error) {
	if err := inside(off, int64(len(p)), t.size.Load()); err != nil {
		return 0, err
	}
	return t.f.ReadAt(p, off)
}

// WriteAt implements Target.
func (t *device) WriteAt(p []byte, off int64) (int, error) {
	if err := inside(off, int64(len(p)), t.size.Load()); err != nil {
		return 0, err
	}
	return t.f.WriteAt(p, off)
}

// Zero implements Target: whole blocks by one request, the rest by writing.
func (t *device) Zero(off, length int64) error {
	if err := inside(off, length, t.size.Load()); err != nil {
		return err
	}
	first := (off + t.unit - 1) / t.unit * t.unit
	end := (off + length) / t.unit * t.unit
	if first >= end || !t.zeroBlocks(first, end-first) {
		return writeZeroes(t.f, off, length)
	}
	if err := writeZeroes(t.f, off, first-off); err != nil {
		return err
	}
	return writeZeroes(t.f, end, off+length-end)
}

func (t *device) zeroBlocks(off, length int64) bool {
	for len(t.modes) > 0 {
		err := fallocate(t.f, t.modes[0], off, length)
		if err == nil {
			return true
		}
		if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) {
			return false // writing shows the real error, if there is one
		}
		t.modes = t.modes[1:]
	}
	return false
}

// Trim implements Target as Zero does: a discard alone doesn't promise what is read afterwards.
func (t *device) Trim(off, length int64) error { return t.Zero(off, length) }

// Reserve implements Target. A device has its room, or, where it is thin, can't promise it.
func (t *device) Reserve(list []Extent) error {
	for _, e := range list {
		if err := inside(e.Offset, e.Length, t.size.Load()); err != nil {
			return err
		}
	}
	return nil
}

// Resize implements Target: the device must have grown before. What is new is cleared.
func (t *device) Resize(size int64) error {
	old := t.size.Load()
	if size < old {
		return fmt.Errorf("shrink volume from %d to %d bytes: %w", old, size, errors.ErrUnsupported)
	}
	has, err := t.f.Seek(0, 2)
	if err != nil {
		return fmt.Errorf("read device size: %w", err)
	}
	if has < size {
		return fmt.Errorf("the device has %d bytes, the volume %d: %w (grow the device)", has, size, unix.ENOSPC)
	}
	t.size.Store(size)
	if old == 0 {
		return nil
	}
	return t.Zero(old, size-old)
}

// Size implements Target.
func (t *device) Size() int64 { return t.size.Load() }

// Sync implements Target. It may also be called while ranges are written or zeroed: then it makes durable what was before.
func (t *device) Sync() error { return t.f.Sync() }

// Close implements Target.
func (t *device) Close() error { return t.f.Close() }
