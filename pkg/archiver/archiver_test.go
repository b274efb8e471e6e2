package archiver_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

const size = 40*grid.Chunk + 512

// [I] Every archived point restores to what the group held at its commit, while the replicas go on.
func TestEveryPointIsTheTruth(t *testing.T) {
	t.Parallel()
	for name, encrypted := range map[string]bool{"plain": false, "encrypted": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			if encrypted {
				var err error
				if r.key, err = age.GenerateX25519Identity(); err != nil {
					t.Fatal(err)
				}
			}
			r.seeded("a", size)
			r.seeded("b", size/2)
			r.Objects()
			r.start()
			for round := range 30 {
				c := r.Fill(1+round%3, 3, "a", "b", journal.Objects)
				r.archived(c)
				if round%10 == 0 {
					r.AppliedTo(c)
				}
			}
			if points := r.verify(); len(points) < 30 {
				t.Errorf("archived are %v", points)
			}
		})
	}
}

// Every labelled commit is archived, those that the replicas passed, too: while the store fails, and while the applier is down.
func TestLabeledCommits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.spec.Every = 0
	r.seeded("a", size)
	r.Objects()
	r.start()
	var labels []*events.Commit
	label := func(name string) {
		r.Fill(1, 3, "a", journal.Objects)
		labels = append(labels, r.Cut(name))
		r.AppliedTo(r.Fill(1, 3, "a", journal.Objects))
	}
	label("first")
	r.archived(labels...)
	label("second")
	label("third")
	r.end()
	r.Fill(1, 3, "a", journal.Objects)
	labels = append(labels, r.Cut("down"))
	r.Fill(3, 3, "a", journal.Objects)
	r.start()
	r.archived(labels...)
	if got := r.verify(); !slices.Equal(got, barriers(labels)) {
		t.Errorf("archived are %v, want %v", got, barriers(labels))
	}
	if s := r.archiver.Status(); s.Problem != "" || len(s.Lost) > 0 {
		t.Errorf("the status says %+v", s)
	}
}

// The interval goes by the commits' times.
func TestInterval(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.spec.Every = 1 << 40 // 18 minutes; a commit is a second
	r.seeded("a", size)
	first := r.Fill(1, 2, "a")
	r.start()
	r.archived(first)
	at := first.Time
	r.Clock = func() time.Time { at = at.Add(10 * time.Minute); return at }
	r.AppliedTo(r.Fill(1, 1, "a"))
	second := r.Fill(1, 1, "a")
	r.archived(second)
	if got := r.verify(); !slices.Equal(got, []uint64{first.Token.Barrier, second.Token.Barrier}) {
		t.Errorf("archived are %v", got)
	}
}

// A store that hangs holds up nothing but the archive: the replicas go on, and labelled commits that they pass meanwhile are built
// from the journal afterwards.
func TestPassedWhileTheStoreHangs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.spec.Every = 0
	r.seeded("a", size)
	r.seeded("b", size/2)
	r.Objects()
	release := make(chan struct{})
	var once sync.Once
	hung := make(chan struct{})
	r.store.On(func(op storetest.Op) *storetest.Fault {
		if op.Kind == "Put" && strings.HasPrefix(op.Name, "packs/") {
			once.Do(func() { close(hung) })
			<-release
		}
		return nil
	})
	r.start()
	parts := []string{"a", "b", journal.Objects}
	r.Fill(1, 3, parts...)
	labels := []*events.Commit{r.Cut("first")}
	<-hung
	for i := range 4 {
		if i == 2 {
			if err := r.Resize("a", size+3*grid.Chunk+1024); err != nil {
				t.Fatal(err)
			}
			r.seeded("c", size/4) // joins
			r.Leave("b")
			parts = []string{"a", "c", journal.Objects}
		}
		r.Fill(2, 3, parts...)
		labels = append(labels, r.Cut(fmt.Sprintf("passed-%d", i)))
	}
	r.AppliedTo(r.Fill(1, 3, parts...))
	if s := r.archiver.Status(); s.Running == nil || s.Running.Point.Barrier != labels[0].Token.Barrier || s.Waiting < 4 || s.Points > 0 {
		t.Errorf("the status says %+v", s)
	}
	close(release)
	r.archived(labels...)
	if got := r.verify(); !slices.Equal(got, barriers(labels)) {
		t.Errorf("archived are %v, want %v", got, barriers(labels))
	}
	if _, err := os.Stat(filepath.Join(r.Dir(), "archive-build")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what points were built in is left: %v", err)
	}
}

func barriers(commits []*events.Commit) (out []uint64) {
	for _, c := range commits {
		out = append(out, c.Token.Barrier)
	}
	return out
}

// dieAt returns a hook that lets the n-th operation be the last one, counted from the beginning of the first run; n below 1 is before that.
func dieAt(n int, after bool) func(storetest.Op) *storetest.Fault {
	var first atomic.Int64
	return func(op storetest.Op) *storetest.Fault {
		if op.Kind == "Put" && strings.HasPrefix(op.Name, "runs/") {
			first.CompareAndSwap(0, int64(op.N))
		}
		if first.Load() == 0 {
			return nil
		}
		return storetest.DieAt(int(first.Load())+n-1, after)(op)
	}
}

// [I] Whatever operation of the store is the last one of a process, the next one archives what was to be archived, and no point is wrong.
func TestDeathAtEveryOperation(t *testing.T) {
	t.Parallel()
	const lanes = 4 // each has every fourth operation
	for lane := range lanes {
		t.Run(fmt.Sprint(lane), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.spec.Every = 0
			r.seeded("a", size)
			r.Objects()
			r.start()
			labels := []*events.Commit{r.Cut("first")}
			r.archived(labels...)
			r.end()
			for n, died := 1+lane, true; died; n += lanes {
				died = false
				for _, after := range []bool{false, true} {
					more, dead := r.dies(n, after)
					labels, died = append(labels, more...), died || dead
				}
				r.store.On(nil)
				r.start()
				r.archived(labels...)
				r.end()
			}
			if got := r.verify(); !slices.Equal(got, barriers(labels)) {
				t.Errorf("archived are %v, want %v", got, barriers(labels))
			}
		})
	}
}

// dies lets an applier work on two labelled commits until its store dies, or all is done.
func (r *rig) dies(n int, after bool) (labels []*events.Commit, died bool) {
	r.store.On(dieAt(n, after))
	r.start()
	defer r.end()
	for range 2 { // the second one may be passed
		r.Fill(1, 2, "a", journal.Objects)
		labels = append(labels, r.Cut(fmt.Sprintf("%d-%v", n, after)))
	}
	r.AppliedTo(r.Fill(1, 1, "a", journal.Objects))
	replicatest.Eventually(r.t, "the store is gone, or all is archived", func() error {
		s := r.archiver.Status()
		if s.Problem == "" && (s.Waiting > 0 || s.Running != nil) {
			return fmt.Errorf("the status is %+v", s)
		}
		died = s.Problem != ""
		return nil
	})
	return labels, died
}

// What lasts is a condition that says what to do; when it is over archiving goes on, with what was labelled meanwhile.
func TestLastingFailures(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.seeded("a", size)
	r.start()
	r.archived(r.Fill(1, 2, "a"))
	var labels []*events.Commit
	for _, failure := range []error{store.ErrDenied, store.ErrNoBucket, store.ErrClockSkew} {
		r.store.On(func(op storetest.Op) *storetest.Fault { return &storetest.Fault{Before: failure} })
		r.Fill(1, 2, "a")
		labels = append(labels, r.Cut("during "+failure.Error()))
		last := r.Fill(1, 2, "a")
		r.AppliedTo(last)
		s := r.StatusWhere("the condition tells of "+failure.Error(), func(s *group.Status) bool {
			c := replicatest.Condition(s, group.ConditionArchive)
			return !c.OK && strings.Contains(c.Message, failure.Error()) && s.Phase == group.PhaseFollowing
		})
		if s.Archive == nil || s.Archive.Newest == nil || s.Archive.Points == 0 {
			t.Errorf("the status forgot the archive: %+v", s.Archive)
		}
		r.store.On(nil)
		r.archived(labels...)
		r.StatusWhere("all is well again", func(s *group.Status) bool { return replicatest.Condition(s, group.ConditionArchive).OK })
	}
	r.verify()
}

// A labelled commit whose history goes before it is archived is named, and the archive goes on without it.
func TestHistoryGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.spec.Every = 0
	r.seeded("a", size)
	r.start()
	first := r.Cut("first")
	r.archived(first)
	r.store.On(func(op storetest.Op) *storetest.Fault { return &storetest.Fault{Before: storetest.ErrInjected} })
	r.Fill(1, 2, "a")
	hole := r.Stored("a")
	lost := r.Cut("lost")
	r.AppliedTo(r.Fill(1, 2, "a"))
	replicatest.Eventually(t, "a snapshot of it was given up", func() error {
		if s := r.archiver.Status(); s.Problem == "" || s.Waiting != 1 {
			return fmt.Errorf("the status is %+v", s)
		}
		return nil
	})
	r.DeleteFromMirror("a", hole)
	r.store.On(nil)
	s := r.StatusWhere("the lost point is named", func(s *group.Status) bool {
		return s.Archive != nil && len(s.Archive.Lost) == 1 && strings.Contains(replicatest.Condition(s, group.ConditionArchive).Message, `"lost"`)
	})
	if s.Archive.Lost[0].Barrier != lost.Token.Barrier || s.Archive.Waiting != 0 {
		t.Errorf("the status says %+v", s.Archive)
	}
	next := r.Cut("next")
	r.archived(next)
	if got := r.verify(); !slices.Equal(got, []uint64{first.Token.Barrier, next.Token.Barrier}) {
		t.Errorf("archived are %v", got)
	}
}

// The journal of a new generation leads on from an archived point, or it doesn't; either way the next point is right.
func TestGenerations(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.seeded("a", size)
	r.seeded("b", size/2)
	r.Objects()
	r.Capturer("a")
	r.start()
	parts := []string{"a", "b", journal.Objects}
	c := r.Fill(2, 3, parts...)
	r.archived(c)
	if err := r.Frame("a", 8); err != nil { // is lost
		t.Fatal(err)
	}
	r.RenewOn("a", c)
	r.Fill(2, 3, parts...)
	c = r.Cut("renewed")
	r.archived(c)
	r.RenewOn("a", nil)
	r.RenewObjectsOn(c)
	r.Fill(2, 3, parts...)
	c = r.Cut("blank")
	r.archived(c)
	r.verify()
}

// History stays as long as a labelled commit needs it, and goes when that is archived.
func TestRetentionWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.spec.Every, r.Retention = 0, 3*time.Second
	r.change = func(o *replica.FollowerOptions) { o.RetentionEvery = 20 * time.Millisecond }
	r.seeded("a", size)
	r.start()
	r.archived(r.Cut("first"))
	r.store.On(func(op storetest.Op) *storetest.Fault { return &storetest.Fault{Before: storetest.ErrInjected} })
	r.Fill(2, 2, "a")
	waits := r.Cut("waits")
	last := r.Fill(20, 2, "a")
	r.AppliedTo(last)
	oldest := func(s *group.Status) uint64 { return s.Oldest.Barrier }
	for range 3 { // a few rounds of the retention
		at := time.Now()
		s := r.StatusWhere("the status is new", func(s *group.Status) bool { return s.Time.After(at) })
		if oldest(s) >= waits.Token.Barrier {
			t.Fatalf("history was trimmed to %d, before %d was archived", oldest(s), waits.Token.Barrier)
		}
	}
	r.store.On(nil)
	r.archived(waits)
	r.Fill(1, 1, "a")
	r.StatusWhere("history is trimmed", func(s *group.Status) bool { return oldest(s) > waits.Token.Barrier })
	r.verify()
}

// The document's changes take effect while all goes on.
func TestDocumentChanges(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.spec.Every, r.spec.Labeled = 1<<50, false
	r.seeded("a", size)
	first := r.Fill(1, 2, "a")
	r.start()
	r.archived(first)
	r.AppliedTo(r.Fill(2, 2, "a"))
	if got := r.verify(); len(got) != 1 {
		t.Errorf("archived are %v", got)
	}
	r.spec.Every = group.Duration(time.Second)
	r.archiver.Update(r.document())
	r.archived(r.Fill(1, 2, "a"))
	none := r.document()
	none.Spec.Recovery.Archive = nil
	r.archiver.Update(none)
	replicatest.Eventually(t, "there is no archive", func() error {
		if r.archiver.Status() != nil || r.archiver.Needs() != 0 {
			return errors.New("there is")
		}
		return nil
	})
	r.AppliedTo(r.Fill(2, 2, "a"))
	before := len(r.verify())
	opens := r.opens.Load()
	r.archiver.Update(r.document())
	r.archived(r.Fill(1, 2, "a"))
	if r.opens.Load() != opens+1 || len(r.verify()) <= before {
		t.Errorf("the archive was opened %d times", r.opens.Load())
	}
}

// A volume that grows is read no further than it changed, wherever its end was on the grid.
func TestGrowth(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.seeded("a", 8*grid.Chunk)
	r.start()
	at := int64(8 * grid.Chunk)
	for _, more := range []int64{2 * grid.Chunk, 512, grid.Chunk - 512, grid.Chunk, 3*grid.Chunk + 512, 512} {
		r.archived(r.Fill(1, 1, "a"))
		at += more
		if err := r.Resize("a", at); err != nil {
			t.Fatal(err)
		}
		r.archived(r.Cut(""))
		r.archived(r.Fill(1, 1, "a"))
	}
	r.verify()
	if s := r.archiver.Status(); s.Problem != "" {
		t.Error(s.Problem)
	}
}

// Labelled commits from before the first archived point are built over the base, or over nothing where the whole history is there.
func TestLabelsBeforeTheFirstPoint(t *testing.T) {
	t.Parallel()
	for name, trimmed := range map[string]bool{"over the base": true, "over nothing": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.spec.Every = 0
			if trimmed {
				r.Retention = 5 * time.Second
				r.change = func(o *replica.FollowerOptions) { o.RetentionEvery = 20 * time.Millisecond }
			}
			r.seeded("a", size)
			r.Objects()
			r.Fill(20, 2, "a", journal.Objects)
			r.store.On(func(op storetest.Op) *storetest.Fault { return &storetest.Fault{Before: storetest.ErrInjected} })
			r.start()
			if trimmed {
				r.StatusWhere("history is trimmed", func(s *group.Status) bool { return s.Oldest != nil && s.Oldest.Barrier > 10 })
			}
			r.Fill(1, 2, "a", journal.Objects)
			labels := []*events.Commit{r.Cut("one")}
			r.Fill(1, 2, "a", journal.Objects)
			labels = append(labels, r.Cut("two"))
			r.AppliedTo(r.Fill(1, 2, "a", journal.Objects))
			r.store.On(nil)
			r.archived(labels...)
			if got := r.verify(); !slices.Equal(got, barriers(labels)) {
				t.Errorf("archived are %v, want %v", got, barriers(labels))
			}
		})
	}
}

// A point whose chunks are damaged is not gone on from: the next one is read as a whole, and right.
func TestDamagedPredecessor(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.spec.Every = 0
	r.seeded("a", size)
	r.start()
	damaged := r.Cut("damaged")
	r.archived(damaged)
	r.store.On(func(op storetest.Op) *storetest.Fault {
		if op.Kind == "Get" && strings.HasPrefix(op.Name, "packs/") {
			return &storetest.Fault{Data: storetest.Flip(8 * 12345)}
		}
		return nil
	})
	r.Fill(1, 2, "a")
	next := r.Cut("next")
	r.archived(next)
	r.store.On(nil)
	r.verify()
}

// The applier prunes as the document says, while it goes on archiving.
func TestPruning(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.spec.Prune, r.spec.Keep = group.Duration(10*time.Millisecond), group.Keep{Last: 3, Labels: []string{"keep-*"}}
	r.seeded("a", size)
	r.start()
	kept, gone := r.Cut("keep-it"), r.Cut("drop-it")
	r.archived(kept, gone)
	for range 10 {
		r.archived(r.Fill(1, 2, "a"))
	}
	last := r.Fill(1, 2, "a")
	replicatest.Eventually(t, "what isn't kept is removed, and isn't archived again", func() error {
		s := r.archiver.Status()
		if s.Pruned == nil || s.Points > 6 || s.Newest.Barrier != last.Token.Barrier || s.Waiting > 0 || s.Problem != "" {
			return fmt.Errorf("the status is %+v", s)
		}
		return nil
	})
	r.end()
	puts := 0
	for _, op := range r.store.Ops() {
		if op.Kind == "Put" && op.Name == fmt.Sprintf("points/%020d", gone.Token.Barrier) {
			puts++
		}
	}
	if puts != 1 {
		t.Errorf("what isn't kept was archived %d times", puts)
	}
	got := r.verify()
	if !slices.Contains(got, kept.Token.Barrier) || slices.Contains(got, gone.Token.Barrier) {
		t.Errorf("left are %v", got)
	}
}

// What changed between two points that are far from each other is read ahead, over generations, growth, and members that come and go.
func TestReadingAhead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.spec.Every = group.Duration(30 * time.Second) // a commit is a second
	r.seeded("a", size)
	r.seeded("b", size/2)
	r.start()
	r.archived(r.Fill(1, 2, "a", "b"))
	for round := range 3 {
		for batch := range 5 {
			last := r.Fill(5, 1, "a", "b")
			r.AppliedTo(last)
			read := r.archiver.ReadAhead()
			if batch == 2 && round == 1 {
				r.RenewOn("a", last)
				if err := r.Resize("b", size/2+3*grid.Chunk); err != nil {
					t.Fatal(err)
				}
			}
			replicatest.Eventually(t, "what changed was read ahead", func() error {
				if r.archiver.ReadAhead() == read {
					return errors.New("it was not")
				}
				return nil
			})
		}
		r.archived(r.Fill(5, 1, "a", "b"))
	}
	if points := r.verify(); len(points) != 4 {
		t.Errorf("archived are %v", points)
	}
}

// Where the replicas' file system is about to be full nothing is built there, and it goes on when there is room.
func TestNoRoomToBuild(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.spec.Every = 0
	r.seeded("a", size)
	r.start()
	labels := []*events.Commit{r.Cut("first")}
	r.archived(labels...)
	r.end()
	r.store.On(func(op storetest.Op) *storetest.Fault { return &storetest.Fault{Before: storetest.ErrInjected} })
	r.start()
	r.Fill(1, 2, "a")
	labels = append(labels, r.Cut("passed"))
	last := r.Fill(2, 2, "a")
	r.AppliedTo(last)
	r.end()
	r.store.On(nil)
	var full atomic.Bool
	full.Store(true)
	r.room = func(dir string) error {
		if full.Load() {
			return fmt.Errorf("%s is full: %w", dir, syscall.ENOSPC)
		}
		return nil
	}
	r.start()
	s := r.StatusWhere("it is told", func(s *group.Status) bool {
		return strings.Contains(replicatest.Condition(s, group.ConditionArchive).Message, "make room: it goes on by itself")
	})
	if tried := s.Archive.Running != nil; !tried && s.Archive.Waiting != 1 || len(s.Archive.Lost) > 0 {
		t.Errorf("the status says %+v", s.Archive)
	}
	full.Store(false)
	r.archived(labels...)
	r.verify()
}
