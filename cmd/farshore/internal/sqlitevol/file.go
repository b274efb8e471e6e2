package sqlitevol

import (
	"fmt"
	"os"
)

// File is a Device on a plain file, such as a recovered volume.
type File struct {
	f    *os.File
	size int64
}

// OpenFile opens the volume in the file at path.
func OpenFile(path string) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open volume: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open volume: %w", err)
	}
	return &File{f, info.Size()}, nil
}

// ReadAt implements Device.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

// WriteAt implements Device. It refuses to grow the file.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.size {
		return 0, fmt.Errorf("write of %d bytes at %d leaves the volume", len(p), off)
	}
	return f.f.WriteAt(p, off)
}

// Flush implements Device.
func (f *File) Flush() error { return f.f.Sync() }

// Size implements Device.
func (f *File) Size() int64 { return f.size }

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }
