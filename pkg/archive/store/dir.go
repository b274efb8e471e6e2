package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/farshore/farshore/internal/durable"
)

const (
	// unfinished is where a Dir writes objects before they get their names; it can't be the name of an object.
	unfinished = ".unfinished"
	// abandoned is the age at which an unfinished object is one whose writer died.
	abandoned = 24 * time.Hour
)

// Dir is a store in a directory: objects are files. It may be shared by processes, and by machines as far as its file system
// keeps what rename and fsync promise.
type Dir struct {
	root string

	mu   sync.Mutex
	made map[string]bool // directories whose way from the root is durable
}

// NewDir returns the store in a directory, which is made when the first object is put.
func NewDir(root string) (*Dir, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	return &Dir{root: root, made: make(map[string]bool)}, nil
}

// String implements Store.
func (d *Dir) String() string { return d.root }

// Put implements Store: it writes a file, makes it durable, and gives it its name.
func (d *Dir) Put(ctx context.Context, name string, data []byte) error {
	if err := ValidName(name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	path := filepath.Join(d.root, name)
	if err := errors.Join(d.makeDir(filepath.Join(d.root, unfinished)), d.makeDir(filepath.Dir(path))); err != nil {
		return d.failed("store", name, err)
	}
	if err := d.write(path, data); err != nil {
		return d.failed("store", name, err)
	}
	return nil
}

func (d *Dir) write(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Join(d.root, unfinished), "*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return durable.Sync(filepath.Dir(path))
}

// makeDir makes a directory and all above it durable once: that one is there doesn't say that whoever made it got as far as that.
func (d *Dir) makeDir(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for dir != filepath.Dir(d.root) && !d.made[dir] {
		if err := durable.MkdirAll(dir); err != nil {
			return err
		}
		if err := durable.Sync(filepath.Dir(dir)); err != nil {
			return err
		}
		if filepath.Base(dir) == unfinished {
			removeAbandoned(dir)
		}
		d.made[dir] = true
		dir = filepath.Dir(dir)
	}
	return nil
}

// removeAbandoned removes what writers that died left. What can't be removed costs room and nothing else.
func removeAbandoned(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > abandoned {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// Get implements Store.
func (d *Dir) Get(ctx context.Context, name string, off, length int64) ([]byte, error) {
	if err := ValidName(name); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	f, err := os.Open(filepath.Join(d.root, name))
	if err != nil {
		return nil, d.failed("read", name, err)
	}
	defer f.Close() // nothing was written
	info, err := f.Stat()
	if err != nil {
		return nil, d.failed("read", name, err)
	}
	if info.IsDir() {
		return nil, d.failed("read", name, fs.ErrNotExist)
	}
	if length < 0 {
		length = info.Size() - off
	}
	if off < 0 || off > info.Size() || length > info.Size()-off {
		return nil, d.failed("read", name, short(info.Size(), off, length))
	}
	data := make([]byte, length)
	if _, err := f.ReadAt(data, off); err != nil && length > 0 {
		if errors.Is(err, io.EOF) {
			err = short(info.Size(), off, length)
		}
		return nil, d.failed("read", name, err)
	}
	return data, nil
}

// short is the error of an object of size bytes that was asked for more.
func short(size, off, length int64) error {
	return fmt.Errorf("%w: %d bytes from %d on were asked for, and it has %d", ErrShort, max(0, length), off, size)
}

// List implements Store. Files that can't be objects are not told.
func (d *Dir) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		err := d.walk(ctx, "", prefix, func(info Info) bool { return yield(info, nil) })
		if err != nil && !errors.Is(err, errEnough) {
			yield(Info{}, d.failed("list", prefix, err))
		}
	}
}

// errEnough says that whoever listed wants no more.
var errEnough = errors.New("enough")

// walk lists what is below a directory; its name, relative to the root, ends with '/' or is empty.
func (d *Dir) walk(ctx context.Context, dir, prefix string, tell func(Info) bool) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	entries, err := os.ReadDir(filepath.Join(d.root, dir))
	if err != nil {
		return ignoreGone(err)
	}
	key := func(e fs.DirEntry) string {
		if e.IsDir() {
			return e.Name() + "/" // its objects come where this does, behind a file "name-" and "name."
		}
		return e.Name()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(key(a), key(b)) })
	for _, e := range entries {
		name := dir + key(e)
		if !validPart(e.Name()) || !strings.HasPrefix(name, prefix) && !strings.HasPrefix(prefix, name) {
			continue
		}
		if e.IsDir() {
			if err := d.walk(ctx, name, prefix, tell); err != nil {
				return err
			}
			continue
		}
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			if err = ignoreGone(err); err != nil {
				return err
			}
			continue
		}
		if info.Mode().IsRegular() && !tell(Info{Name: name, Size: info.Size(), Modified: info.ModTime()}) {
			return errEnough
		}
	}
	return nil
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Delete implements Store.
func (d *Dir) Delete(ctx context.Context, name string) error {
	if err := ValidName(name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	path := filepath.Join(d.root, name)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		return d.failed("delete", name, err)
	}
	// Also where it was gone already: whoever deleted it may have died before that was durable.
	if err := durable.Sync(filepath.Dir(path)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		return d.failed("delete", name, err)
	}
	return nil
}

// failed says what was done to which object, and what an error of the file system means.
func (d *Dir) failed(verb, name string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		if verb == "read" {
			return fmt.Errorf("read %s in %s: %w", name, d.root, ErrNotFound)
		}
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%s %s in %s: %w: let this user read and write the directory: %w", verb, name, d.root, ErrDenied, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%s %s in %s: %w: make room there, or keep fewer points", verb, name, d.root, err)
	}
	return fmt.Errorf("%s %s in %s: %w", verb, name, d.root, err)
}
