package replica_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

// busy is a history of two volumes that each commit changes in many places, and of objects.
func busy(t *testing.T, seed uint64, commits int) (*replicatest.History, *replicatest.Memory) {
	t.Helper()
	h, src := replicatest.MemoryHistory("g", seed)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(h.Add("a", 40*grid.Chunk, false))
	must(h.Add("b", 25*grid.Chunk+512, false))
	_, err := h.Sink(journal.Objects, h.Epoch(journal.Objects))
	must(err)
	for _, part := range []string{"a", "b", journal.Objects} {
		h.Join(part)
	}
	for i := range commits {
		for range 12 {
			must(errors.Join(h.Frame("a", 8), h.Frame("b", 8)))
		}
		if i > 0 && i%5 == 0 {
			must(h.Resize("b", int64(len(h.Content("b")))+grid.Chunk+1024))
		}
		must(h.Change(6))
		_, err := h.Commit("")
		must(err)
	}
	return h, src
}

// reading reads a volume of a snapshot in pieces of whole chunks, in any order, by several goroutines, and compares.
type reading struct {
	snap   *replica.Snapshot
	volume string
	want   []byte
	chunks []int64 // still to be read
	seed   uint64
}

func newReading(snap *replica.Snapshot, volume string, want []byte, chunks *grid.Set, random *rand.Rand) *reading {
	r := &reading{snap: snap, volume: volume, want: want, seed: random.Uint64()}
	for c := range chunks.All() {
		r.chunks = append(r.chunks, c)
	}
	random.Shuffle(len(r.chunks), func(i, j int) { r.chunks[i], r.chunks[j] = r.chunks[j], r.chunks[i] })
	return r
}

// read reads up to so many chunks.
func (r *reading) read(most int) error {
	image, size, err := r.snap.Image(r.volume)
	if err != nil {
		return err
	}
	if size != int64(len(r.want)) {
		return fmt.Errorf("volume %s has %d bytes, want %d", r.volume, size, len(r.want))
	}
	work := r.chunks[:min(most, len(r.chunks))]
	r.chunks = r.chunks[len(work):]
	var group sync.WaitGroup
	errs := make([]error, 3)
	for i := range errs {
		group.Go(func() {
			for at := i; at < len(work) && errs[i] == nil; at += len(errs) {
				errs[i] = r.chunk(image, work[at])
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (r *reading) chunk(image io.ReaderAt, c int64) error {
	want := r.want[c*grid.Chunk : min((c+1)*grid.Chunk, int64(len(r.want)))]
	got := make([]byte, len(want))
	if c%3 == 0 { // a part of it before, which doesn't count
		if _, err := image.ReadAt(got[:len(got)/2], c*grid.Chunk+int64(len(got)/4)); err != nil {
			return err
		}
		if !bytes.Equal(got[:len(got)/2], want[len(want)/4:][:len(want)/2]) {
			return fmt.Errorf("the middle of chunk %d of %s differs", c, r.volume)
		}
	}
	if _, err := image.ReadAt(got, c*grid.Chunk); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("chunk %d of %s differs", c, r.volume)
	}
	return nil
}

// [I] A snapshot is its commit, byte for byte, while the set goes on from commit to commit, whatever is read when and by how many.
func TestSnapshotIsTheCommit(t *testing.T) {
	t.Parallel()
	seed := pickSeed(t)
	h, src := busy(t, seed, 24)
	for name, o := range map[string]replica.Options{
		"files":   {Group: "g"},
		"machine": {Group: "g", OpenTarget: replicatest.NewMachine(seed).OpenTarget},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			set, err := replica.Open(filepath.Join(dir, "g"), o)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = set.Close() }()
			spilt := checkSnapshots(t, set, h, src, filepath.Join(dir, "snapshots"), seed)
			t.Logf("%d chunks were copied", spilt)
			if spilt == 0 && name == "machine" {
				t.Error("nothing was ever kept")
			}
		})
	}
}

// checkSnapshots advances a set over a history, with several snapshots at any time, and returns how many chunks were seen copied.
func checkSnapshots(t *testing.T, set *replica.Set, h *replicatest.History, src replica.Source, dir string, seed uint64) (spilt int64) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 3))
	type under struct {
		snap     *replica.Snapshot
		readings []*reading
	}
	var open []*under
	for i, c := range h.Commits {
		advanced := make(chan error, 1)
		go func() { advanced <- set.Advance(t.Context(), src, c) }()
		var group sync.WaitGroup
		for _, u := range open {
			for _, r := range u.readings {
				most := random.IntN(8)
				group.Go(func() {
					if err := r.read(most); err != nil {
						t.Errorf("at commit %d, the snapshot of %d: %v", i+1, u.snap.Checkpoint().Commit.Barrier, err)
					}
				})
			}
		}
		group.Wait()
		if err := <-advanced; err != nil {
			t.Fatal(err)
		}
		for len(open) > 0 && (len(open) == 3 || i == len(h.Commits)-1) { // the oldest is read to its end
			for _, r := range open[0].readings {
				if !open[0].snap.Shared(r.volume) {
					spilt += open[0].snap.Spilt(r.volume)
				}
				if err := r.read(1 << 20); err != nil {
					t.Errorf("after commit %d, the snapshot of %d: %v", i+1, open[0].snap.Checkpoint().Commit.Barrier, err)
				}
				if !open[0].snap.Shared(r.volume) && open[0].snap.Spilt(r.volume) > 0 {
					t.Errorf("%d chunks of %s are kept that were read", open[0].snap.Spilt(r.volume), r.volume)
				}
			}
			if err := open[0].snap.Close(); err != nil {
				t.Fatal(err)
			}
			open = open[1:]
		}
		snap, err := set.Snapshot(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if cp := snap.Checkpoint(); cp.Commit != replica.CommitOf(c) {
			t.Fatalf("a snapshot of %+v at commit %d", cp.Commit, i+1)
		}
		u := &under{snap: snap}
		for volume, want := range h.States[i] {
			chunks := grid.Full(int64(len(want)))
			if random.IntN(2) == 0 {
				for c := range chunks.Chunks() {
					if random.IntN(2) == 0 {
						chunks.Remove(c)
					}
				}
				snap.Only(volume, chunks)
			}
			u.readings = append(u.readings, newReading(snap, volume, want, chunks, random))
		}
		open = append(open, u)
	}
	for _, u := range open {
		if err := u.snap.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("snapshots left %v, %v", left, err)
	}
	return spilt
}
