package replica

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/farshore/farshore/internal/durable"
)

// zeroes is what is written where a range can't be punched.
var zeroes [256 << 10]byte

// file is a Target in a regular file. Space is reserved by fallocate, zeroed and trimmed ranges
// become holes; where the file system has neither, free space is compared and zeroes are written.
type file struct {
	f    *os.File
	size atomic.Int64

	allocated allocation
	lost      atomic.Bool // a Sync failed: what is allocated isn't known any more
	noReserve bool        // the file system has no fallocate
	noPunch   bool        // it can't punch holes
}

var _ Target = (*file)(nil)

// OpenFile opens the file at path as a volume of size bytes. With blank it is made, or made anew, so
// that all of it reads as zero; without, it must be there and not be shorter.
func OpenFile(path string, size int64, blank bool) (Target, error) {
	flags := os.O_RDWR
	if blank {
		flags |= os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	t := &file{f: f}
	t.size.Store(size)
	t.allocated.resize(size)
	if err := t.prepare(path, blank); err != nil {
		return nil, errors.Join(fmt.Errorf("open replica %s: %w", path, err), f.Close())
	}
	return t, nil
}

func (t *file) prepare(path string, blank bool) error {
	if blank {
		if err := t.f.Truncate(t.size.Load()); err != nil {
			return err
		}
		if err := t.f.Sync(); err != nil {
			return err
		}
		return durable.Sync(filepath.Dir(path))
	}
	info, err := t.f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: it is no regular file", ErrForeign)
	}
	if info.Size() < t.size.Load() {
		return fmt.Errorf("%w: it has %d bytes, the checkpoint says %d", ErrForeign, info.Size(), t.size.Load())
	}
	return nil
}

// ReadAt implements Target.
func (t *file) ReadAt(p []byte, off int64) (int, error) {
	if err := inside(off, int64(len(p)), t.size.Load()); err != nil {
		return 0, err
	}
	return t.f.ReadAt(p, off)
}

// WriteAt implements Target.
func (t *file) WriteAt(p []byte, off int64) (int, error) {
	if err := inside(off, int64(len(p)), t.size.Load()); err != nil {
		return 0, err
	}
	return t.f.WriteAt(p, off)
}

// Zero implements Target by punching a hole.
func (t *file) Zero(off, length int64) error {
	if err := inside(off, length, t.size.Load()); err != nil {
		return err
	}
	if length == 0 {
		return nil
	}
	if !t.noPunch {
		t.allocated.forget(off, length)
		err := fallocate(t.f, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
		if !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		t.noPunch = true
	}
	return t.writeZeroes(off, length)
}

// Trim implements Target as Zero does: a hole reads as zero.
func (t *file) Trim(off, length int64) error { return t.Zero(off, length) }

// writeZeroes overwrites what is allocated of a range; holes stay.
func (t *file) writeZeroes(off, length int64) error {
	end := off + length
	for off < end {
		data, err := unix.Seek(int(t.f.Fd()), off, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO): // no data up to the end of the file
			return nil
		case err != nil: // the file system doesn't tell holes
			return writeZeroes(t.f, off, end-off)
		case data >= end:
			return nil
		}
		hole, err := unix.Seek(int(t.f.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			hole = end
		}
		hole = min(hole, end)
		if err := writeZeroes(t.f, data, hole-data); err != nil {
			return err
		}
		off = hole
	}
	return nil
}

func writeZeroes(w io.WriterAt, off, length int64) error {
	for length > 0 {
		n := min(length, int64(len(zeroes)))
		if _, err := w.WriteAt(zeroes[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// Reserve implements Target with fallocate: the space is the file's from then on.
func (t *file) Reserve(list []Extent) error {
	if t.lost.Swap(false) {
		t.allocated.clear()
	}
	var need int64
	for _, e := range list {
		if err := inside(e.Offset, e.Length, t.size.Load()); err != nil {
			return err
		}
		err := t.allocated.unknown(e, func(run Extent) error {
			if t.noReserve {
				need += run.Length
				return nil
			}
			err := fallocate(t.f, unix.FALLOC_FL_KEEP_SIZE, run.Offset, run.Length)
			if errors.Is(err, unix.EOPNOTSUPP) {
				t.noReserve = true
				need += run.Length
				return nil
			}
			if err != nil {
				return fmt.Errorf("reserve %d bytes: %w", run.Length, err)
			}
			t.allocated.mark(run)
			return nil
		})
		if err != nil {
			return err
		}
	}
	if need == 0 {
		return nil
	}
	return t.checkFree(need)
}

func (t *file) checkFree(need int64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(t.f.Fd()), &st); err != nil {
		return fmt.Errorf("read free space: %w", err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < need {
		return fmt.Errorf("reserve %d bytes, %d are free: %w", need, free, unix.ENOSPC)
	}
	return nil
}

// Resize implements Target. A longer file, which a crash after an earlier Resize leaves, is cleared
// behind the old end.
func (t *file) Resize(size int64) error {
	old := t.size.Load()
	if size < old {
		return fmt.Errorf("shrink volume from %d to %d bytes: %w", old, size, errors.ErrUnsupported)
	}
	for _, n := range []int64{old, size} {
		if err := t.f.Truncate(n); err != nil {
			return err
		}
	}
	t.size.Store(size)
	t.allocated.resize(size)
	return nil
}

// Size implements Target.
func (t *file) Size() int64 { return t.size.Load() }

// Sync implements Target. It may also be called while ranges are written or zeroed: then it makes durable what was before.
func (t *file) Sync() error {
	for {
		err := unix.Fdatasync(int(t.f.Fd()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.lost.Store(true)
		}
		return err
	}
}

// Close implements Target.
func (t *file) Close() error { return t.f.Close() }

func fallocate(f *os.File, mode uint32, off, length int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), mode, off, length)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func inside(off, length, size int64) error {
	if off < 0 || length < 0 || off > size || length > size-off {
		return fmt.Errorf("range of %d bytes at %d is outside of the volume's %d bytes", length, off, size)
	}
	return nil
}

// cloneInto makes an empty file share the volume's blocks. It fails where the file system can't do that.
func (t *file) cloneInto(out *os.File) error {
	return unix.IoctlFileClone(int(out.Fd()), int(t.f.Fd()))
}
