package activity

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/farshore/farshore/internal/durable"
)

// FS is what a log needs of a file system, step by step, so that a test can fail or crash between any
// two. Paths are as filepath.Join makes them.
type FS interface {
	// MkdirAll makes a directory and its parents; each new entry is durable.
	MkdirAll(dir string) error
	// ReadFile returns a file's content; a missing file is fs.ErrNotExist.
	ReadFile(name string) ([]byte, error)
	// Create makes or truncates a file.
	Create(name string) (File, error)
	// Rename replaces newName by oldName, at once or, after a crash, not at all.
	Rename(oldName, newName string) error
	// SyncDir makes the entries of a directory durable: files made or renamed in it.
	SyncDir(dir string) error
	// Lock takes an exclusive lock that ends with the process, or fails with ErrLocked.
	Lock(name string) (io.Closer, error)
}

// File is a file that is written. Calls are never concurrent.
type File interface {
	// WriteAt writes p at off. Nothing is durable yet; after a crash each aligned sector of 512 bytes holds
	// what it held before, or what was written.
	WriteAt(p []byte, off int64) (int, error)
	// Sync makes everything that was written durable. After an error nothing is known of what wasn't yet.
	Sync() error
	Close() error
}

// ErrLocked means that another process has the log open.
var ErrLocked = errors.New("another process has it open")

// OS is the real FS.
type OS struct{}

var _ FS = OS{}

// MkdirAll implements FS.
func (OS) MkdirAll(dir string) error { return durable.MkdirAll(dir) }

// ReadFile implements FS.
func (OS) ReadFile(name string) ([]byte, error) { return os.ReadFile(name) }

// Create implements FS.
func (OS) Create(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Rename implements FS.
func (OS) Rename(oldName, newName string) error { return os.Rename(oldName, newName) }

// SyncDir implements FS.
func (OS) SyncDir(dir string) error { return durable.Sync(dir) }

// Lock implements FS.
func (OS) Lock(name string) (io.Closer, error) { return durable.Lock(name, false, ErrLocked) }

type osFile struct{ *os.File }

// Sync implements File. The file has its length and its blocks already, so that its data is all there is
// to make durable.
func (f osFile) Sync() error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR { //nolint:errorlint // an errno as it is
			return err
		}
	}
}
