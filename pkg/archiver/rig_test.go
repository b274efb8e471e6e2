package archiver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
	"github.com/farshore/farshore/pkg/archiver"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/journaltest"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

func TestMain(m *testing.M) { journaltest.Main(m) }

// rig is a group on real brokers whose commits are archived in a store that fails where a test wants it.
type rig struct {
	*replicatest.Rig
	t     *testing.T
	store *storetest.Faulty
	spec  group.Archive
	key   *age.X25519Identity // nil: not encrypted

	archiver *archiver.Archiver
	follower *replica.Follower
	opens    atomic.Int64
	change   func(*replica.FollowerOptions)
	room     func(dir string) error // nil: as it is
	end      func()
}

func newRig(t *testing.T) *rig {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := &rig{Rig: replicatest.NewRig(t, "g", seed), t: t, store: storetest.NewFaulty(new(storetest.Memory))}
	r.spec = group.Archive{Every: group.Duration(time.Second), Labeled: true, Keep: group.Keep{Labels: []string{"*"}}}
	return r
}

// seeded adds a volume of some content that is in the commits.
func (r *rig) seeded(volume string, size int64) {
	r.t.Helper()
	r.Volume(volume, size)
	for range 10 {
		if err := r.Frame(volume, 8); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := r.Seed(volume); err != nil {
		r.t.Fatal(err)
	}
	r.Join(volume)
}

func (r *rig) document() *group.Group {
	g := r.Document()
	spec := r.spec
	g.Spec.Recovery.Archive = &spec
	return g
}

func (r *rig) options() archive.Options {
	o := archive.Options{Store: r.store, Group: r.Group, Workers: 2}
	if r.key != nil {
		o.Recipients, o.Identities = []age.Recipient{r.key.Recipient()}, []age.Identity{r.key}
	}
	return o
}

// start lets replicas follow and be archived until stop.
func (r *rig) start() {
	r.t.Helper()
	a, err := archiver.New(archiver.Options{
		Site: r.Pair.DR, Group: r.document(), Retry: 20 * time.Millisecond, Look: 20 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(testLog{r.t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Open: func(ctx context.Context, _ *group.Group) (*archive.Archive, error) {
			r.opens.Add(1)
			o := r.options()
			o.Cache = archiver.IndexDirectory(r.Dir())
			return archive.Create(ctx, o)
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	var stopFollower func()
	r.archiver = a
	if r.room != nil {
		a.SetRoom(r.room)
	}
	r.follower, stopFollower = r.FollowUntil(func(o *replica.FollowerOptions) {
		o.Archiver, o.Group = a, r.document()
		if r.change != nil {
			r.change(o)
		}
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, r.follower) }()
	stopped := false
	r.end = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("the archiver ended with %v", err)
		}
		stopFollower()
	}
	r.t.Cleanup(r.end)
}

// testLog writes to a test's log while that runs.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Log(string(bytes.TrimSpace(p)))
	}
	return len(p), nil
}

// archived waits until commits are archived, and returns their points.
func (r *rig) archived(commits ...*events.Commit) {
	r.t.Helper()
	for _, c := range commits {
		replicatest.Eventually(r.t, fmt.Sprintf("barrier %d is archived", c.Token.Barrier), func() error {
			_, err := r.store.Store.Get(r.t.Context(), fmt.Sprintf("points/%020d", c.Token.Barrier), 0, -1)
			if errors.Is(err, store.ErrNotFound) {
				return fmt.Errorf("the status is %+v: %w", r.archiver.Status(), err)
			}
			return err
		})
	}
}

// verify restores every point of the archive, compares each with the truth, and returns their barriers.
func (r *rig) verify() (barriers []uint64) {
	r.t.Helper()
	o := r.options()
	o.Store, o.Recipients = r.store.Store, nil
	a, err := archive.Open(r.t.Context(), o)
	if err != nil {
		r.t.Fatal(err)
	}
	defer a.Close()
	points, damaged, err := a.Points(r.t.Context())
	if err != nil || len(damaged) > 0 {
		r.t.Fatalf("%v, %v", damaged, err)
	}
	for _, p := range points {
		r.restore(a, p)
		barriers = append(barriers, p.Barrier)
	}
	return barriers
}

// restore makes a set of a point and compares it with the truth.
func (r *rig) restore(a *archive.Archive, p archive.Point) {
	r.t.Helper()
	dir := r.t.TempDir()
	cp, err := archiver.Checkpoint(p)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, name := range archiver.Parts(cp) {
		path := replica.VolumePath(dir, name)
		if name == journal.Objects {
			path = replica.LogPath(dir, cp.Volumes[name])
		}
		r.file(a, *p.Part(name), path)
	}
	if cp, err = replica.Plant(dir, cp); err != nil {
		r.t.Fatal(err)
	}
	set, err := replica.Open(dir, replica.Options{Group: r.Group})
	if err != nil {
		r.t.Fatal(err)
	}
	defer set.Close()
	truth := r.State(p.Barrier)
	for volume, v := range cp.Volumes {
		if _, ok := truth[volume]; volume != journal.Objects && ok != (v.State == replica.Member) {
			r.t.Errorf("point %d: volume %s is %s", p.Barrier, volume, v.State)
		}
	}
	replicatest.SameFiles(r.t, truth, func(volume string) string { return replica.VolumePath(dir, volume) })
	if want := r.ObjectsAt(p.Barrier); want != nil {
		replicatest.SameObjects(r.t, set.Objects(), want)
	}
	if commit := r.Commits[p.Barrier-1]; p.Label != commit.Label || !p.Time.Equal(commit.Time) {
		r.t.Errorf("the point of %q is %+v", commit.Label, p)
	}
}

func (r *rig) file(a *archive.Archive, p archive.Part, path string) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		r.t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(p.Size); err != nil {
		r.t.Fatal(err)
	}
	if err := a.Restore(r.t.Context(), p, archive.RestoreOptions{Sink: zeroed{f}}); err != nil {
		r.t.Fatalf("restore %s: %v", p.Name, err)
	}
}

type zeroed struct{ *os.File }

func (zeroed) Zero(int64, int64) error { return nil }
