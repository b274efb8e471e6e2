package replica

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/farshore/farshore/internal/durable"
	"github.com/farshore/farshore/pkg/replica/objects"
)

// FS is what a Set needs of a file system for its own files, step by step, so that a test can fail
// or crash between any two. Paths are as filepath.Join makes them.
type FS interface {
	// MkdirAll makes a directory and its parents; each new entry is durable.
	MkdirAll(dir string) error
	// ReadFile returns a file's content; a missing file is fs.ErrNotExist.
	ReadFile(name string) ([]byte, error)
	// Write makes or truncates a file and writes data to it. Nothing is durable yet.
	Write(name string, data []byte) error
	// SyncFile makes a file's content durable.
	SyncFile(name string) error
	// Rename replaces newName by oldName, at once or, after a crash, not at all.
	Rename(oldName, newName string) error
	// SyncDir makes the entries of a directory durable: files made or renamed in it.
	SyncDir(dir string) error
	// Lock takes an exclusive lock that ends with the process, or fails with ErrLocked.
	Lock(name string) (io.Closer, error)

	// The objects' log.
	objects.FS
}

// OS is the real FS.
type OS struct{}

var _ FS = OS{}

// MkdirAll implements FS.
func (OS) MkdirAll(dir string) error { return durable.MkdirAll(dir) }

// ReadFile implements FS.
func (OS) ReadFile(name string) ([]byte, error) { return os.ReadFile(name) }

// Write implements FS.
func (OS) Write(name string, data []byte) error { return os.WriteFile(name, data, 0o640) }

// SyncFile implements FS.
func (OS) SyncFile(name string) error { return durable.Sync(name) }

// Rename implements FS.
func (OS) Rename(oldName, newName string) error { return os.Rename(oldName, newName) }

// SyncDir implements FS.
func (OS) SyncDir(dir string) error { return durable.Sync(dir) }

// List implements FS.
func (OS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// OpenLog implements FS.
func (OS) OpenLog(name string, blank bool) (objects.File, error) {
	flags := os.O_RDWR
	if blank {
		flags |= os.O_CREATE | os.O_TRUNC
	}
	return os.OpenFile(name, flags, 0o640)
}

// Remove implements FS.
func (OS) Remove(name string) error { return os.Remove(name) }

// Lock implements FS.
func (OS) Lock(name string) (io.Closer, error) { return durable.Lock(name, false, ErrLocked) }

// replaceFile makes name hold data, durably: a crash leaves the old content or the new one.
func replaceFile(fsys FS, name string, data []byte) error {
	tmp := name + ".tmp"
	if err := fsys.Write(tmp, data); err != nil {
		return fmt.Errorf("write %s: %w", tmp, err)
	}
	if err := fsys.SyncFile(tmp); err != nil {
		return fmt.Errorf("sync %s: %w", tmp, err)
	}
	if err := fsys.Rename(tmp, name); err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	if err := fsys.SyncDir(filepath.Dir(name)); err != nil {
		return fmt.Errorf("sync directory of %s: %w", name, err)
	}
	return nil
}
