package cdc_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/farshore/farshore/pkg/cdc"
)

// directories are where device tests run: on the test's own file system, and on tmpfs, which lacks ZERO_RANGE.
func directories(t *testing.T) map[string]string {
	dirs := map[string]string{"temporary directory": t.TempDir()}
	var info syscall.Statfs_t
	const tmpfs = 0x01021994
	if err := syscall.Statfs("/dev/shm", &info); err == nil && info.Type == tmpfs {
		dir, err := os.MkdirTemp("/dev/shm", "farshore-cdc-")
		must(t, err)
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		dirs["tmpfs"] = dir
	}
	return dirs
}

// A file does what a model does, whatever the file system can do by itself.
func TestFileAgainstModel(t *testing.T) {
	for name, dir := range directories(t) {
		t.Run(name, func(t *testing.T) {
			const size = 1<<20 + 512
			path := filepath.Join(dir, "model.img")
			d, err := cdc.OpenFile(path, size)
			must(t, err)
			defer d.Close()
			rnd := random(t)
			model := make([]byte, size)
			for range 400 {
				off := rnd.Int64N(size)
				n := 1 + rnd.Int64N(min(100<<10, size-off))
				if rnd.IntN(2) == 0 {
					off, n = off/512*512, max(512, n/512*512)
				}
				n = min(n, size-off)
				switch rnd.IntN(4) {
				case 0:
					must(t, d.Trim(off, n))
					clear(model[off : off+n])
				case 1:
					must(t, d.Zero(off, n, rnd.IntN(2) == 0))
					clear(model[off : off+n])
				default:
					_, err := d.WriteAt(noise(rnd, int(n)), off)
					must(t, err)
					_, err = d.ReadAt(model[off:off+n], off)
					must(t, err)
				}
				checkSegments(t, d, model, off, n)
			}
			must(t, d.Flush())
			got, err := os.ReadFile(path)
			must(t, err)
			if !bytes.Equal(got, model) {
				t.Error("file and model differ")
			}
			checkSegments(t, d, model, 0, size)
		})
	}
}

// checkSegments: in order, without gaps, and zero where it says so.
func checkSegments(t *testing.T, d cdc.Device, model []byte, off, length int64) {
	t.Helper()
	segments, err := d.Segments(off, length)
	must(t, err)
	next := off
	for _, s := range segments {
		if s.Offset != next || s.Length <= 0 || s.Hole && !s.Zero {
			t.Fatalf("segments %+v of %d bytes at %d", segments, length, off)
		}
		if s.Zero && !bytes.Equal(model[s.Offset:s.Offset+s.Length], make([]byte, s.Length)) {
			t.Fatalf("%+v isn't zero", s)
		}
		next += s.Length
	}
	if next != off+length {
		t.Fatalf("segments %+v of %d bytes at %d", segments, length, off)
	}
}

// Trimming gives space back, and zeroing without a hole keeps it.
func TestFileSpace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.img")
	d, err := cdc.OpenFile(path, 8<<20)
	must(t, err)
	defer d.Close()
	blocks := func() int64 {
		must(t, d.Flush())
		info, err := os.Stat(path)
		must(t, err)
		return info.Sys().(*syscall.Stat_t).Blocks * 512
	}
	if n := blocks(); n > 1<<20 {
		t.Errorf("a new file takes %d bytes", n)
	}
	must(t, writeAll(d, pattern(8<<20, 1)))
	must(t, d.Zero(0, 4<<20, false))
	if n := blocks(); n < 8<<20 {
		t.Errorf("zeroing without a hole left %d bytes", n)
	}
	must(t, d.Trim(0, 6<<20))
	if n := blocks(); n > 3<<20 {
		t.Errorf("trimming left %d bytes", n)
	}
}

func TestOpenFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "v.img")
	d, err := cdc.OpenFile(path, 1<<20)
	must(t, err)
	if d.Size() != 1<<20 || d.BlockSize() != 512 {
		t.Errorf("size %d, block size %d", d.Size(), d.BlockSize())
	}
	_, err = cdc.OpenFile(path, 1<<20)
	wantIs(t, "second open", err, cdc.ErrLocked)
	must(t, d.Close())
	d, err = cdc.OpenFile(path, 0) // the size it has
	must(t, err)
	if d.Size() != 1<<20 {
		t.Errorf("size %d", d.Size())
	}
	must(t, d.Close())

	odd := filepath.Join(dir, "odd")
	must(t, os.WriteFile(odd, make([]byte, 1000), 0o600))
	_, err = cdc.OpenFile(filepath.Join(dir, "missing"), 0)
	wantIs(t, "missing, without a size", err, fs.ErrNotExist)
	for what, open := range map[string]func() (cdc.Device, error){
		"another size":   func() (cdc.Device, error) { return cdc.OpenFile(path, 2<<20) },
		"odd size":       func() (cdc.Device, error) { return cdc.OpenFile(odd, 0) },
		"odd size asked": func() (cdc.Device, error) { return cdc.OpenFile(filepath.Join(dir, "new"), 1000) },
		"directory":      func() (cdc.Device, error) { return cdc.OpenFile(dir, 1<<20) },
		"not a disk":     func() (cdc.Device, error) { return cdc.OpenFile("/dev/null", 1<<20) },
	} {
		if d, err := open(); err == nil {
			t.Errorf("%s: opened", what)
			_ = d.Close()
		}
	}
	// A file that became shorter is an error, not zeros.
	d, err = cdc.OpenFile(path, 0)
	must(t, err)
	defer d.Close()
	must(t, os.Truncate(path, 4096))
	if _, err := d.ReadAt(make([]byte, 4096), 8192); err == nil {
		t.Error("read beyond the end of a file that became shorter")
	}
}

// A loop device, where the test may make one: block devices take the same calls.
func TestBlockDevice(t *testing.T) {
	backing := filepath.Join(t.TempDir(), "backing.img")
	must(t, os.WriteFile(backing, nil, 0o600))
	must(t, os.Truncate(backing, 4<<20))
	out, err := exec.Command("losetup", "--find", "--show", backing).CombinedOutput()
	if err != nil {
		t.Logf("NOT RUN: needs losetup and the right to make loop devices: %v: %s", err, out)
		return
	}
	path := string(bytes.TrimSpace(out))
	defer func() {
		if out, err := exec.Command("losetup", "--detach", path).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}()
	d, err := cdc.OpenFile(path, 0)
	must(t, err)
	defer d.Close()
	if d.Size() != 4<<20 {
		t.Errorf("size %d", d.Size())
	}
	_, err = cdc.OpenFile(path, 0)
	wantIs(t, "second open", err, cdc.ErrLocked)
	rnd := rand.New(rand.NewPCG(1, 1))
	model := noise(rnd, 4<<20)
	must(t, writeAll(d, model))
	for i, r := range []struct{ off, n int64 }{{0, 4096}, {5000, 100}, {10000, 20000}, {1 << 20, 1 << 20}, {3<<20 + 512, 1024}} {
		if i%2 == 0 {
			must(t, d.Trim(r.off, r.n))
		} else {
			must(t, d.Zero(r.off, r.n, false))
		}
		clear(model[r.off : r.off+r.n])
	}
	must(t, d.Flush())
	got := make([]byte, 4<<20)
	_, err = d.ReadAt(got, 0)
	must(t, err)
	if !bytes.Equal(got, model) {
		t.Error("block device and model differ")
	}
}

// [I] A mutation build drops writes, so that a suite can prove that it notices; a normal one never does.
func TestMutationBuildIsNoticed(t *testing.T) {
	if os.Getenv("FARSHORE_DROP_ONE_IN") != "" {
		t.Log("this is the mutation build: the other tests are what it is for")
		return
	}
	if testing.Short() {
		t.Log("NOT RUN with -short: builds the package again")
		return
	}
	cmd := exec.Command("go", "test", "-count=1", "-tags=mutation", "-run=^TestJournalEqualsDeviceUnderRandomLoad$", ".")
	cmd.Env = append(os.Environ(), "FARSHORE_DROP_ONE_IN="+strconv.Itoa(500))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !bytes.Contains(out, []byte("journal and device differ")) {
		t.Errorf("with one write in 500 dropped: %v\n%s", err, out)
	}
}
