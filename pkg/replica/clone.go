package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"

	"github.com/google/uuid"
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

// Clone makes a set at to that holds what the set at from holds, with an identity of its own. Nobody
// may write from meanwhile. Files share their blocks where the file system can do that (reflink);
// elsewhere the data is copied and holes stay holes. copied, which may be nil, is told of the bytes that
// were copied. A crash leaves no checkpoint at to.
func Clone(ctx context.Context, from, to string, copied func(bytes int64)) error {
	return clone(ctx, from, to, copied, func(string) bool { return true })
}

// CloneObjects is Clone for the objects alone. What it makes is a set that has no volumes, and is good for no commit that
// has some.
func CloneObjects(ctx context.Context, from, to string, copied func(bytes int64)) error {
	return clone(ctx, from, to, copied, func(part string) bool { return part == journal.Objects })
}

func clone(ctx context.Context, from, to string, copied func(bytes int64), wanted func(part string) bool) error {
	cp, err := ReadCheckpoint(from)
	if err != nil {
		return fmt.Errorf("clone set %s: %w", from, err)
	}
	if err := (OS{}).MkdirAll(filepath.Join(to, volumesDir)); err != nil {
		return fmt.Errorf("clone set to %s: %w", to, err)
	}
	cp.Replica = uuid.NewString()
	maps.DeleteFunc(cp.Volumes, func(part string, _ Volume) bool { return !wanted(part) })
	for name, v := range cp.Volumes {
		if v.Seq == 0 {
			continue // blank: there is no replica yet
		}
		if name == journal.Objects {
			if err := cloneObjects(ctx, from, to, v.Log, copied); err != nil {
				return fmt.Errorf("clone objects: %w", err)
			}
			continue
		}
		source := VolumePath(from, name)
		if v.Device != "" {
			source = v.Device
		}
		target := VolumePath(to, name)
		if err := cloneFile(ctx, source, target, v.Size, copied); err != nil {
			return fmt.Errorf("clone volume %s: %w", name, err)
		}
		v.Device = ""
		cp.Volumes[name] = v
		id := identity{Replica: cp.Replica, Volume: name}
		if err := writeIdentity(OS{}, filepath.Join(to, volumesDir, name+".json"), id); err != nil {
			return fmt.Errorf("clone volume %s: %w", name, err)
		}
	}
	return writeCheckpoint(OS{}, to, &cp)
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
		if err := copyData(ctx, in, out, size, copied); err != nil {
			return err
		}
	}
	if err := out.Truncate(size); err != nil {
		return err
	}
	return out.Sync()
}

// copyData copies what is not a hole. A device that knows no holes is copied whole, zeros left out.
func copyData(ctx context.Context, in, out *os.File, size int64, copied func(int64)) error {
	buf := make([]byte, 1<<20)
	for off := int64(0); off < size; {
		data, err := unix.Seek(int(in.Fd()), off, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO):
			return nil // nothing but a hole is left
		case err != nil:
			data = off
		}
		if off = data; off >= size {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n, err := in.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
		if n == 0 && err != nil {
			return err
		}
		if !isZero(buf[:n]) {
			if _, err := out.WriteAt(buf[:n], off); err != nil {
				return err
			}
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
