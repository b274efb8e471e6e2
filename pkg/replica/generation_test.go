package replica_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

// quick makes a follower try everything again at once.
func quick(o *replica.FollowerOptions) {
	o.DamageRetry, o.RetentionEvery = 20*time.Millisecond, 10*time.Millisecond
	o.MendEvery, o.AskEvery, o.RoomEvery = 20*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
}

// sameHashes fails unless the DR site's hashes at a base are those of what the volume held at the commit.
func sameHashes(t *testing.T, r *replicatest.Rig, volume string, base events.Base, barrier uint64) {
	t.Helper()
	want := r.State(barrier)[volume]
	got, err := repair.RecoveryOf(r.Pair.Primary.Conn(), r.Group).Hashes(t.Context(), volume, base, 0, int64(len(want)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		unit := want[i*repair.HashUnit : min((i+1)*repair.HashUnit, len(want))]
		if got[i] != sha256.Sum256(unit) {
			t.Fatalf("unit %d of %d differs", i, len(got))
		}
	}
	if len(got) != (len(want)+repair.HashUnit-1)/repair.HashUnit {
		t.Fatalf("%d hashes of %d bytes", len(got), len(want))
	}
}

// [I] A volume whose history was lost goes on where its replica stands, over restarts of the applier, and again.
func TestNewGeneration(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a", "b")
	stop := r.Follow(quick)
	last := r.Fill(3, 3, "a", "b")
	for round := range 3 {
		if err := r.Frame("a", 8); err != nil { // in the old generation, in no commit: it is sent again in the new one
			t.Fatal(err)
		}
		r.Stored("a")
		found := r.Found("a")
		if want := replicatest.BaseAt("a", last); found.Base == nil || *found.Base != *want {
			t.Fatalf("the base is %+v, want %+v", found.Base, want)
		}
		if found.Newest != r.ID("a").Generation || found.Barrier < last.Token.Barrier || found.Size != 1<<20 {
			t.Errorf("found %+v", found)
		}
		sameHashes(t, r, "a", *found.Base, last.Token.Barrier)
		r.RenewOn("a", last)
		if round == 1 {
			stop()
		}
		last = r.Fill(2, 3, "a", "b")
		if round == 1 {
			stop = r.Follow(quick)
		}
		r.AppliedTo(last)
		_, err := repair.RecoveryOf(r.Pair.Primary.Conn(), r.Group).Hashes(t.Context(), "a", *found.Base, 0, 4096)
		if !errors.Is(err, repair.ErrGone) {
			t.Errorf("hashes of a base that was left: %v", err)
		}
	}
	r.StatusWhere("the newest generation is shown", func(s *group.Status) bool {
		return s.Volumes[0].Generation == 4 && s.Phase == group.PhaseFollowing
	})
}

// A history without a base begins the replica anew; one whose base is not where the replica stands is refused, and named.
func TestNewGenerationElsewhere(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a", "b")
	asked := r.Capturer("a")
	r.Follow(quick)
	first := r.Fill(1, 3, "a", "b")
	second := r.Fill(1, 3, "a", "b")
	r.AppliedTo(second)
	r.RenewOn("a", nil)
	r.AppliedTo(r.Fill(2, 3, "a", "b"))
	r.RenewOn("a", first)
	r.Fill(1, 3, "a", "b")
	replicatest.Eventually(t, "another generation is asked for", func() error {
		if len(asked.Renewed()) == 0 {
			return errors.New("it is not")
		}
		return nil
	})
	r.StatusWhere("the foreign base is named", func(s *group.Status) bool {
		c := replicatest.Condition(s, group.ConditionComplete)
		return !c.OK && s.Phase == group.PhaseStopped
	})
	// Where the replica stands is told, and that is where it goes on.
	found := r.Found("a")
	on := r.Commits[found.Base.Barrier-1]
	r.RenewOn("a", on)
	r.AppliedTo(r.Fill(2, 3, "a", "b"))
	r.StatusWhere("all is well again", func(s *group.Status) bool { return s.Phase == group.PhaseFollowing })
}

// Another volume takes a volume's place while everything runs.
func TestVolumeIsReplaced(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a", "b")
	r.Follow(quick)
	r.AppliedTo(r.Fill(2, 3, "a", "b"))
	if found := r.Found("b"); found.Base == nil {
		t.Errorf("found %+v", found)
	}
	r.Leave("b")
	r.AppliedTo(r.Fill(1, 3, "a"))
	r.StopWriter("b")
	r.Replaced("b", 2<<20)
	if found := r.Found("b"); found.Base != nil || found.Newest != 1 {
		t.Errorf("of another volume was found %+v", found)
	}
	r.RenewOn("b", nil)
	if err := errors.Join(r.Frame("b", 8), r.Seed("b")); err != nil {
		t.Fatal(err)
	}
	r.Join("b")
	r.AppliedTo(r.Fill(2, 3, "a", "b"))
}

// [I] A commit that comes in after it was told where a replica stands doesn't lead it away from there.
func TestReplicaStaysWhereItWasTold(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a", "b")
	r.Follow(quick)
	told := r.Fill(2, 3, "a", "b")
	r.AppliedTo(told)
	late, err := r.Commit("") // its marks are stored, the commit is not
	if err != nil {
		t.Fatal(err)
	}
	r.Mirrored("a")
	r.Mirrored("b")
	found := r.Found("a")
	if want := replicatest.BaseAt("a", told); *found.Base != *want {
		t.Fatalf("the base is %+v, want %+v", found.Base, want)
	}
	r.Publish(late)
	r.Mirrored(journal.Control)
	replicatest.Eventually(t, "the late commit was read", func() error {
		again, err := repair.RecoveryOf(r.Pair.Primary.Conn(), r.Group).Found(t.Context(), journal.Control, "")
		if err == nil && again.Barrier < late.Token.Barrier {
			err = fmt.Errorf("at %d", again.Barrier)
		}
		return err
	})
	sameHashes(t, r, "a", *found.Base, told.Token.Barrier)
	r.RenewOn("a", told)
	r.AppliedTo(r.Fill(2, 3, "a", "b"))
}

// [I] Once a new generation is here, a commit beside the way to it is passed over, by an applier that forgot what it told, too.
func TestCommitBesideTheWayIsPassedOver(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a", "b")
	stop := r.Follow(quick)
	told := r.Fill(2, 3, "a", "b")
	r.AppliedTo(told)
	late, err := r.Commit("")
	if err != nil {
		t.Fatal(err)
	}
	r.Mirrored("a")
	r.Mirrored("b")
	found := r.Found("a")
	stop()
	r.RenewOn("a", told)
	r.Capturer("a")
	stop = r.Follow(quick)
	r.Mirrored("a")
	stop()
	r.Publish(late)
	r.Follow(quick)
	r.Mirrored(journal.Control)
	replicatest.Eventually(t, "the late commit was read", func() error {
		again, err := repair.RecoveryOf(r.Pair.Primary.Conn(), r.Group).Found(t.Context(), journal.Control, "")
		if err == nil && again.Barrier < late.Token.Barrier {
			err = fmt.Errorf("at %d", again.Barrier)
		}
		return err
	})
	sameHashes(t, r, "a", *found.Base, told.Token.Barrier)
	r.AppliedTo(r.Fill(2, 3, "a", "b"))
}

// Where a history can't be told to go on yet, that is said: what is on its way is waited for.
func TestFoundWaits(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a")
	r.Volume("c", 1<<20)
	if err := r.Frame("c", 4); err != nil {
		t.Fatal(err)
	}
	recovery := repair.RecoveryOf(r.Pair.Primary.Conn(), "g")
	if _, err := recovery.Found(t.Context(), "a", "uid-a"); !errors.Is(err, repair.ErrUnavailable) {
		t.Errorf("without an applier: %v", err)
	}
	r.Capturer("a")
	r.Follow(quick)
	r.AppliedTo(r.Fill(1, 3, "a"))
	if found := r.Found("c"); found.Base != nil {
		t.Errorf("of a joining volume was found %+v", found)
	}
	stored, err := recovery.Stored(t.Context(), "a", 1)
	if tail, _ := r.Pair.DR.Tail(t.Context(), replica.MirrorName(r.ID("a"))); err != nil || stored == 0 || stored > tail.Last {
		t.Errorf("stored %d of %d, %v", stored, tail.Last, err)
	}
	if n, err := recovery.Stored(t.Context(), "a", 7); n != 0 || err != nil {
		t.Errorf("of a generation that isn't there is stored %d, %v", n, err)
	}
	if err := r.Pair.Primary.PauseMirror(t.Context(), r.ID("a"), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	last := r.Fill(1, 3, "a")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if found, err := recovery.Found(ctx, "a", "uid-a"); !errors.Is(err, repair.ErrBusy) {
		t.Errorf("with history on its way: %+v, %v", found, err)
	}
	if err := r.Pair.Primary.PauseMirror(t.Context(), r.ID("a"), time.Time{}); err != nil {
		t.Fatal(err)
	}
	if found := r.Found("a"); found.Base.Barrier != last.Token.Barrier {
		t.Errorf("found %+v, want barrier %d", found, last.Token.Barrier)
	}
}

// The control stream goes on in another generation: commits keep their order, before and after a restart.
func TestControlGenerations(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a", "b")
	stop := r.Follow(quick)
	r.AppliedTo(r.Fill(3, 3, "a", "b"))
	for range 2 {
		found := r.Found(journal.Control)
		if found.Base == nil || found.Base.Generation != r.ID(journal.Control).Generation || found.Barrier < uint64(len(r.Commits)) {
			t.Fatalf("found %+v", found)
		}
		r.RenewControl(found.Base)
		r.AppliedTo(r.Fill(2, 3, "a", "b"))
	}
	stop()
	last := r.Fill(2, 3, "a", "b")
	r.Follow(quick)
	r.AppliedTo(last)
	r.StatusWhere("the oldest point is the first", func(s *group.Status) bool { return s.Oldest != nil && s.Oldest.Barrier == 1 })
}

// Mirrors of generations that the base has left behind go; the base crosses into the new generation.
func TestRetentionOverGenerations(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	r.Retention = 10 * time.Second
	seeded(t, r, "a", "b")
	stop := r.Follow(quick)
	last := r.Fill(5, 2, "a", "b")
	r.AppliedTo(last)
	oldA, oldB, oldControl := r.ID("a"), r.ID("b"), r.ID(journal.Control)
	r.Found("a")
	r.RenewOn("a", last)
	r.RenewOn("b", nil)
	r.AppliedTo(r.Fill(2, 2, "a", "b"))
	r.RenewControl(r.Found(journal.Control).Base)
	last = r.Fill(25, 2, "a", "b")
	r.AppliedTo(last)
	for _, id := range []journal.StreamID{oldA, oldB, oldControl} {
		replicatest.Eventually(t, "the mirror of "+id.Name()+" is deleted", func() error {
			_, err := r.Pair.DR.Mirror(t.Context(), id)
			if errors.Is(err, jetstream.ErrStreamNotFound) {
				return nil
			}
			return fmt.Errorf("it is there: %v", err)
		})
	}
	stop()
	cp, err := replica.ReadCheckpoint(replica.BaseDir(r.Dir()))
	if err != nil {
		t.Fatal(err)
	}
	replicatest.SameFiles(t, r.State(cp.Commit.Barrier), func(v string) string { return replica.VolumePath(replica.BaseDir(r.Dir()), v) })
	r.Follow(quick)
	r.AppliedTo(r.Fill(2, 2, "a", "b"))
	r.StatusWhere("all is well", func(s *group.Status) bool { return s.Phase == group.PhaseFollowing })
}
