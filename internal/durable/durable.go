// Package durable is what keeping state in files needs beside the files: directories that are durable, and
// locks between processes.
package durable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// MkdirAll makes a directory and its parents, durably. One that exists is left alone.
func MkdirAll(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := MkdirAll(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return Sync(parent)
}

// Sync makes the content of a file durable, or the entries of a directory: files made or renamed in it.
func Sync(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	err = f.Sync()
	return errors.Join(err, f.Close())
}

// Lock locks a file until the result is closed or the process ends; it makes the file, and leaves it behind for
// whoever comes next. Several may share a lock. An error wraps taken where another process has it.
func Lock(name string, shared bool, taken error) (io.Closer, error) {
	how := unix.LOCK_EX
	if shared {
		how = unix.LOCK_SH
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = taken
		}
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}
