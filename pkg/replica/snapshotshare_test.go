package replica_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

// sharingDisk mounts a file system whose files can share blocks, which needs root.
func sharingDisk(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("not run: a file system of its own needs root")
	}
	if _, err := exec.LookPath("mkfs.xfs"); err != nil {
		t.Skip("not run: mkfs.xfs is not here (xfsprogs)")
	}
	image, dir := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 320<<20)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "mkfs.xfs", "-q", "-m", "reflink=1", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.xfs: %v: %s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("not run: mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// [I] Where files can share blocks a snapshot does, and copies nothing.
func TestSnapshotShares(t *testing.T) {
	t.Parallel()
	disk := sharingDisk(t)
	seed := pickSeed(t)
	h, src := busy(t, seed, 16)
	set, err := replica.Open(filepath.Join(disk, "g"), replica.Options{Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	if spilt := checkSnapshots(t, set, h, src, filepath.Join(disk, "s"), seed); spilt > 0 {
		t.Errorf("%d chunks were copied", spilt)
	}
	snap := snapshot(t, set, filepath.Join(disk, "s"))
	if !snap.Shared("a") || !snap.Shared("b") {
		t.Error("no blocks are shared")
	}
	elsewhere := snapshot(t, set, t.TempDir())
	if elsewhere.Shared("a") {
		t.Error("blocks are shared over file systems")
	}
	if err := errors.Join(set.Close(), elsewhere.Close()); err != nil {
		t.Fatal(err)
	}
	if got, err := allOf(snap, "a"); err != nil || !bytes.Equal(got, h.States[15]["a"]) {
		t.Errorf("what shares blocks outlives the set: %v", err)
	}
	if err := snap.Close(); err != nil {
		t.Fatal(err)
	}
}

// What shares blocks takes room when the replicas go on: a full disk costs the snapshot, never the replicas' commit.
func TestSharedBlocksGiveWay(t *testing.T) {
	t.Parallel()
	disk := sharingDisk(t)
	h, src := replicatest.MemoryHistory("g", pickSeed(t))
	if err := h.Add("v", 64<<20, false); err != nil {
		t.Fatal(err)
	}
	h.Join("v")
	for round := range 4 {
		for off := int64(0); off < 64<<20; off += 256 << 10 {
			if err := h.Write("v", off, bytes.Repeat([]byte{byte(round + 1), byte(off >> 18)}, 128<<10)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := h.Commit(""); err != nil {
			t.Fatal(err)
		}
	}
	set := setAt(t, filepath.Join(disk, "g"), replica.Options{Group: "g"}, h, src, 0)
	snap := snapshot(t, set, filepath.Join(disk, "s"))
	if !snap.Shared("v") {
		t.Fatal("no blocks are shared")
	}
	var st unix.Statfs_t
	if err := unix.Statfs(disk, &st); err != nil {
		t.Fatal(err)
	}
	ballast, err := os.Create(filepath.Join(disk, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Fallocate(int(ballast.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-24<<20); err != nil {
		t.Fatal(err)
	}
	if err := ballast.Close(); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < 4; i++ {
		if err := set.Advance(t.Context(), src, h.Commits[i]); err != nil {
			t.Fatalf("commit %d: %v", i+1, err)
		}
	}
	wantLost(t, snap, "v")
	sameFiles(t, set, h.States[3])
	if err := set.Close(); err != nil {
		t.Fatal(err)
	}
}
