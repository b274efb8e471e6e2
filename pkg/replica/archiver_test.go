package replica_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

// collector takes a snapshot of every labelled commit, and reads it when it is told to.
type collector struct {
	dir   string
	needs atomic.Uint64

	mu      sync.Mutex
	reached []uint64
	taken   []*replica.Snapshot
	errs    []error
}

func (c *collector) Wanted(commit replica.Commit) bool { return commit.Label != "" }

func (c *collector) Reached(ctx context.Context, s *replica.Set) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cp := s.Checkpoint()
	c.reached = append(c.reached, cp.Commit.Barrier)
	if cp.Commit.Label == "" {
		return
	}
	snap, err := s.Snapshot(ctx, c.dir)
	if err == nil && snap.Checkpoint().Commit != cp.Commit {
		err = fmt.Errorf("a snapshot of %+v at %+v", snap.Checkpoint().Commit, cp.Commit)
	}
	if err != nil {
		c.errs = append(c.errs, err)
		return
	}
	c.taken = append(c.taken, snap)
}

func (c *collector) Needs() uint64 { return c.needs.Load() }

func (c *collector) Status() *group.ArchiveStatus { return &group.ArchiveStatus{Points: 42} }

func (c *collector) told() []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.reached)
}

// check compares what was taken with the history.
func (c *collector) check(t *testing.T, r *replicatest.Rig, labeled ...*events.Commit) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := errors.Join(c.errs...); err != nil {
		t.Error(err)
	}
	if len(c.taken) != len(labeled) {
		t.Fatalf("%d snapshots of %d labelled commits; the replicas were at %v", len(c.taken), len(labeled), c.reached)
	}
	for i, snap := range c.taken {
		if got := snap.Checkpoint().Commit; got != replica.CommitOf(labeled[i]) {
			t.Fatalf("the snapshot is of %+v, want barrier %d", got, labeled[i].Token.Barrier)
		}
		for volume, want := range r.State(labeled[i].Token.Barrier) {
			if got, err := allOf(snap, volume); err != nil || !bytes.Equal(got, want) {
				t.Errorf("volume %s of %d: %v", volume, labeled[i].Token.Barrier, err)
			}
		}
		if err := snap.Close(); err != nil {
			t.Error(err)
		}
	}
	c.taken = nil
}

// [I] Labelled commits are stopped at on the way, however far behind the replicas are; snapshots of them are right while the replicas
// go on; commits are told of and read again.
func TestArchiverIsToldOfCommits(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a", "b")
	r.Objects()
	c := &collector{dir: t.TempDir()}
	with := func(o *replica.FollowerOptions) { o.Archiver = c }
	applied := func(commit *events.Commit) {
		t.Helper()
		replicatest.Eventually(t, "a commit is applied", func() error {
			if told := c.told(); len(told) == 0 || told[len(told)-1] != commit.Token.Barrier {
				return fmt.Errorf("at %v, want %d", told, commit.Token.Barrier)
			}
			return nil
		})
	}
	stop := r.Follow(with)
	applied(r.Fill(2, 3, "a", "b", journal.Objects))
	stop()
	r.Fill(5, 3, "a", "b", journal.Objects)
	first := r.Cut("first")
	r.Fill(5, 3, "a", "b", journal.Objects)
	second := r.Cut("second")
	third := r.Cut("third")
	last := r.Fill(6, 3, "a", "b", journal.Objects)
	for _, part := range []string{"a", "b", journal.Objects, journal.Control} {
		r.Mirrored(part)
	}
	before := len(c.told())
	f := r.Follower(with)
	applied(last)
	told := c.told()[before:]
	if told[0] != 2 {
		t.Errorf("at the start it is told of %d, the replicas hold 2", told[0])
	}
	if len(told) >= int(last.Token.Barrier)-2 {
		t.Errorf("nothing is passed over: %v", told)
	}
	c.check(t, r, first, second, third)
	var want []replica.Commit
	for _, commit := range r.Commits[3:] {
		want = append(want, replica.CommitOf(commit))
	}
	same := func(a, b replica.Commit) bool {
		return a.Barrier == b.Barrier && a.Label == b.Label && a.Time.Equal(b.Time)
	}
	if got := f.Commits(3); !slices.EqualFunc(got, want, same) {
		t.Errorf("behind barrier 3 there are %+v, want %+v", got, want)
	}
	again, err := f.CommitAt(t.Context(), second.Token.Barrier)
	if err != nil || again.Label != "second" || len(again.Vector) != 2 || again.Objects == nil {
		t.Errorf("read again: %+v, %v", again, err)
	}
	if _, err := f.CommitAt(t.Context(), last.Token.Barrier+1); !errors.Is(err, replica.ErrNoCommit) {
		t.Errorf("a commit that isn't there: %v", err)
	}
	r.StatusWhere("the archive is in the status", func(s *group.Status) bool { return s.Archive != nil && s.Archive.Points == 42 })
}

// [I] What the archiver needs isn't trimmed by the retention, and what it goes on from can be told from the mirrors; what full mirrors cost
// it is named.
func TestArchiverKeepsHistory(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	r.Retention = 6 * time.Second // of the history's clock: a second from commit to commit
	seeded(t, r, "a", "b")
	c := &collector{dir: t.TempDir()}
	c.needs.Store(5)
	f := r.Follower(func(o *replica.FollowerOptions) {
		quick(o)
		o.Archiver = c
	})
	at := make(map[uint64]replica.Volume)
	var last *events.Commit
	for range 16 {
		last = r.Fill(1, 2, "a", "b")
		r.AppliedTo(last)
		cp, err := replica.ReadCheckpoint(r.Dir())
		if err != nil {
			t.Fatal(err)
		}
		at[last.Token.Barrier] = cp.Volumes["a"]
	}
	base := func() uint64 {
		cp, err := replica.ReadCheckpoint(replica.BaseDir(r.Dir()))
		if err != nil {
			return 0
		}
		return cp.Commit.Barrier
	}
	mirrors := replica.NewMirrors(r.Pair.DR)
	defer mirrors.Close()
	known := func(from uint64) bool {
		t.Helper()
		set, err := replica.Changes(t.Context(), mirrors, "g", "a", at[from], at[last.Token.Barrier])
		if err != nil {
			t.Fatal(err)
		}
		return set != nil
	}
	replicatest.Eventually(t, "the history before what is needed is trimmed", func() error {
		if b := base(); b != 4 {
			return fmt.Errorf("the base is at %d, want 4", b)
		}
		if first := firstOf(t, r, "a"); first != at[4].Seq+1 {
			return fmt.Errorf("the mirror begins at %d, want %d", first, at[4].Seq+1)
		}
		return nil
	})
	if !known(5) {
		t.Error("from what is needed it can't be told what changed")
	}
	if known(4) {
		t.Error("what changed can be told from a mark that is trimmed")
	}
	c.needs.Store(7)
	r.Fill(1, 1, "a")
	last = r.Cut("wanted")
	r.AppliedTo(last)
	replicatest.Eventually(t, "the history goes on being trimmed", func() error {
		if b := base(); b != 6 {
			return fmt.Errorf("the base is at %d, want 6", b)
		}
		return nil
	})
	r.AppliedTo(r.Fill(3, 2, "a", "b"))
	limited := r.Document()
	limited.Spec.Recovery.Journal.MaxBytes = group.ByteSize(r.MirrorBytes() / 20)
	f.Update(limited)
	r.StatusWhere("what the archive loses is named", func(s *group.Status) bool {
		m := replicatest.Condition(s, group.ConditionJournal).Message
		return strings.Contains(m, "the archive had come to barrier 7 only") && strings.Contains(m, `"wanted" (barrier`)
	})
	if _, err := f.CommitAt(t.Context(), 8); !errors.Is(err, replica.ErrNoCommit) {
		t.Errorf("a commit that was trimmed: %v", err)
	}
}
