package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/farshore/farshore/internal/durable"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica/objects"
)

// BaseDir returns where the group directory dir has its base: the set that replays of points start from whose
// beginning was trimmed from the mirrors.
func BaseDir(dir string) string { return filepath.Join(dir, "base") }

// HoldBase keeps the base at dir, and with it the beginning of the mirrors, from being advanced
// until the result is closed. Several may hold it at once. ErrLocked means that it is being advanced.
func HoldBase(dir string) (io.Closer, error) {
	base := BaseDir(dir)
	if err := (OS{}).MkdirAll(base); err != nil {
		return nil, fmt.Errorf("hold base: %w", err)
	}
	return durable.Lock(filepath.Join(base, lockFile), true, ErrLocked)
}

// Hold keeps the set at dir from being opened, and so from changing, until the result is closed.
// Several may hold it at once. A set that is open gives ErrLocked; a directory without one, fs.ErrNotExist.
func Hold(dir string) (io.Closer, error) {
	if _, err := os.Stat(filepath.Join(dir, CheckpointFile)); err != nil {
		return nil, err
	}
	return durable.Lock(filepath.Join(dir, lockFile), true, ErrLocked)
}

// CloneOptions shape a Clone.
type CloneOptions struct {
	// Devices names the block devices that volumes are cloned onto; the others become files. What a device holds is overwritten.
	Devices map[string]string
	// Copied is told of the bytes that were copied; nil: nobody is.
	Copied func(bytes int64)
}

// Clone makes a set at to that holds what the set at from holds, with an identity of its own. Nobody
// may write from meanwhile. Files share their blocks where the file system can do that (reflink);
// elsewhere the data is copied and holes stay holes. A crash leaves no checkpoint at to.
//
// Nothing is written before all devices are open: one that is in use, that is smaller than its volume, or whose volume the set
// doesn't have, is an error.
func Clone(ctx context.Context, from, to string, o CloneOptions) error {
	return clone(ctx, from, to, o, func(string) bool { return true })
}

// CloneObjects is Clone for the objects alone. What it makes is a set that has no volumes, and is good for no commit that
// has some.
func CloneObjects(ctx context.Context, from, to string, copied func(bytes int64)) error {
	return clone(ctx, from, to, CloneOptions{Copied: copied}, func(part string) bool { return part == journal.Objects })
}

func clone(ctx context.Context, from, to string, o CloneOptions, wanted func(part string) bool) (err error) {
	cp, err := ReadCheckpoint(from)
	if err != nil {
		return fmt.Errorf("clone set %s: %w", from, err)
	}
	maps.DeleteFunc(cp.Volumes, func(part string, _ Volume) bool { return !wanted(part) })
	devices, err := openDevices(&cp, o.Devices)
	defer func() {
		for _, d := range devices {
			err = errors.Join(err, d.Close())
		}
	}()
	if err != nil {
		return fmt.Errorf("clone set %s: %w", from, err)
	}
	if err := (OS{}).MkdirAll(filepath.Join(to, volumesDir)); err != nil {
		return fmt.Errorf("clone set to %s: %w", to, err)
	}
	for name, v := range cp.Volumes {
		if v.Seq == 0 {
			continue // blank: there is no replica yet
		}
		if name == journal.Objects {
			if err := cloneObjects(ctx, from, to, v.Log, o.Copied); err != nil {
				return fmt.Errorf("clone objects: %w", err)
			}
			continue
		}
		source := VolumePath(from, name)
		if v.Device != "" {
			source = v.Device
		}
		if d := devices[name]; d != nil {
			err = cloneDevice(ctx, source, d, o.Copied)
		} else {
			err = cloneFile(ctx, source, VolumePath(to, name), v.Size, o.Copied)
		}
		if err != nil {
			return fmt.Errorf("clone volume %s: %w", name, err)
		}
		v.Device = o.Devices[name]
		cp.Volumes[name] = v
	}
	_, err = Plant(to, cp)
	return err
}

// openDevices opens the devices that volumes are to be cloned onto, exclusively. It returns what it opened with an error, too.
func openDevices(cp *Checkpoint, paths map[string]string) (map[string]Target, error) {
	devices := make(map[string]Target)
	for name, path := range paths {
		v, ok := cp.Volumes[name]
		if !ok || name == journal.Objects || v.Seq == 0 {
			return devices, fmt.Errorf("the set has no volume %s that could be cloned onto %s", name, path)
		}
		d, err := OpenDevice(path, v.Size)
		if err != nil {
			return devices, &VolumeError{name, err}
		}
		devices[name] = d
		for source, v := range cp.Volumes {
			if v.Device != "" && sameDevice(v.Device, path) {
				return devices, &VolumeError{name, fmt.Errorf("device %s holds volume %s of the set that is to be cloned", path, source)}
			}
		}
	}
	return devices, nil
}

func sameDevice(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) == nil && unix.Stat(b, &y) == nil && x.Rdev == y.Rdev
}

// cloneObjects copies what counts of the log of the objects.
func cloneObjects(ctx context.Context, from, to string, log objects.Place, copied func(int64)) error {
	if log.File == "" {
		return nil // there are none
	}
	if err := (OS{}).MkdirAll(filepath.Join(to, objectsDir)); err != nil {
		return err
	}
	target := filepath.Join(to, objectsDir, log.File)
	if err := cloneFile(ctx, filepath.Join(from, objectsDir, log.File), target, log.Length, copied); err != nil {
		return err
	}
	return (OS{}).SyncDir(filepath.Dir(target))
}

func cloneFile(ctx context.Context, source, target string, size int64, copied func(int64)) (err error) {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(target, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o640)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) != nil {
		hole := func(int64, int64) error { return nil } // the file is new
		if err := copyData(ctx, in, out, hole, size, copied); err != nil {
			return err
		}
	}
	if err := out.Truncate(size); err != nil {
		return err
	}
	return out.Sync()
}

// cloneDevice overwrites a device with a volume, and makes it durable.
func cloneDevice(ctx context.Context, source string, to Target, copied func(int64)) error {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := copyData(ctx, in, to, to.Zero, to.Size(), copied); err != nil {
		return err
	}
	return to.Sync()
}

// copyData copies what is not a hole, and calls zero for what is, or reads as zero. A device that knows no holes is read whole.
func copyData(ctx context.Context, in *os.File, out io.WriterAt, zero func(off, length int64) error, size int64, copied func(int64)) error {
	buf := make([]byte, 1<<20)
	for off := int64(0); off < size; {
		data, err := unix.Seek(int(in.Fd()), off, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO):
			data = size // nothing but a hole is left
		case err != nil:
			data = off
		}
		if data = min(data, size); data > off {
			if err := zero(off, data-off); err != nil {
				return err
			}
			off = data
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n, err := in.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
		if n == 0 && err != nil {
			return err
		}
		if isZero(buf[:n]) {
			err = zero(off, int64(n))
		} else {
			_, err = out.WriteAt(buf[:n], off)
		}
		if err != nil {
			return err
		}
		if copied != nil {
			copied(int64(n))
		}
		off += int64(n)
	}
	return nil
}

func isZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
