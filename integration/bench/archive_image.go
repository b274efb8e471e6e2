package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// makeImage makes a volume as databases have them: of each MiB a fifth was never written, a half is rows that compress
// to less than half, the rest doesn't compress.
func makeImage(ctx context.Context, path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(3, 5))
	noise := rand.NewChaCha8([32]byte{3})
	b := make([]byte, 1<<20)
	for off := int64(0); off < size && ctx.Err() == nil; off += int64(len(b)) {
		b = b[:min(int64(len(b)), size-off)]
		switch n := random.IntN(10); {
		case n < 2:
			continue
		case n < 7:
			fillRows(b, noise)
		default:
			_, _ = noise.Read(b) // never fails
		}
		if _, err := f.WriteAt(b, off); err != nil {
			return err
		}
	}
	return errors.Join(ctx.Err(), f.Sync())
}

// fillRows fills b with rows of 64 bytes, a third of which is unlike everything else.
func fillRows(b []byte, noise *rand.ChaCha8) {
	const row = "customer=           balance=         status=open currency=EUR   "
	for at := 0; at+len(row) <= len(b); at += len(row) {
		copy(b[at:], row)
		_, _ = noise.Read(b[at+9 : at+20])
		_, _ = noise.Read(b[at+28 : at+37])
	}
}

// changeImage overwrites so many bytes of an image, in ranges of a length at random places, and notes where. It returns what puts
// everything back.
func changeImage(path string, size, changed int64, length int, seed uint64, note string) (undo func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	random, noise := rand.New(rand.NewPCG(seed, uint64(length))), rand.NewChaCha8([32]byte{byte(seed)})
	length = length / 4096 * 4096
	var ranges [][2]int64
	var old [][]byte
	b := make([]byte, length)
	for n := int64(0); n < changed; n += int64(length) {
		off := random.Int64N((size-int64(length))/4096) * 4096
		was := make([]byte, length)
		if _, err := f.ReadAt(was, off); err != nil {
			return nil, err
		}
		if random.IntN(2) == 0 {
			fillRows(b, noise)
		} else {
			_, _ = noise.Read(b)
		}
		if _, err := f.WriteAt(b, off); err != nil {
			return nil, err
		}
		ranges, old = append(ranges, [2]int64{off, int64(length)}), append(old, was)
	}
	raw, err := json.Marshal(ranges)
	if err == nil {
		err = os.WriteFile(note, raw, 0o600)
	}
	if err == nil {
		err = f.Sync()
	}
	return func() error {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		for i := len(ranges) - 1; i >= 0; i-- {
			if _, err := f.WriteAt(old[i], ranges[i][0]); err != nil {
				return err
			}
		}
		return f.Sync()
	}, err
}

// warm reads a file, or all files of a folder, into the page cache, after everything that was written before is on the disk.
func warm(path string) error {
	unix.Sync()
	return filepath.WalkDir(path, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(io.Discard, struct{ io.Reader }{f})
		return err
	})
}

// linkFolder makes a folder whose files are those of another one, of which none is ever changed, except for the caches, which are copied.
func linkFolder(to, from string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		switch {
		case e.IsDir():
			return os.MkdirAll(target, 0o700)
		case len(relative) > 5 && relative[:5] == "cache":
			info, err := e.Info()
			if err != nil {
				return err
			}
			return copyFile(target, path, info.Size())
		}
		return os.Link(path, target)
	})
}

// copyFile copies the beginning of a file, and leaves holes where there is nothing.
func copyFile(to, from string, size int64) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	b, zeros := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(b)) {
		n, err := in.ReadAt(b[:min(int64(len(b)), size-off)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if bytes.Equal(b[:n], zeros[:n]) {
			continue
		}
		if _, err := out.WriteAt(b[:n], off); err != nil {
			return err
		}
	}
	return out.Truncate(size)
}

func folderSize(path string) (n int64, err error) {
	err = filepath.WalkDir(path, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}

// restoredFile is the one file that is in a folder, however deep, or the file itself.
func restoredFile(path string) (found string, err error) {
	err = filepath.WalkDir(path, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			found = path
		}
		return err
	})
	if err == nil && found == "" {
		err = fmt.Errorf("there is no file in %s", path)
	}
	return found, err
}

// syncTree makes what was restored durable.
func syncTree(path string) error {
	name, err := restoredFile(path)
	if err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// sameContent compares an image with what was restored of it.
func sameContent(image, restored string) error {
	name, err := restoredFile(restored)
	if err != nil {
		return err
	}
	a, err := os.Open(image)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(name)
	if err != nil {
		return err
	}
	defer b.Close()
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); ; off += int64(len(x)) {
		n, err := a.ReadAt(x, off)
		k, other := b.ReadAt(y, off)
		if n != k || !bytes.Equal(x[:n], y[:k]) {
			return fmt.Errorf("it differs in the MiB at %d", off)
		}
		if err != nil || other != nil {
			if errors.Is(err, io.EOF) && errors.Is(other, io.EOF) {
				return nil
			}
			return errors.Join(err, other)
		}
	}
}
