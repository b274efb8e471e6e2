package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// mounted mounts the file system in an image until the test ends, or unmount is called. Where that is not possible the test is skipped.
func mounted(t *testing.T, image string) (dir string, unmount func()) {
	t.Helper()
	dir = t.TempDir()
	// Nothing becomes durable by itself while the test runs.
	if out, err := exec.Command("mount", "-o", "loop,commit=600", image, dir).CombinedOutput(); err != nil {
		t.Skipf("a power cut can't be played: mount a file system from a file: %v: %s", err, out)
	}
	gone := false
	unmount = func() {
		if gone {
			return
		}
		gone = true
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("unmount %s: %v: %s", dir, err, out)
		}
	}
	t.Cleanup(unmount)
	return dir, unmount
}

func copyDisk(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
}

// The power fails right after an operation returned: what is on the disk then, mounted on another machine, is the store with that operation and
// all before it, and nothing else. The disk is a file, of which a copy is what was written to it and not what the kernel holds back.
func TestDirPowerCut(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a power cut can't be played: only root may mount")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("a power cut can't be played: mkfs.ext4 is missing (Debian: e2fsprogs)")
	}
	const size = 48 << 20
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	scratch := t.TempDir()
	disk := filepath.Join(scratch, "disk")
	if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, size)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", disk).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	dir, _ := mounted(t, disk)
	d := openDir(t, filepath.Join(dir, "a", "b"))
	model := make(map[string][]byte)
	for i := range 16 {
		name := fmt.Sprintf("packs/%02x/%d", random.IntN(3), random.IntN(4))
		what := "put " + name
		if data := model[name]; data != nil && random.IntN(2) == 0 {
			what = "delete " + name
			if err := d.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			delete(model, name)
		} else {
			data = bytes.Repeat([]byte{byte(i + 1)}, 1+random.IntN(300<<10))
			if err := d.Put(t.Context(), name, data); err != nil {
				t.Fatal(err)
			}
			model[name] = data
		}
		after := filepath.Join(scratch, "after")
		copyDisk(t, disk, after)
		survived(t, what, after, model)
		if t.Failed() {
			return
		}
	}
}

// survived compares the store on a disk with what should be there.
func survived(t *testing.T, what, disk string, model map[string][]byte) {
	t.Helper()
	dir, unmount := mounted(t, disk)
	defer unmount()
	d := openDir(t, filepath.Join(dir, "a", "b"))
	n := 0
	for info, err := range d.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		n++
		if model[info.Name] == nil {
			t.Errorf("power cut after %s: %s is there", what, info.Name)
		}
	}
	for name, want := range model {
		if got, err := d.Get(t.Context(), name, 0, -1); err != nil || !bytes.Equal(got, want) {
			t.Errorf("power cut after %s: of %s there are %d bytes, want %d; error %v", what, name, len(got), len(want), err)
		}
	}
	if n != len(model) {
		t.Errorf("power cut after %s: %d objects are listed, want %d", what, n, len(model))
	}
}
