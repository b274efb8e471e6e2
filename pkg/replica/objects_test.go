package replica_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/objects"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

// Objects join a group that has volumes, follow with them over restarts, leave and come back.
func TestFollowObjects(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a")
	stop := r.Follow(nil)
	r.AppliedTo(r.Fill(2, 2, "a"))
	if v := r.View(); v != nil {
		t.Errorf("there are objects at barrier %d", v.Barrier())
	}
	r.Objects()
	for range 3 {
		r.AppliedTo(r.Fill(1, 5, "a", journal.Objects))
	}
	stop()
	last := r.Fill(4, 5, "a", journal.Objects)
	told := make(chan *objects.View, 16)
	stop = r.Follow(func(o *replica.FollowerOptions) {
		keep := o.Applied
		o.Applied = func(v *objects.View) { keep(v); told <- v }
	})
	if first := <-told; first.Barrier() >= last.Token.Barrier {
		t.Errorf("the first objects that were told of are of barrier %d", first.Barrier())
	}
	r.AppliedTo(last)
	r.Reopen(journal.Objects)
	r.AppliedTo(r.Fill(1, 5, journal.Objects))
	s := r.StatusWhere("the objects are in the status", func(s *group.Status) bool {
		return s.Objects != nil && s.Objects.State == "member" && s.Objects.Lags.TransitLagSeconds != nil && s.Objects.Revision == r.View().Revision()
	})
	if s.Objects.Count != r.View().Len() || s.Objects.AppliedSeq == 0 || s.Objects.StoredSeq < s.Objects.AppliedSeq || len(s.Volumes) != 1 {
		t.Errorf("the status says %+v", s.Objects)
	}
	before := r.View()
	r.Leave(journal.Objects)
	r.AppliedTo(r.Fill(2, 2, "a"))
	r.StatusWhere("the objects have left", func(s *group.Status) bool { return s.Objects.State == "left" })
	if r.View() != before {
		t.Error("objects that have left were told of")
	}
	r.Join(journal.Objects)
	r.AppliedTo(r.Fill(2, 2, "a", journal.Objects))
	replicatest.SameObjects(t, before, r.ObjectsAt(before.Barrier()))
	stop()
}

// A group may have nothing but objects.
func TestFollowObjectsAlone(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	r.Objects()
	stop := r.Follow(nil)
	r.AppliedTo(r.Fill(2, 5, journal.Objects))
	stop()
	r.Follow(nil)
	r.AppliedTo(r.Fill(2, 5, journal.Objects))
}

// A history of objects that was lost goes on from a base, or begins anew and replaces everything.
func TestObjectsOverGenerations(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a")
	r.Objects()
	r.Follow(nil)
	c := r.Fill(2, 5, "a", journal.Objects)
	r.AppliedTo(c)
	if err := r.Change(3); err != nil { // is lost
		t.Fatal(err)
	}
	r.Stored(journal.Objects)
	found := r.Found(journal.Objects)
	if found.Base == nil || found.Base.Barrier != c.Token.Barrier || found.Base.Seq != c.Objects.Seq {
		t.Fatalf("the objects go on from %+v", found.Base)
	}
	r.RenewObjectsOn(c)
	c = r.Fill(2, 5, "a", journal.Objects)
	r.AppliedTo(c)
	r.RenewObjectsOn(nil)
	r.AppliedTo(r.Fill(1, 5, "a", journal.Objects))
	r.StatusWhere("the third generation is shown", func(s *group.Status) bool { return s.Objects.Generation == 3 })
}

// What the DR API server refuses is a condition, and holds nothing back.
func TestRefusedObjects(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a")
	r.Objects()
	r.Follow(func(o *replica.FollowerOptions) {
		o.Objects = func() *group.ObjectsStatus {
			return &group.ObjectsStatus{
				Applied: &group.Point{Barrier: 1}, HeldBack: 2, Refusals: 5, Problem: "the API server is down",
				Refused: []group.Refusal{{Version: "v1", Resource: "services", Namespace: "bank", Name: "db", Reason: "ports are missing", Since: time.Now()}},
			}
		}
	})
	r.AppliedTo(r.Fill(2, 5, "a", journal.Objects))
	s := r.StatusWhere("refusals are told", func(s *group.Status) bool {
		return !replicatest.Condition(s, group.ConditionObjects).OK && s.Phase == group.PhaseFollowing
	})
	message := replicatest.Condition(s, group.ConditionObjects).Message
	for _, want := range []string{"API server is down", "refuses 5 objects", "services bank/db: ports are missing", "and 4 more"} {
		if !strings.Contains(message, want) {
			t.Errorf("the condition says %q, not %q", message, want)
		}
	}
	if s.Objects.HeldBack != 2 || s.Objects.Applied == nil {
		t.Errorf("the objects are %+v", s.Objects)
	}
}

// [I] A gap in the objects' stream stops the volumes, too: they advance together. It is filled by another mirror.
func TestHoleInObjects(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a")
	r.Objects()
	stop := r.Follow(nil)
	r.AppliedTo(r.Fill(1, 5, "a", journal.Objects))
	stop()
	good := r.Fill(1, 5, "a", journal.Objects)
	lost := good.Objects.Seq + 1
	last := r.Fill(3, 5, "a", journal.Objects)
	for _, part := range []string{"a", journal.Objects, journal.Control} {
		r.Mirrored(part)
	}
	r.DeleteFromMirror(journal.Objects, lost)
	r.Follow(func(o *replica.FollowerOptions) {
		o.DamageRetry, o.MendEvery, o.AskEvery = 20*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
	})
	r.AppliedTo(good)
	r.StatusWhere("the gap is named", func(s *group.Status) bool {
		return strings.Contains(replicatest.Condition(s, group.ConditionComplete).Message, r.ID(journal.Objects).Name())
	})
	r.Capturer(journal.Objects)
	r.AppliedTo(last)
}

// [I] A commit between the parts of an object is refused, and with it the volumes' part.
func TestMarkWithinSplitObject(t *testing.T) {
	t.Parallel()
	seed := pickSeed(t)
	h, src := replicatest.MemoryHistory("g", seed)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(errors.Join(h.Add("a", 16<<10, false), h.Frame("a", 4)))
	_, err := h.Sink(journal.Objects, h.Epoch(journal.Objects))
	must(errors.Join(err, h.Put("whole", 100, 3)))
	h.Join("a")
	h.Join(journal.Objects)
	first, err := h.Commit("")
	must(err)
	must(h.Put("split", 100, 1))
	_, err = h.Sink(journal.Objects, &events.Object{
		Verb: events.Upsert, Key: events.ObjectKey{Version: "v1", Resource: "configmaps", Namespace: "ns-0", Name: "half"}, Parts: 2, Raw: []byte("{"),
	})
	must(err)
	second, err := h.Commit("")
	must(err)
	m := replicatest.NewMachine(seed)
	set, err := openSet(m)
	must(err)
	must(set.Advance(t.Context(), src, first))
	err = set.Advance(t.Context(), src, second)
	if stream, seq, ok := replica.Damage(err); !ok || seq != second.Objects.Seq || stream != src.Name(h.ID(journal.Objects)) {
		t.Fatalf("got %v, want damage at %d", err, second.Objects.Seq)
	}
	same(t, m, h, set.Checkpoint())
	sameObjects(t, m, h, set)
	if cp := set.Checkpoint(); cp.Commit.Barrier != first.Token.Barrier || cp.Applying != nil {
		t.Errorf("the checkpoint is at %d, applying %v", cp.Commit.Barrier, cp.Applying)
	}
}

// A checkpoint of a set without objects is as it always was; one with objects is not for appliers that would forget them.
func TestCheckpointFormats(t *testing.T) {
	h, src := replicatest.MemoryHistory("g", pickSeed(t))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(errors.Join(h.Add("a", 16<<10, false), h.Frame("a", 4)))
	h.Join("a")
	dir := t.TempDir()
	advance := func() string {
		t.Helper()
		c, err := h.Commit("")
		must(err)
		set, err := replica.Open(dir, replica.Options{Group: "g"})
		must(err)
		must(set.Advance(t.Context(), src, c))
		if v := set.Objects(); (v != nil) != (c.Objects != nil) {
			t.Errorf("barrier %d has objects: %v", c.Token.Barrier, v != nil)
		} else if v != nil {
			replicatest.SameObjects(t, v, h.ObjectsAt(c.Token.Barrier))
		}
		must(set.Close())
		body, err := os.ReadFile(filepath.Join(dir, replica.CheckpointFile))
		must(err)
		return string(body)
	}
	if body := advance(); !strings.Contains(body, `"format":1,`) || strings.Contains(body, "log") || strings.Contains(body, "revision") {
		t.Errorf("without objects the checkpoint is %s", body)
	}
	_, err := h.Sink(journal.Objects, h.Epoch(journal.Objects))
	must(errors.Join(err, h.Change(10)))
	h.Join(journal.Objects)
	if body := advance(); !strings.Contains(body, `"format":2,`) {
		t.Errorf("with objects the checkpoint is %s", body)
	}
	advance() // it is opened again
}

// [I] A history of objects that can't be followed holds the volumes too, and a new generation is asked for.
func TestRenewalOfObjects(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a")
	r.Objects()
	capturer := r.Capturer(journal.Objects)
	r.Follow(func(o *replica.FollowerOptions) {
		o.DamageRetry, o.MendEvery, o.AskEvery = 20*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
	})
	good := r.Fill(2, 5, "a", journal.Objects)
	r.AppliedTo(good)
	_, err := r.Sink(journal.Objects, &events.Object{
		Verb: events.Upsert, Key: events.ObjectKey{Version: "v1", Resource: "configmaps", Namespace: "ns-0", Name: "half"}, Parts: 2, Raw: []byte("{"),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Cut("")
	replicatest.Eventually(t, "a new generation is asked for", func() error {
		if len(capturer.Renewed()) == 0 {
			return errors.New("nobody asked")
		}
		return nil
	})
	r.AppliedTo(good)
	found := r.Found(journal.Objects)
	if found.Base == nil || found.Base.Barrier != good.Token.Barrier {
		t.Fatalf("the objects go on from %+v", found.Base)
	}
	r.RenewObjectsOn(nil)
	r.AppliedTo(r.Fill(1, 5, "a", journal.Objects))
	r.StatusWhere("all is well again", func(s *group.Status) bool { return replicatest.Condition(s, group.ConditionComplete).OK })
}
