package cdc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	sectorSize = 512
	zeroChunk  = 1 << 20 // bytes written at once where a device can't zero by itself
)

var zeroBytes [zeroChunk]byte

// file is a Device on a file or a block device. Linux promises for both that a punched range
// reads as zero; where a file system or a device can't punch, zeros are written.
type file struct {
	f         *os.File
	size      atomic.Int64
	path      string
	blockSize int64
	aligned   bool // a block device: it zeroes whole blocks
	segments  bool // SEEK_HOLE tells something
	flushes   flushes
}

// OpenFile opens a file or a block device and locks it until Close; ErrLocked tells that somebody
// else has it, as a block device that is mounted has. A file that is missing or empty is made
// with the given size, sparse. Size 0 takes the size there is; a device may be larger than the size
// given, and only its beginning is used then.
func OpenFile(path string, size int64) (Device, error) {
	d, err := openFile(path, size)
	if err != nil {
		return nil, fmt.Errorf("open device %s: %w", path, err)
	}
	return d, nil
}

func openFile(path string, size int64) (_ *file, err error) {
	if size < 0 || size%sectorSize != 0 {
		return nil, fmt.Errorf("size %d is no multiple of %d", size, sectorSize)
	}
	flags := os.O_RDWR
	info, err := os.Stat(path)
	block := err == nil && info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0
	switch {
	case block:
		flags |= unix.O_EXCL // without O_CREAT: the kernel's exclusive claim on a block device
	case errors.Is(err, os.ErrNotExist) && size > 0:
		flags |= os.O_CREATE
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("neither a file nor a block device")
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, unix.EBUSY) {
		return nil, ErrLocked
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("lock: %w", err)
	}
	d := &file{f: f, path: path, blockSize: sectorSize}
	if block {
		err = d.measureDevice(size)
	} else {
		err = d.measureFile(path, size)
	}
	if err != nil {
		return nil, err
	}
	d.aligned, d.segments = block, !block
	return d, d.probe()
}

func (d *file) measureDevice(size int64) error {
	have, err := d.f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if size > have {
		return fmt.Errorf("device has %d bytes, not the %d that are asked for", have, size)
	}
	if size == 0 {
		size = have
	}
	d.size.Store(size)
	block, err := unix.IoctlGetInt(int(d.f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return fmt.Errorf("read logical block size: %w", err)
	}
	d.blockSize = int64(block)
	return nil
}

func (d *file) measureFile(path string, size int64) error {
	info, err := d.f.Stat()
	if err != nil {
		return err
	}
	have := info.Size()
	switch {
	case have == 0 && size > 0:
		if err := d.f.Truncate(size); err != nil {
			return err
		}
		if err := syncNew(d.f, filepath.Dir(path)); err != nil {
			return err
		}
		have = size
	case have == 0:
		return errors.New("file is empty and no size is given")
	case have%sectorSize != 0:
		return fmt.Errorf("file has %d bytes, no multiple of %d; extend it with truncate", have, sectorSize)
	case size != 0 && size != have:
		return fmt.Errorf("file has %d bytes, not the %d that are asked for; open it as it is, and let the volume grow", have, size)
	}
	d.size.Store(have)
	return nil
}

// syncNew makes a new file and its name durable.
func syncNew(f *os.File, dir string) error {
	if err := f.Sync(); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// probe finds out what the device can do. It only asks, in a way that changes nothing.
func (d *file) probe() error {
	if !d.segments {
		return nil
	}
	_, err := unix.Seek(int(d.f.Fd()), 0, unix.SEEK_HOLE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		d.segments, err = false, nil
	}
	return err
}

func (d *file) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.f.ReadAt(p, off)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // somebody made the file shorter
		if n == len(p) {
			err = nil
		}
	}
	return n, err
}

func (d *file) WriteAt(p []byte, off int64) (int, error) { return d.f.WriteAt(p, off) }

func (d *file) Flush() error { return d.flushes.do(d.sync) }

func (d *file) sync() error {
	var err error
	if e := d.control(func(fd int) { err = retry(func() error { return unix.Fdatasync(fd) }) }); e != nil {
		return e
	}
	if err != nil {
		return fmt.Errorf("fdatasync: %w", err)
	}
	return nil
}

func (d *file) Size() int64      { return d.size.Load() }
func (d *file) BlockSize() int64 { return d.blockSize }
func (d *file) Close() error     { return d.f.Close() }

// Grow extends a file with a hole. A block device must have been made as long; only its beginning is used.
func (d *file) Grow(size int64) error {
	if size < d.size.Load() || size%sectorSize != 0 {
		return fmt.Errorf("grow device %s from %d to %d bytes: no growth by whole sectors", d.path, d.size.Load(), size)
	}
	if d.aligned {
		have, err := d.f.Seek(0, io.SeekEnd)
		if err != nil {
			return fmt.Errorf("measure device %s: %w", d.path, err)
		}
		if have < size {
			return fmt.Errorf("device %s has %d bytes, not %d: extend it first", d.path, have, size)
		}
		d.size.Store(size)
		return nil
	}
	info, err := d.f.Stat()
	if err != nil {
		return fmt.Errorf("grow device: %w", err)
	}
	if info.Size() < size { // else somebody has extended it already
		if err := d.f.Truncate(size); err != nil {
			return fmt.Errorf("grow device: %w", err)
		}
		if err := d.f.Sync(); err != nil {
			return fmt.Errorf("grow device: %w", err)
		}
	}
	d.size.Store(size)
	return nil
}

func (d *file) Trim(off, length int64) error { return d.Zero(off, length, true) }

func (d *file) Zero(off, length int64, mayPunch bool) error {
	err := d.ZeroFast(off, length, mayPunch)
	if !errors.Is(err, ErrNotFast) {
		return err
	}
	if first, last := d.inner(off, off+length); first < last {
		// A block device, and a range that isn't aligned to its blocks.
		if err := d.writeZeros(off, first-off); err != nil {
			return err
		}
		if err := d.Zero(first, last-first, mayPunch); err != nil {
			return err
		}
		return d.writeZeros(last, off+length-last)
	}
	return d.writeZeros(off, length)
}

// inner is the part of a range that covers whole blocks, if the range as it is can't be zeroed by the
// device; else an empty one.
func (d *file) inner(off, end int64) (first, last int64) {
	if !d.aligned || off%d.blockSize == 0 && end%d.blockSize == 0 {
		return off, off
	}
	return (off + d.blockSize - 1) / d.blockSize * d.blockSize, end / d.blockSize * d.blockSize
}

// ZeroFast is Zero, or ErrNotFast where the device can't do it but by writing; the range is as it
// was then.
func (d *file) ZeroFast(off, length int64, mayPunch bool) error {
	const keep = unix.FALLOC_FL_KEEP_SIZE
	const punch, zero = unix.FALLOC_FL_PUNCH_HOLE | keep, unix.FALLOC_FL_ZERO_RANGE | keep
	first, second := uint32(zero), uint32(punch)
	if mayPunch {
		first, second = second, first
	}
	err := d.fallocate(first, off, length)
	if !errors.Is(err, ErrNotFast) {
		return err
	}
	if err := d.fallocate(second, off, length); err != nil {
		return err
	}
	if !mayPunch { // what was punched is to be allocated again, as far as the device can do so
		if err := d.fallocate(keep, off, length); !errors.Is(err, ErrNotFast) {
			return err
		}
	}
	return nil
}

// fallocate answers ErrNotFast where the device can't do it.
func (d *file) fallocate(mode uint32, off, length int64) error {
	var err error
	if e := d.control(func(fd int) {
		err = retry(func() error { return unix.Fallocate(fd, mode, off, length) })
	}); e != nil {
		return e
	}
	for _, cannot := range []error{unix.EOPNOTSUPP, unix.ENOSYS, unix.ENODEV, unix.EINVAL} {
		if errors.Is(err, cannot) {
			return ErrNotFast
		}
	}
	if err != nil {
		return fmt.Errorf("fallocate: %w", err)
	}
	return nil
}

func (d *file) writeZeros(off, length int64) error {
	for length > 0 {
		n, err := d.f.WriteAt(zeroBytes[:min(length, zeroChunk)], off)
		if err != nil {
			return err
		}
		off, length = off+int64(n), length-int64(n)
	}
	return nil
}

func (d *file) Segments(off, length int64) ([]Segment, error) {
	const most = 8192 // what lies behind as many is called data
	end := off + length
	var out []Segment
	for off < end && len(out) < most && d.segments {
		data, err := d.seek(off, unix.SEEK_DATA, end)
		if err != nil {
			return nil, err
		}
		if data > off {
			out = append(out, Segment{Offset: off, Length: data - off, Hole: true, Zero: true})
		}
		if data == end {
			return out, nil
		}
		hole, err := d.seek(data, unix.SEEK_HOLE, end)
		if err != nil {
			return nil, err
		}
		if hole <= data { // changed in between
			hole = min(end, data+sectorSize)
		}
		out = append(out, Segment{Offset: data, Length: hole - data})
		off = hole
	}
	if off < end {
		out = append(out, Segment{Offset: off, Length: end - off})
	}
	return out, nil
}

// seek is where, from off on, there is data or a hole; end where there is none before end.
func (d *file) seek(off int64, whence int, end int64) (int64, error) {
	var at int64
	var err error
	if e := d.control(func(fd int) { at, err = unix.Seek(fd, off, whence) }); e != nil {
		return 0, e
	}
	if errors.Is(err, unix.ENXIO) {
		return end, nil
	}
	if err != nil {
		return 0, fmt.Errorf("seek for holes: %w", err)
	}
	return min(at, end), nil
}

// control calls f with the descriptor, which stays open meanwhile.
func (d *file) control(f func(fd int)) error {
	c, err := d.f.SyscallConn()
	if err != nil {
		return err
	}
	return c.Control(func(fd uintptr) { f(int(fd)) })
}

func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
