package replica_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

// setAt opens a set and advances it to a commit.
func setAt(t *testing.T, dir string, o replica.Options, h *replicatest.History, src replica.Source, commit int) *replica.Set {
	t.Helper()
	set, err := replica.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = set.Close() })
	if err := set.Advance(t.Context(), src, h.Commits[commit]); err != nil {
		t.Fatal(err)
	}
	return set
}

func snapshot(t *testing.T, set *replica.Set, dir string) *replica.Snapshot {
	t.Helper()
	snap, err := set.Snapshot(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = snap.Close() })
	return snap
}

// allOf reads a part of a snapshot.
func allOf(snap *replica.Snapshot, part string) ([]byte, error) {
	image, size, err := snap.Image(part)
	if err != nil {
		return nil, err
	}
	got := make([]byte, size)
	n, err := image.ReadAt(got, 0)
	if errors.Is(err, io.EOF) && n == len(got) {
		err = nil
	}
	return got, err
}

func wantLost(t *testing.T, snap *replica.Snapshot, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if _, err := allOf(snap, part); !errors.Is(err, replica.ErrSnapshotLost) {
			t.Errorf("%s of a snapshot that was lost: %v", part, err)
		}
	}
}

// simulated has its replicas on a machine, which shares no blocks.
func simulated(m *replicatest.Machine) replica.Options {
	return replica.Options{Group: "g", OpenTarget: m.OpenTarget}
}

// [I] A snapshot whose replica is begun anew, closed, or can't be kept for want of room is lost as a whole, and the set goes on.
func TestSnapshotLost(t *testing.T) {
	t.Parallel()
	h, src := busy(t, pickSeed(t), 6)
	if err := errors.Join(h.Renew("a", nil), h.Frame("a", 8)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Commit(""); err != nil {
		t.Fatal(err)
	}
	t.Run("anew", func(t *testing.T) {
		m := replicatest.NewMachine(1)
		set := setAt(t, t.TempDir(), simulated(m), h, src, 5)
		snap, done := snapshot(t, set, t.TempDir()), snapshot(t, set, t.TempDir())
		done.Only("a", grid.New(0))
		if _, err := allOf(snap, "b"); err != nil {
			t.Fatal(err)
		}
		image, _, err := snap.Image("a")
		if err != nil {
			t.Fatal(err)
		}
		if err := set.Advance(t.Context(), src, h.Commits[6]); err != nil {
			t.Fatal(err)
		}
		if _, err := image.ReadAt(make([]byte, grid.Chunk), 0); !errors.Is(err, replica.ErrSnapshotLost) {
			t.Errorf("a replica that was begun anew: %v", err)
		}
		wantLost(t, snap, "a", "b", journal.Objects)
		if got, err := allOf(done, "b"); err != nil || !bytes.Equal(got, h.States[5]["b"]) {
			t.Errorf("a snapshot that wanted nothing of the replica that was begun anew: %v", err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		set := setAt(t, t.TempDir(), simulated(replicatest.NewMachine(1)), h, src, 3)
		snap := snapshot(t, set, t.TempDir())
		if err := set.Close(); err != nil {
			t.Fatal(err)
		}
		wantLost(t, snap, "a", "b", journal.Objects)
	})
	t.Run("elsewhere", func(t *testing.T) {
		set := setAt(t, t.TempDir(), simulated(replicatest.NewMachine(1)), h, src, 3)
		snap := snapshot(t, set, t.TempDir())
		image, _, err := snap.Image("a")
		if err != nil {
			t.Fatal(err)
		}
		snap.MarkLost()
		if _, err := image.ReadAt(make([]byte, 5), 0); !errors.Is(err, replica.ErrSnapshotLost) {
			t.Errorf("read what is lost: %v", err)
		}
	})
	t.Run("full", func(t *testing.T) {
		set := setAt(t, t.TempDir(), simulated(replicatest.NewMachine(1)), h, src, 2)
		snap := snapshot(t, set, filepath.Join(smallDisk(t, "512k"), "s"))
		if got, err := allOf(snap, "b"); err != nil || !bytes.Equal(got, h.States[2]["b"]) {
			t.Fatalf("before: %v", err)
		}
		for i := 3; i < 6; i++ {
			if err := set.Advance(t.Context(), src, h.Commits[i]); err != nil {
				t.Fatal(err)
			}
		}
		wantLost(t, snap, "a", "b", journal.Objects)
		again := snapshot(t, set, t.TempDir())
		if got, err := allOf(again, "a"); err != nil || !bytes.Equal(got, h.States[5]["a"]) {
			t.Errorf("the next one: %v", err)
		}
	})
}

// [I] What snapshots keep never stops the replicas for want of room: they are given up, and the same attempt goes on.
func TestSnapshotGivesWay(t *testing.T) {
	t.Parallel()
	h, src := replicatest.MemoryHistory("g", pickSeed(t))
	if err := errors.Join(h.Add("v", 8<<20, false), h.Write("v", 0, bytes.Repeat([]byte{1}, 256<<10)), h.Write("v", 3<<20, bytes.Repeat([]byte{2}, 256<<10))); err != nil {
		t.Fatal(err)
	}
	h.Join("v")
	if _, err := h.Commit(""); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(h.Write("v", 0, bytes.Repeat([]byte{3}, 256<<10)), h.Write("v", 3<<20, bytes.Repeat([]byte{4}, 256<<10))); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Commit(""); err != nil { // what it overwrites is kept
		t.Fatal(err)
	}
	if err := errors.Join(h.Write("v", 5<<20, bytes.Repeat([]byte{5}, 256<<10)), h.Write("v", 6<<20, bytes.Repeat([]byte{6}, 256<<10))); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Commit(""); err != nil { // takes that room
		t.Fatal(err)
	}
	disk := smallDisk(t, "1200k")
	set := setAt(t, filepath.Join(disk, "g"), replica.Options{Group: "g"}, h, src, 0)
	snap := snapshot(t, set, filepath.Join(disk, "s"))
	if err := set.Advance(t.Context(), src, h.Commits[1]); err != nil {
		t.Fatal(err)
	}
	if n := snap.Spilt("v"); n != 8 {
		t.Fatalf("%d chunks are kept, want 8", n)
	}
	if err := set.Advance(t.Context(), src, h.Commits[2]); err != nil {
		t.Errorf("the snapshot was in the way: %v", err)
	}
	wantLost(t, snap, "v")
	sameFiles(t, set, h.States[2])
}

// A chunk that was read whole, or is not wanted, is not given again: it may not be what it was.
func TestSnapshotIsReadOnce(t *testing.T) {
	t.Parallel()
	h, src := busy(t, pickSeed(t), 8)
	set := setAt(t, t.TempDir(), simulated(replicatest.NewMachine(1)), h, src, 1)
	snap := snapshot(t, set, t.TempDir())
	some := grid.Full(int64(len(h.States[1]["b"])))
	some.Remove(3)
	some.Remove(7)
	snap.Only("b", some)
	image, size, err := snap.Image("b")
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, size)
	check := func(off, length int64, refused bool) {
		t.Helper()
		_, err := image.ReadAt(buf[:length], off)
		if refused != (err != nil) || errors.Is(err, replica.ErrSnapshotLost) {
			t.Fatalf("%d bytes at %d: %v", length, off, err)
		}
		if err == nil && !bytes.Equal(buf[:length], h.States[1]["b"][off:off+length]) {
			t.Fatalf("%d bytes at %d differ", length, off)
		}
	}
	check(0, 2*grid.Chunk, false)
	check(0, 2*grid.Chunk, true)
	check(grid.Chunk+1, 5, true)
	check(2*grid.Chunk, 2*grid.Chunk, true) // of which the first is there, and was read
	check(2*grid.Chunk, grid.Chunk, true)
	check(3*grid.Chunk, 1, true)
	check(4*grid.Chunk+1, grid.Chunk, false) // no chunk of it is whole
	for i := 2; i < 8; i++ {
		if err := set.Advance(t.Context(), src, h.Commits[i]); err != nil {
			t.Fatal(err)
		}
	}
	check(4*grid.Chunk, 3*grid.Chunk, false)
	check(4*grid.Chunk, grid.Chunk, true)
	check(7*grid.Chunk, grid.Chunk, true)
	check(8*grid.Chunk, size-8*grid.Chunk, false)
	if n, err := image.ReadAt(buf[:5], size); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("behind the end: %d, %v", n, err)
	}
	if _, _, err := snap.Image("other"); err == nil {
		t.Error("an image of a volume that isn't there")
	}
	if n := snap.Spilt("b"); n != 0 {
		t.Errorf("%d chunks are kept that nobody reads", n)
	}
}

// A snapshot is taken of a whole set only, waits for whoever works on it, and leaves volumes on their first pass alone.
func TestSnapshotOfWhat(t *testing.T) {
	t.Parallel()
	h, src := busy(t, pickSeed(t), 2)
	m := replicatest.NewMachine(1)
	set, err := replica.Open(t.TempDir(), simulated(m))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := set.Snapshot(t.Context(), t.TempDir()); !errors.Is(err, replica.ErrNotWhole) {
		t.Errorf("of a blank set: %v", err)
	}
	if err := set.Advance(t.Context(), src, h.Commits[0]); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := errors.Join(h.Add("new", 1<<20, false), h.Frame("new", 4)); err != nil {
		t.Fatal(err)
	}
	seeding := make(chan error, 1)
	go func() { seeding <- set.Seed(ctx, src, "new", 1) }() // waits for the end of the pass
	replicatest.Eventually(t, "the seed has begun", func() error {
		if set.Checkpoint().Volumes["new"].Seq == 0 {
			return errors.New("it has not")
		}
		return nil
	})
	snap := snapshot(t, set, t.TempDir())
	if cp := snap.Checkpoint(); !cp.Whole() || len(cp.Volumes) != 3 {
		t.Errorf("the snapshot is of %+v", cp)
	}
	cancel()
	<-seeding
	future := *h.Commits[1]
	future.Token.Barrier += 9
	future.Vector, future.Objects = nil, nil
	for _, e := range h.Commits[1].Vector {
		e.Position.Seq += 1000
		future.Vector = append(future.Vector, e)
	}
	ctx, cancel = context.WithCancel(t.Context())
	waiting := make(chan error, 1)
	reads := src.Reads()
	go func() { waiting <- set.Advance(ctx, src, &future) }() // waits for the journal
	replicatest.Eventually(t, "the set is being advanced", func() error {
		if src.Reads() == reads {
			return errors.New("it is not")
		}
		return nil
	})
	busyCtx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := set.Snapshot(busyCtx, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("while it is being advanced: %v", err)
	}
	cancel()
	<-waiting
	snapshot(t, set, t.TempDir())
}

// A volume that left belongs to a snapshot as long as its replica is there.
func TestSnapshotWithoutWhatLeft(t *testing.T) {
	t.Parallel()
	h, src := busy(t, pickSeed(t), 1)
	h.Leave("a")
	if err := h.Frame("b", 8); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Commit(""); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	set := setAt(t, dir, replica.Options{Group: "g"}, h, src, 0)
	if err := set.Advance(t.Context(), src, h.Commits[1]); err != nil {
		t.Fatal(err)
	}
	snap := snapshot(t, set, t.TempDir())
	if got, err := allOf(snap, "a"); err != nil || !bytes.Equal(got, h.States[0]["a"]) {
		t.Errorf("a volume that left: %v", err)
	}
	if cp := snap.Checkpoint(); cp.Volumes["a"].State != replica.Left {
		t.Errorf("the volumes are %+v", cp.Volumes)
	}
	if err := errors.Join(set.Close(), os.Remove(replica.VolumePath(dir, "a"))); err != nil {
		t.Fatal(err)
	}
	again, err := replica.Open(dir, replica.Options{Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	snap = snapshot(t, again, t.TempDir())
	if cp := snap.Checkpoint(); len(cp.Volumes) != 2 || !cp.Whole() {
		t.Errorf("the volumes are %+v", cp.Volumes)
	}
	if got, err := allOf(snap, "b"); err != nil || !bytes.Equal(got, h.States[1]["b"]) {
		t.Errorf("the other one: %v", err)
	}
}

// [I] A snapshot is good for a set of its own: it goes on like the one that it was taken of, also where the objects' log was written anew
// and the volumes were overwritten meanwhile.
func TestSnapshotIsPlanted(t *testing.T) {
	t.Parallel()
	h, src := busy(t, pickSeed(t), 14)
	o := replica.Options{Group: "g", ObjectsSlack: 256}
	for _, at := range []int{0, 4, 9} {
		set := setAt(t, t.TempDir(), o, h, src, at)
		snap := snapshot(t, set, t.TempDir())
		for i := at + 1; i < len(h.Commits); i++ {
			if err := set.Advance(t.Context(), src, h.Commits[i]); err != nil {
				t.Fatal(err)
			}
		}
		to, cp := t.TempDir(), snap.Checkpoint()
		for name, v := range cp.Volumes {
			path := replica.VolumePath(to, name)
			if name == journal.Objects {
				path = replica.LogPath(to, v)
			}
			content, err := allOf(snap, name)
			if err == nil {
				err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, content, 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		planted, err := replica.Plant(to, cp)
		if err != nil {
			t.Fatal(err)
		}
		if planted.Replica == cp.Replica || planted.Commit != cp.Commit {
			t.Errorf("planted %+v of %+v", planted, cp)
		}
		copied, err := replica.Open(to, o)
		if err != nil {
			t.Fatal(err)
		}
		sameFiles(t, copied, h.States[at])
		replicatest.SameObjects(t, copied.Objects(), h.ObjectsAt(cp.Commit.Barrier))
		last := h.Commits[len(h.Commits)-1]
		if err := copied.Fill(t.Context(), src, last); err != nil {
			t.Fatal(err)
		}
		sameFiles(t, copied, h.State(last.Token.Barrier))
		replicatest.SameObjects(t, copied.Objects(), h.ObjectsAt(last.Token.Barrier))
		if err := copied.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// [I] Over faults and crashes at any step, with snapshots being taken and read all the while, what is read is right or refused, and the set
// comes to the end of its history.
func TestSnapshotsOverAccidents(t *testing.T) {
	t.Parallel()
	seed := pickSeed(t)
	h, src := busy(t, seed, 7)
	clean := replicatest.NewMachine(seed)
	lost, read := 0, 0
	travelWithSnapshots(t, clean, h, src, &lost, &read)
	if lost > 0 {
		t.Errorf("%d snapshots were lost without a reason", lost)
	}
	steps := clean.Steps()
	for _, f := range []replicatest.Fault{{Crash: true}, {Err: syscall.EIO}, {Err: syscall.ENOSPC}} {
		for range 40 {
			n := 1 + rand.IntN(steps)
			m := replicatest.NewMachine(seed + uint64(n))
			m.At(n, f)
			travelWithSnapshots(t, m, h, src, &lost, &read)
		}
	}
	t.Logf("%d steps, %d snapshots were lost, %d parts read", steps, lost, read)
	if lost == 0 || read < 100 {
		t.Errorf("%d snapshots were lost, %d parts read", lost, read)
	}
}

func travelWithSnapshots(t *testing.T, m *replicatest.Machine, h *replicatest.History, src replica.Source, lost, read *int) {
	t.Helper()
	var set *replica.Set
	var snap *replica.Snapshot
	dir := t.TempDir()
	for attempt := 0; ; attempt++ {
		if attempt > 10*len(h.Commits) {
			t.Fatalf("no end in sight\nsteps: %v", m.Last())
		}
		if m.Dead() { // and with it whoever reads
			m.Reboot()
			set, snap = nil, nil
		}
		if set == nil {
			var err error
			if set, err = openSet(m); err != nil {
				continue
			}
		}
		cp := set.Checkpoint()
		done := cp.Applying == nil && cp.Commit.Barrier == uint64(len(h.Commits))
		if !done {
			_ = set.Advance(t.Context(), src, h.Commits[max(cp.Commit.Barrier+1, cp.Floor())-1])
		}
		if snap != nil && (attempt%3 == 0 || done) {
			for volume, want := range h.State(snap.Checkpoint().Commit.Barrier) {
				switch got, err := allOf(snap, volume); {
				case errors.Is(err, replica.ErrSnapshotLost):
					*lost++
				case err != nil && !errors.Is(err, replicatest.ErrCrashed):
					t.Fatalf("read a snapshot: %v\nsteps: %v", err, m.Last())
				case err == nil && !bytes.Equal(got, want):
					t.Fatalf("volume %s of a snapshot of %d differs\nsteps: %v", volume, snap.Checkpoint().Commit.Barrier, m.Last())
				case err == nil:
					*read++
				}
			}
			if err := snap.Close(); err != nil {
				t.Fatal(err)
			}
			snap = nil
		}
		if done {
			return
		}
		if taken, err := set.Snapshot(t.Context(), dir); err == nil && snap == nil {
			snap = taken
		} else if err == nil {
			_ = taken.Close()
		}
	}
}

// Without a snapshot the write path pays nothing.
func TestWritingWithoutSnapshot(t *testing.T) {
	tap := replica.Tap(nothing{})
	block := make([]byte, 4096)
	allocations := testing.AllocsPerRun(100, func() {
		if _, err := tap.WriteAt(block, 8192); err != nil {
			t.Error(err)
		}
		if err := errors.Join(tap.Zero(0, 4096), tap.Trim(0, 4096), tap.Sync()); err != nil {
			t.Error(err)
		}
	})
	if allocations > 0 {
		t.Errorf("%v allocations", allocations)
	}
}

// nothing is a target that costs nothing.
type nothing struct{ replica.Target }

func (nothing) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (nothing) Zero(int64, int64) error                { return nil }
func (nothing) Trim(int64, int64) error                { return nil }
func (nothing) Sync() error                            { return nil }

// Replicas on block devices have nothing to share.
func TestSnapshotOfDevice(t *testing.T) {
	t.Parallel()
	seed := pickSeed(t)
	h, src := busy(t, seed, 10)
	device := loopDevice(t, 4<<20)
	set, err := replica.Open(t.TempDir(), replica.Options{Group: "g", Devices: map[string]string{"b": device}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = set.Close() }()
	checkSnapshots(t, set, h, src, filepath.Join(t.TempDir(), "s"), seed)
	if cp := snapshot(t, set, t.TempDir()).Checkpoint(); cp.Volumes["b"].Device != "" {
		t.Errorf("the snapshot says that b is on %s", cp.Volumes["b"].Device)
	}
}
