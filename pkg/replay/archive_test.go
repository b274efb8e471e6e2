package replay_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replay"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

// vault is an archive in memory, whose store fails on purpose.
type vault struct {
	*archive.Archive
	store *storetest.Faulty
	kept  map[uint64]bool // barriers
}

func newVault(t *testing.T, group string) *vault {
	t.Helper()
	v := &vault{store: storetest.NewFaulty(new(storetest.Memory)), kept: make(map[uint64]bool)}
	v.Archive = v.open(t, group)
	return v
}

// open opens the archive once more.
func (v *vault) open(t *testing.T, group string) *archive.Archive {
	t.Helper()
	a, err := archive.Create(t.Context(), archive.Options{Store: v.store, Group: group})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

// keep archives what the replicas hold. Nothing may change them meanwhile.
func (v *vault) keep(t *testing.T, dir string) {
	t.Helper()
	v.kept[replicatest.Archive(t, v.Archive, dir).Barrier] = true
}

// tale is a history whose beginning the journal has lost, and what the archive has of it.
type tale struct {
	*replicatest.Rig
	vault *vault
	last  *events.Commit
}

// newTale archives every fifth of 30 commits. The journal begins in the midst of them.
func newTale(t *testing.T) *tale {
	t.Helper()
	r := rig(t)
	r.Retention = 10 * time.Second
	r.Objects()
	w := &tale{Rig: r, vault: newVault(t, "g")}
	stop := r.Follow(func(o *replica.FollowerOptions) { o.RetentionEvery = 10 * time.Millisecond })
	for i := range 6 {
		r.Fill(4, 2, "a", "b", journal.Objects)
		label := ""
		if i == 1 {
			label = "before-upgrade"
		}
		must(t, r.Frame("a", 8))
		w.last = r.Cut(label)
		r.AppliedTo(w.last)
		w.vault.keep(t, r.Dir())
	}
	w.last = r.Fill(3, 2, "a", "b", journal.Objects)
	r.AppliedTo(w.last)
	replicatest.Eventually(t, "the journal is trimmed", func() error {
		tail, err := r.Pair.DR.Tail(t.Context(), replica.MirrorName(r.ID("control")))
		if err == nil && tail.First < 10 {
			err = errors.New("it is not")
		}
		return err
	})
	stop()
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *tale) options(t *testing.T, target string) replay.Options {
	return replay.Options{
		Site: w.Pair.DR, Archive: w.vault.Archive, Group: "g", Dir: w.Dir(), Target: target, Into: filepath.Join(t.TempDir(), "into"),
		Notice: func(s string) { t.Log("notice: " + s) },
	}
}

// same checks a result byte for byte, and that nothing unfinished is left.
func (w *tale) same(t *testing.T, o replay.Options, result *replay.Result, want uint64) {
	t.Helper()
	if result.Point.Barrier != want {
		t.Fatalf("recovered %d, want %d", result.Point.Barrier, want)
	}
	paths := make(map[string]string)
	for _, v := range result.Volumes {
		paths[v.Name] = v.Path
	}
	if len(paths) != len(w.State(want)) {
		t.Fatalf("%d volumes, want %d", len(paths), len(w.State(want)))
	}
	replicatest.SameFiles(t, w.State(want), func(v string) string { return paths[v] })
	if (w.ObjectsAt(want) != nil) != (result.Objects != nil) {
		t.Fatalf("the objects are %+v", result.Objects)
	}
	if result.Objects != nil {
		replicatest.SameObjects(t, result.Objects.View, w.ObjectsAt(want))
	}
	for _, name := range []string{"unfinished.json", "unfinished.json.tmp", "unfinished.lock"} {
		if _, err := os.Lstat(filepath.Join(o.Into, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
}

func (w *tale) run(t *testing.T, o replay.Options, want uint64) *replay.Result {
	t.Helper()
	result, err := replay.Run(t.Context(), o)
	if err != nil {
		t.Fatalf("replay to %s: %v", o.Target, err)
	}
	w.same(t, o, result, want)
	return result
}

// [I] Every archived point is recovered, and every instant that the journal still covers: with the base and the replicas,
// without them, and where the journal's beginning is gone and no base is left. Without the journal the archive alone does.
func TestReplayFromArchive(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	w := newTale(t)
	origins := make(map[replay.Origin]int)
	every := func(change func(*replay.Options)) (restorable, archived int) {
		t.Helper()
		o := w.options(t, "")
		change(&o)
		points, err := replay.Points(t.Context(), o, 3)
		must(t, err)
		last := uint64(0)
		for _, p := range points {
			if p.Barrier <= last || p.Archived != w.vault.kept[p.Barrier] || p.Archived && !p.Restorable || p.Label != "" && p.Bytes != nil && !p.Restorable {
				t.Errorf("behind %d: point %+v", last, p)
			}
			last = p.Barrier
			if !p.Restorable {
				continue
			}
			o := w.options(t, strconv.FormatUint(p.Barrier, 10))
			change(&o)
			plan, err := replay.DryRun(t.Context(), o)
			must(t, err)
			result := w.run(t, o, p.Barrier)
			if plan.From != result.From || plan.Base != result.Base || (plan.Archive.Bytes > 0) != (plan.From == replay.Archived) || plan.Journal.Bytes == 0 && result.Bytes > 0 {
				t.Errorf("the plan was %+v, the result is %+v", plan, result)
			}
			origins[result.From]++
			view, at, err := replay.Objects(t.Context(), o)
			if err != nil || at.Barrier != p.Barrier {
				t.Fatalf("objects at %d: %+v, %v", p.Barrier, at, err)
			}
			replicatest.SameObjects(t, view, w.ObjectsAt(p.Barrier))
			restorable++
			if p.Archived {
				archived++
			}
		}
		return restorable, archived
	}
	with, archived := every(func(*replay.Options) {})
	if archived != 6 || with < 14 {
		t.Errorf("%d points were recovered, %d of them archived", with, archived)
	}
	nowhere := filepath.Join(t.TempDir(), "none")
	if without, _ := every(func(o *replay.Options) { o.Dir = nowhere }); without < 10 {
		t.Errorf("without replicas and base %d points were recovered, with them %d", without, with)
	}
	if alone, _ := every(func(o *replay.Options) { o.Site, o.Dir = nil, nowhere }); alone != 6 {
		t.Errorf("without the journal %d points were recovered, want 6", alone)
	}
	if origins[replay.Archived] == 0 {
		t.Errorf("began from %v", origins)
	}
	o := w.options(t, "before-upgrade")
	w.run(t, o, 10)
	streams, err := w.Pair.DR.Streams(t.Context(), "g")
	must(t, err)
	for _, m := range journal.Mirrors(streams) {
		for _, i := range m.Incarnations {
			must(t, w.Pair.DR.JetStream().DeleteStream(t.Context(), i.Name))
		}
	}
	told := ""
	o = w.options(t, w.last.Time.Format(time.RFC3339Nano))
	o.Dir, o.Notice = nowhere, func(s string) { told += s }
	w.run(t, o, 30)
	if !strings.Contains(told, replay.ErrNoJournal.Error()) {
		t.Errorf("of the journal that is gone was told: %q", told)
	}
	o.Archive, o.Into = newVault(t, "g").Archive, filepath.Join(t.TempDir(), "other")
	if _, err := replay.Run(t.Context(), o); !errors.Is(err, replay.ErrNoJournal) {
		t.Errorf("neither journal nor points: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "farshore-objects-*")); err != nil || len(left) > 0 {
		t.Errorf("replays left %v, %v", left, err)
	}
}

// What is asked for is between points that are left: they are named, the archive's among them.
func TestTrimmedNamesArchivedPoints(t *testing.T) {
	t.Parallel()
	w := newTale(t)
	o := w.options(t, w.Commits[0].Time.Format(time.RFC3339Nano))
	_, err := replay.Run(t.Context(), o)
	var trimmed *replay.TrimmedError
	if !errors.As(err, &trimmed) || trimmed.After == nil || trimmed.After.Barrier != 5 || !trimmed.After.Archived {
		t.Errorf("before everything: %v", err)
	}
	// A time between two archived points means the one before.
	o = w.options(t, w.Commits[6].Time.Format(time.RFC3339Nano))
	w.run(t, o, 5)
}

// [I] A replay that dies at any operation of the store, or anywhere else, is gone on with by the same command, and by no other one.
func TestReplayResumes(t *testing.T) {
	t.Parallel()
	w := newTale(t)
	nowhere := filepath.Join(t.TempDir(), "none")
	for _, target := range []uint64{25, w.last.Token.Barrier} {
		o := w.options(t, fmt.Sprint(target))
		o.Dir = nowhere
		reopen := func() { o.Archive = w.vault.open(t, "g") }
		w.vault.store.On(nil)
		reopen()
		w.run(t, o, target)
		total := len(w.vault.store.Ops())
		if total < 5 {
			t.Fatalf("%d operations", total)
		}
		resumed := 0
		for n := 1; n <= total; n++ {
			o.Into = filepath.Join(t.TempDir(), "into")
			w.vault.store.On(nil)
			reopen()
			w.vault.store.On(storetest.DieAt(n, false))
			_, err := replay.Run(t.Context(), o)
			w.vault.store.On(nil)
			if err == nil {
				continue
			}
			if !errors.Is(err, storetest.ErrInjected) {
				t.Fatalf("at operation %d: %v", n, err)
			}
			if _, err := os.Stat(filepath.Join(o.Into, "unfinished.json")); err == nil {
				resumed++
				other := o
				other.Target = "10"
				var unfinished *replay.UnfinishedError
				if _, err := replay.Run(t.Context(), other); !errors.As(err, &unfinished) || !strings.Contains(err.Error(), "--to "+o.Target) {
					t.Fatalf("another target: %v", err)
				}
				plan, err := replay.DryRun(t.Context(), o)
				if err != nil || !plan.Resumes || plan.From != replay.Archived {
					t.Fatalf("the plan is %+v, %v", plan, err)
				}
			}
			reopen()
			w.run(t, o, target)
		}
		t.Logf("to %d: %d of %d operations left something to go on with", target, resumed, total)
	}
}

// A cancelled replay keeps what it has, whatever it was doing.
func TestCancelledReplayResumes(t *testing.T) {
	t.Parallel()
	w := newTale(t)
	for _, phase := range []replay.Phase{replay.Copying, replay.Fetching, replay.Replaying} {
		o := w.options(t, replay.Latest)
		if phase != replay.Copying {
			o.Dir = filepath.Join(t.TempDir(), "none")
		}
		stop, cancel := context.WithCancel(t.Context())
		o.Progress = func(p replay.Progress) {
			if p.Phase == phase {
				cancel()
			}
		}
		o.Finish = func(*replay.Result) error { cancel(); return stop.Err() }
		if _, err := replay.Run(stop, o); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "the same command") {
			t.Fatalf("%s: %v", phase, err)
		}
		o.Progress, o.Finish = nil, func(*replay.Result) error {
			if _, err := replay.Run(t.Context(), o); !errors.Is(err, replay.ErrBusy) {
				t.Errorf("two at once: %v", err)
			}
			return nil
		}
		w.run(t, o, w.last.Token.Barrier)
	}
}

// [I] Damage in the archive makes another base be tried; what can't be reached without is named, with what is damaged and
// what is left, and --to latest goes back before it.
func TestReplayAroundArchiveDamage(t *testing.T) {
	t.Parallel()
	w := newTale(t)
	nowhere := filepath.Join(t.TempDir(), "none")
	points, _, err := w.vault.Points(t.Context())
	must(t, err)
	newest := points[len(points)-1].Barrier
	broken := make(map[uint64]bool)
	packs := make(map[string]bool)
	for info, err := range w.vault.store.List(t.Context(), "packs/") {
		must(t, err)
		packs[info.Name] = true
	}
	for name := range packs {
		whole, err := w.vault.store.Get(t.Context(), name, 0, -1)
		must(t, err)
		must(t, w.vault.store.Put(t.Context(), name, flipped(whole)))
		for _, p := range points {
			o := w.options(t, fmt.Sprint(p.Barrier))
			o.Dir, o.Site, o.Archive = nowhere, nil, w.vault.open(t, "g")
			result, err := replay.Run(t.Context(), o)
			var damage *archive.DamageError
			switch {
			case err == nil:
				w.same(t, o, result, p.Barrier)
			case !errors.As(err, &damage) || !strings.Contains(err.Error(), fmt.Sprint(p.Barrier)) || !strings.Contains(err.Error(), "packs/"):
				t.Errorf("point %d with %s damaged: %v", p.Barrier, name, err)
			default:
				broken[p.Barrier] = true
				if left, err := os.ReadDir(o.Into); err == nil && len(left) > 0 {
					t.Errorf("a replay that failed left %v", left)
				}
				o.Target = replay.Latest
				if result, err := replay.Run(t.Context(), o); p.Barrier == newest && err == nil {
					w.same(t, o, result, result.Point.Barrier)
					if result.Point.Barrier >= newest {
						t.Errorf("the latest point is %d", result.Point.Barrier)
					}
				} else if p.Barrier == newest && !errors.Is(err, replay.ErrUnknownTarget) {
					t.Errorf("latest: %v", err)
				}
			}
			// With journal and base the newest point needs no archive.
			o = w.options(t, replay.Latest)
			o.Archive = w.vault.open(t, "g")
			w.run(t, o, w.last.Token.Barrier)
		}
		must(t, w.vault.store.Put(t.Context(), name, whole))
	}
	if len(broken) != len(points) {
		t.Errorf("damage was seen by %v of %d points", broken, len(points))
	}
}

// flipped returns a pack with a bit in every 512 bytes of its first records changed.
func flipped(data []byte) []byte {
	out := append([]byte(nil), data...)
	for i := 100; i < len(out)/2; i += 512 {
		out[i] ^= 4
	}
	return out
}
