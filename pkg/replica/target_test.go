package replica_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

func TestFileTarget(t *testing.T) {
	replicatest.Run(t, func(t *testing.T, size, _ int64) replica.Target {
		target, err := replica.OpenFile(filepath.Join(t.TempDir(), "v.img"), size, true)
		if err != nil {
			t.Fatal(err)
		}
		return target
	})
}

func TestMachineTarget(t *testing.T) {
	replicatest.Run(t, func(t *testing.T, size, _ int64) replica.Target {
		target, err := replicatest.NewMachine(1).OpenTarget(replica.TargetSpec{Volume: "v", Path: "v", Size: size, Blank: true})
		if err != nil {
			t.Fatal(err)
		}
		return target
	})
}

func TestDeviceTarget(t *testing.T) {
	replicatest.Run(t, func(t *testing.T, size, grow int64) replica.Target {
		target, err := replica.OpenDevice(loopDevice(t, grow), size)
		if err != nil {
			t.Fatal(err)
		}
		return target
	})
}

// loopDevice makes a block device of its own, which needs root.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	device, _ := growingDevice(t, size)
	return device
}

// growingDevice is loopDevice, and how to make it larger.
func growingDevice(t *testing.T, size int64) (device string, grow func(size int64)) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("not run: a loop device needs root")
	}
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "losetup", "--find", "--show", path).CombinedOutput()
	if err != nil {
		t.Skipf("not run: losetup: %v: %s", err, out)
	}
	device = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %v: %s", device, err, out)
		}
	})
	return device, func(size int64) {
		t.Helper()
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), "losetup", "--set-capacity", device).CombinedOutput(); err != nil {
			t.Fatalf("losetup --set-capacity %s: %v: %s", device, err, out)
		}
	}
}

func TestDeviceIsOpenedOnce(t *testing.T) {
	device := loopDevice(t, 1<<20)
	first, err := replica.OpenDevice(device, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close() }()
	if second, err := replica.OpenDevice(device, 1<<20); !errors.Is(err, unix.EBUSY) {
		t.Errorf("opened twice: %v, %v", second, err)
	}
	if _, err := replica.OpenDevice(filepath.Join(t.TempDir(), "none"), 1); err == nil {
		t.Error("opened a device that isn't there")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := replica.OpenDevice(file, 4096); !errors.Is(err, replica.ErrForeign) {
		t.Errorf("a file was opened as a device: %v", err)
	}
}

// Trimmed and zeroed ranges give their space back, and reserving takes it before anything is written.
func TestFileStaysSparse(t *testing.T) {
	const size = 64 << 20
	path := filepath.Join(t.TempDir(), "v.img")
	target, err := replica.OpenFile(path, size, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = target.Close() }()
	blocks := func() int64 {
		t.Helper()
		if err := target.Sync(); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	if n := blocks(); n > 64<<10 {
		t.Errorf("a blank volume takes %d bytes", n)
	}
	if err := target.Zero(0, size); err != nil {
		t.Fatal(err)
	}
	if n := blocks(); n > 64<<10 {
		t.Errorf("a zeroed volume takes %d bytes", n)
	}
	if err := target.Reserve([]replica.Extent{{Offset: 8 << 20, Length: 4 << 20}}); err != nil {
		t.Fatal(err)
	}
	if n := blocks(); n < 4<<20 {
		t.Errorf("4 MiB are reserved, %d bytes are taken", n)
	}
	if _, err := target.WriteAt(make([]byte, 4<<20), 8<<20); err != nil {
		t.Fatal(err)
	}
	if err := target.Trim(9<<20, 2<<20); err != nil {
		t.Fatal(err)
	}
	if n := blocks(); n < 2<<20 || n > 2<<20+256<<10 {
		t.Errorf("2 MiB are left, %d bytes are taken", n)
	}
	if err := target.Reserve([]replica.Extent{{Offset: 9 << 20, Length: 1 << 20}}); err != nil {
		t.Fatal(err)
	}
	if n := blocks(); n < 3<<20 {
		t.Errorf("reserving what was trimmed before takes %d bytes in all, want 3 MiB", n)
	}
}

// smallDisk mounts a file system of its own, which needs root.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("not run: a small file system of its own needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("not run: mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

func TestFullDiskIsFoundByReserve(t *testing.T) {
	target, err := replica.OpenFile(filepath.Join(smallDisk(t, "1m"), "v.img"), 8<<20, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = target.Close() }()
	if err := target.Reserve([]replica.Extent{{Offset: 0, Length: 2 << 20}}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("reserved more than there is: %v", err)
	}
	if err := target.Reserve([]replica.Extent{{Offset: 4 << 20, Length: 512 << 10}}); err != nil {
		t.Fatal(err)
	}
}
