package replay_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replay"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

// largeSize is the size of a volume that is restored in several steps.
const largeSize = 3500 * grid.Chunk

// large archives a volume whose chunks all differ and have little in them, at barrier 7, in a directory.
func large(t *testing.T, root string) (image string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "set")
	v := replica.Volume{UID: "u", State: replica.Member, Generation: 1, Seq: 10, Barrier: 7, Epoch: 1, Size: largeSize, Time: time.Unix(7, 0).UTC()}
	must(t, os.MkdirAll(filepath.Dir(replica.VolumePath(dir, "v")), 0o750))
	f, err := os.Create(replica.VolumePath(dir, "v"))
	must(t, err)
	must(t, f.Truncate(largeSize))
	for i := int64(0); i < largeSize/grid.Chunk; i++ {
		if i%9 == 0 {
			continue // zeros
		}
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], uint64(i))
		_, err := f.WriteAt(b[:], i*grid.Chunk+i)
		must(t, err)
	}
	must(t, f.Close())
	_, err = replica.Plant(dir, replica.Checkpoint{
		Group: "g", Commit: replica.Commit{Barrier: 7, Time: v.Time, Kind: "crash"}, Volumes: map[string]replica.Volume{"v": v},
	})
	must(t, err)
	a := openDir(t, root, nil)
	replicatest.Archive(t, a, dir)
	must(t, a.Close())
	return replica.VolumePath(dir, "v")
}

// openDir opens the archive in a directory; hook is asked before each operation of its store once it is open.
func openDir(t *testing.T, root string, hook func(storetest.Op) *storetest.Fault) *archive.Archive {
	t.Helper()
	dir, err := store.NewDir(root)
	must(t, err)
	s := storetest.NewFaulty(dir)
	a, err := archive.Create(t.Context(), archive.Options{Store: s, Group: "g"})
	must(t, err)
	s.On(hook)
	return a
}

// What TestKilledReplayResumes tells the process that it kills.
const (
	childStore = "FARSHORE_TEST_REPLAY_STORE"
	childInto  = "FARSHORE_TEST_REPLAY_INTO"
	childStop  = "FARSHORE_TEST_REPLAY_STOP"
)

// TestReplayInAProcess is a replay that stands still before an operation of its store, for TestKilledReplayResumes.
func TestReplayInAProcess(t *testing.T) {
	if os.Getenv(childStore) == "" {
		t.Skip("not run: it is the process that TestKilledReplayResumes kills")
	}
	stop, err := strconv.Atoi(os.Getenv(childStop))
	must(t, err)
	a := openDir(t, os.Getenv(childStore), func(op storetest.Op) *storetest.Fault {
		if op.N == stop {
			awaitProgress(os.Getenv(childInto))
			fmt.Println("standing still")
			select {}
		}
		return nil
	})
	_, err = replay.Run(t.Context(), replay.Options{Archive: a, Group: "g", Target: "7", Into: os.Getenv(childInto)})
	fmt.Println("ended", err)
}

// awaitProgress gives what was read before some time to get into its place; early on there is nothing.
func awaitProgress(into string) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 25 {
		if marker, err := os.ReadFile(filepath.Join(into, "unfinished.json")); err == nil && !strings.Contains(string(marker), `"done": 0`) {
			return
		}
		<-tick.C
	}
}

// [I] A replay that is killed at any operation of the store is gone on with from where it was: what is in its place isn't fetched again.
func TestKilledReplayResumes(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "archive")
	image := large(t, root)
	kept, ended, n := 0, false, 1
	for ; !ended; n++ {
		into := filepath.Join(t.TempDir(), "into")
		ended = kill(t, root, into, n)
		a := openDir(t, root, nil)
		o := replay.Options{Archive: a, Group: "g", Target: "7", Into: into}
		fetched, begun := uint64(0), false
		o.Progress = func(p replay.Progress) { fetched = p.Total }
		if marker, err := os.ReadFile(filepath.Join(into, "unfinished.json")); err == nil && !strings.Contains(string(marker), `"done": 0`) {
			kept, begun = kept+1, true
			// What is done is not touched again: a change of it stays.
			f, err := os.OpenFile(replica.VolumePath(into, "v"), os.O_RDWR, 0)
			must(t, err)
			_, err = f.WriteAt([]byte("changed"), 0)
			must(t, errors.Join(err, f.Close()))
		}
		if !ended {
			_, err := replay.Run(t.Context(), o)
			must(t, err)
		}
		must(t, a.Close())
		if begun && fetched == largeSize {
			t.Errorf("killed at operation %d: everything was fetched again", n)
		}
		sameImage(t, image, replica.VolumePath(into, "v"), begun)
		if _, err := os.Stat(filepath.Join(into, "unfinished.json")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("killed at operation %d: it is left unfinished: %v", n, err)
		}
	}
	if kept == 0 {
		t.Errorf("of %d killed ones nothing was ever gone on with", n-2)
	}
}

// [I] Where the volumes are recovered and only what comes behind them failed, the same command goes on with that, whatever became of the journal
// and of the archive.
func TestRecoveredWorkNeedsNoPoint(t *testing.T) {
	t.Parallel()
	w := newTale(t)
	failure := errors.New("no API server")
	var all []replay.Options
	want := []uint64{25, w.last.Token.Barrier, w.last.Token.Barrier, 10}
	for i, target := range []string{"25", replay.Latest, replay.Latest, "before-upgrade"} {
		o := w.options(t, target)
		if i != 1 {
			o.Dir = filepath.Join(t.TempDir(), "none")
		}
		o.Finish = func(*replay.Result) error { return failure }
		if _, err := replay.Run(t.Context(), o); !errors.Is(err, failure) || !strings.Contains(err.Error(), "the same command") {
			t.Fatalf("to %s: %v", target, err)
		}
		all = append(all, o)
	}
	streams, err := w.Pair.DR.Streams(t.Context(), "g")
	must(t, err)
	for _, m := range journal.Mirrors(streams) {
		for _, i := range m.Incarnations {
			must(t, w.Pair.DR.JetStream().DeleteStream(t.Context(), i.Name))
		}
	}
	for i, o := range all {
		o.Archive, o.Dir = newVault(t, "g").Archive, filepath.Join(t.TempDir(), "none")
		if i == 2 {
			o.Site, o.Archive = nil, nil
		}
		if _, err := replay.Run(t.Context(), o); !errors.Is(err, failure) || !strings.Contains(err.Error(), "the same command") {
			t.Fatalf("to %s, failing again: %v", o.Target, err)
		}
		plan, err := replay.DryRun(t.Context(), o)
		if err != nil || !plan.Resumes || plan.Point.Barrier != want[i] || plan.Journal.Bytes+plan.Archive.Bytes+plan.Copy.Bytes > 0 {
			t.Errorf("to %s: the plan is %+v, %v", o.Target, plan, err)
		}
		o.Finish = func(r *replay.Result) error {
			if r.Point.Barrier != want[i] {
				t.Errorf("to %s: it ends with %d", o.Target, r.Point.Barrier)
			}
			return nil
		}
		w.run(t, o, want[i])
	}
}

// kill runs a replay in a process of its own and kills it before an operation of its store. It tells whether the replay ended before.
func kill(t *testing.T, root, into string, operation int) (ended bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestReplayInAProcess$", "-test.v")
	cmd.Env = append(os.Environ(), childStore+"="+root, childInto+"="+into, childStop+"="+strconv.Itoa(operation))
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	for lines := bufio.NewScanner(out); lines.Scan(); {
		switch line := lines.Text(); {
		case line == "standing still":
			must(t, cmd.Process.Kill())
			_ = cmd.Wait() // killed
			return false
		case strings.HasPrefix(line, "ended"):
			if line != "ended <nil>" {
				t.Fatal(line)
			}
			must(t, cmd.Wait())
			return true
		}
	}
	t.Fatalf("the process ended without a word: %v", cmd.Wait())
	return false
}

// sameImage compares two images; resumed tells that the beginning of the second was changed.
func sameImage(t *testing.T, want, got string, resumed bool) {
	t.Helper()
	a, err := os.ReadFile(want)
	must(t, err)
	b, err := os.ReadFile(got)
	must(t, err)
	if resumed {
		copy(a, "changed")
	}
	if len(a) != len(b) {
		t.Fatalf("%d bytes, want %d", len(b), len(a))
	}
	for i := range a {
		if a[i] != b[i] {
			t.Fatalf("byte %d differs", i)
		}
	}
}
