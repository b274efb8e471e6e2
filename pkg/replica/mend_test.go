package replica_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

// eventually waits until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	replicatest.Eventually(t, what, func() error {
		if !is() {
			return errors.New("it is not")
		}
		return nil
	})
}

func ok(kind string) func(*group.Status) bool {
	return func(s *group.Status) bool { return replicatest.Condition(s, kind).OK }
}

// [I] A hole in a mirror is filled by another incarnation, in volumes and in the control stream, and the base and replays
// read over it.
func TestHoleIsMended(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	r.Retention = 10 * time.Second
	seeded(t, r, "a", "b")
	stop := r.Follow(quick)
	before := r.Fill(1, 5, "a", "b")
	r.AppliedTo(before)
	stop()
	good := r.Fill(1, 5, "a", "b")
	r.Fill(3, 5, "a", "b")
	for _, part := range []string{"a", "b", journal.Control} {
		r.Capturer(part)
		r.Mirrored(part)
	}
	r.DeleteFromMirror("a", good.Vector[0].Position.Seq+2)
	r.DeleteFromMirror(journal.Control, 4)
	r.Follow(quick)
	r.AppliedTo(r.Fill(1, 5, "a", "b"))
	for _, part := range []string{"a", journal.Control} {
		m, err := r.Pair.DR.Mirror(t.Context(), r.ID(part))
		if err != nil || len(m.Incarnations) != 2 {
			t.Errorf("%s has %d incarnations, %v", part, len(m.Incarnations), err)
		}
	}
	r.Mirrored("b")
	r.AppliedTo(r.Fill(1, 1, "b"))
	r.DeleteFromMirror("b", good.Vector[1].Position.Seq-1) // the replica holds it, the base needs it
	last := r.Fill(25, 2, "a", "b")
	r.AppliedTo(last)
	eventually(t, "the base went over what was lacking", func() bool {
		cp, err := replica.ReadCheckpoint(replica.BaseDir(r.Dir()))
		return err == nil && cp.Applying == nil && cp.Commit.Barrier > good.Token.Barrier
	})
	r.StatusWhere("all is well", func(s *group.Status) bool { return ok(group.ConditionComplete)(s) && s.Phase == group.PhaseFollowing })
}

// [I] Where the primary has trimmed what a hole needs, a new generation is asked for, and the replica goes on with that.
func TestHoleBeyondMending(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a", "b")
	a := r.Capturer("a")
	stop := r.Follow(quick)
	before := r.Fill(1, 5, "a", "b")
	r.AppliedTo(before)
	stop()
	good := r.Fill(1, 5, "a", "b")
	lost := good.Vector[0].Position.Seq + 2
	r.Fill(3, 5, "a", "b")
	for _, part := range []string{"a", "b", journal.Control} {
		r.Mirrored(part)
	}
	r.DeleteFromMirror("a", lost)
	if err := r.Pair.Primary.Purge(t.Context(), r.ID("a").Name(), lost+1); err != nil {
		t.Fatal(err)
	}
	r.Follow(quick)
	r.AppliedTo(good)
	eventually(t, "a new generation is asked for", func() bool { return len(a.Renewed()) > 0 })
	if reason := a.Renewed()[0]; !strings.Contains(reason, fmt.Sprint(lost)) {
		t.Errorf("the reason is %q, want message %d", reason, lost)
	}
	r.StatusWhere("the hole is named", func(s *group.Status) bool { return !ok(group.ConditionComplete)(s) })
	if found := r.Found("a"); *found.Base != *replicatest.BaseAt("a", good) {
		t.Fatalf("found %+v, want %+v", found.Base, replicatest.BaseAt("a", good))
	}
	r.RenewOn("a", good)
	r.AppliedTo(r.Fill(2, 3, "a", "b"))
	r.StatusWhere("all is well", func(s *group.Status) bool { return ok(group.ConditionComplete)(s) && s.Phase == group.PhaseFollowing })
}

// [I] Damage that no mirror can mend, seen twice, makes a new generation; commits behind it are passed over.
func TestDamageBeyondMending(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a", "b")
	a := r.Capturer("a")
	r.Follow(quick)
	good := r.Fill(2, 5, "a", "b")
	r.AppliedTo(good)
	r.Stored("a")
	r.StopWriter("a")
	body, err := events.Append(nil, events.Header{Epoch: 9, Time: time.Now()}, &events.Heartbeat{}) // as after a silent splice
	if err != nil {
		t.Fatal(err)
	}
	r.Raw("a", body)
	mark := &events.Mark{Token: events.Token{Epoch: 1, Barrier: good.Token.Barrier + 1}}
	if body, err = events.Append(nil, events.Header{Epoch: 9, Time: time.Now()}, mark); err != nil {
		t.Fatal(err)
	}
	bad := *good
	bad.Token, bad.Time = mark.Token, good.Time.Add(time.Second)
	bad.Vector = []events.VectorEntry{{Volume: "a", Position: events.Position{Generation: 1, Seq: r.Raw("a", body)}}}
	r.Publish(&bad)
	eventually(t, "a new generation is asked for", func() bool { return len(a.Renewed()) > 0 })
	found := r.Found("a")
	if *found.Base != *replicatest.BaseAt("a", good) {
		t.Fatalf("found %+v", found.Base)
	}
	r.PassBarrier() // the bad one's barrier
	r.RenewOn("a", good)
	r.AppliedTo(r.Fill(2, 3, "a", "b"))
	r.StatusWhere("all is well", func(s *group.Status) bool { return ok(group.ConditionComplete)(s) && s.Phase == group.PhaseFollowing })
	if known, err := replica.KnownDamage(t.Context(), r.Pair.DR, "g"); err != nil || len(known) > 0 {
		t.Errorf("known damage is %+v, %v", known, err)
	}
}

// Commits that name what was lost are passed over.
func TestLostCommitsArePassedOver(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a", "b")
	r.Follow(quick)
	good := r.Fill(2, 3, "a", "b")
	r.AppliedTo(good)
	gone := *good
	gone.Token.Barrier, gone.Time = good.Token.Barrier+1, good.Time.Add(time.Second)
	gone.Vector = append([]events.VectorEntry(nil), good.Vector...)
	gone.Vector[0].Position.Seq += 100_000
	r.Publish(&gone)
	r.PassBarrier()
	if found := r.Found("a"); *found.Base != *replicatest.BaseAt("a", good) {
		t.Fatalf("found %+v", found.Base)
	}
	r.RenewOn("a", good)
	last := r.Fill(2, 3, "a", "b")
	r.AppliedTo(last)
	r.StatusWhere("all is well", func(s *group.Status) bool {
		return s.Phase == group.PhaseFollowing && s.RecoveryPoint.Barrier == last.Token.Barrier
	})
}

// [I] A region that differs is named with its place, asked for, remembered over a restart, and healed by what covers it.
func TestMismatchIsHealed(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a")
	stop := r.Follow(quick)
	good := r.Fill(2, 3, "a")
	r.AppliedTo(good)
	stop()
	f, err := os.OpenFile(replica.VolumePath(r.Dir(), "a"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte{0xee}, 512), 300<<10); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < 1<<20; off += 256 << 10 {
		if err := r.Hash("a", off, 256<<10); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Commit(""); err != nil {
		t.Fatal(err)
	}
	r.Publish(r.Commits[len(r.Commits)-1])
	stop = r.Follow(quick)
	s := r.StatusWhere("the region is named", func(s *group.Status) bool { return len(s.Volumes[0].Mismatches) == 1 })
	m := s.Volumes[0].Mismatches[0]
	if m.Offset != 256<<10 || m.Length != 256<<10 || m.Generation != 1 || m.Seq == 0 || m.Healed || ok(group.ConditionVerified)(s) {
		t.Errorf("the status says %+v, %+v", m, replicatest.Condition(s, group.ConditionVerified))
	}
	stop()
	a := r.Capturer("a")
	r.Follow(quick)
	eventually(t, "the region is asked for, once", func() bool { return len(a.Healed()) > 0 })
	if got := a.Healed(); len(got) != 1 || got[0] != (repair.Range{Offset: 256 << 10, Length: 256 << 10}) {
		t.Errorf("asked for %+v", got)
	}
	if err := r.Write("a", 256<<10, r.Content("a")[256<<10:400<<10]); err != nil {
		t.Fatal(err)
	}
	half := r.Fill(1, 0, "a")
	r.StatusWhere("half of it heals nothing", func(s *group.Status) bool {
		return s.Applied.Barrier == half.Token.Barrier && !s.Volumes[0].Mismatches[0].Healed
	})
	if err := r.Hash("a", 256<<10, 256<<10); err != nil {
		t.Fatal(err)
	}
	last := r.Fill(1, 0, "a")
	r.AppliedTo(last)
	s = r.StatusWhere("it is healed", func(s *group.Status) bool { return s.Volumes[0].Mismatches[0].Healed && ok(group.ConditionVerified)(s) })
	if s.Volumes[0].RegionMismatches != 1 {
		t.Errorf("%d mismatches are counted", s.Volumes[0].RegionMismatches)
	}
}

// Full mirrors: the oldest history goes, and the points that go with it are named.
func TestRoomKeepReplicating(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a", "b")
	f := r.Follower(quick)
	r.AppliedTo(r.Fill(20, 4, "a", "b"))
	r.StatusWhere("nothing is said without a limit", func(s *group.Status) bool {
		return ok(group.ConditionJournal)(s) && s.Oldest != nil && s.Oldest.Barrier == 1
	})
	limited := r.Document()
	limited.Spec.Recovery.Journal.MaxBytes = group.ByteSize(r.MirrorBytes() * 10 / 9)
	f.Update(limited)
	r.StatusWhere("at 80 % it alerts", func(s *group.Status) bool {
		return strings.Contains(replicatest.Condition(s, group.ConditionJournal).Message, "maxBytes") && s.Oldest.Barrier == 1
	})
	limit := r.MirrorBytes() / 2
	limited = r.Document()
	limited.Spec.Recovery.Journal.MaxBytes = group.ByteSize(limit)
	f.Update(limited)
	r.StatusWhere("points are given up, and named, and it goes on", func(s *group.Status) bool {
		return strings.Contains(replicatest.Condition(s, group.ConditionJournal).Message, "given up") && s.Oldest.Barrier > 1 &&
			s.Phase == group.PhaseFollowing
	})
	r.AppliedTo(r.Fill(5, 4, "a", "b"))
	eventually(t, "the mirrors are below their limit", func() bool { return r.MirrorBytes() < limit })
	f.Update(r.Document())
	r.StatusWhere("with room nothing is said", ok(group.ConditionJournal))
}

// Full mirrors: history is kept, and the mirror that grows most waits until there is room.
func TestRoomKeepHistory(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a", "b")
	a, b := r.Capturer("a"), r.Capturer("b")
	f := r.Follower(func(o *replica.FollowerOptions) { quick(o); o.RoomEvery = 200 * time.Millisecond })
	r.AppliedTo(r.Fill(3, 4, "a", "b"))
	limited := r.Document()
	limited.Spec.Recovery.Journal.WhenFull = group.FullKeepHistory
	limited.Spec.Recovery.Journal.MaxBytes = group.ByteSize(r.MirrorBytes() + 1<<20)
	f.Update(limited)
	eventually(t, "the noisy one is paused", func() bool {
		r.Fill(1, 20, "b")
		_, asked := b.Paused()
		return asked > 0
	})
	if _, asked := a.Paused(); asked > 0 {
		t.Error("the quiet one is paused")
	}
	s := r.StatusWhere("the pause is named", func(s *group.Status) bool {
		return strings.Contains(replicatest.Condition(s, group.ConditionJournal).Message, "volume b is paused")
	})
	if s.Oldest == nil || s.Oldest.Barrier != 1 {
		t.Errorf("the oldest point is %+v", s.Oldest)
	}
	_, before := b.Paused()
	eventually(t, "the pause is renewed", func() bool { _, asked := b.Paused(); return asked > before+1 })
	last := r.Fill(1, 4, "a", "b")
	f.Update(r.Document())
	r.AppliedTo(last)
	eventually(t, "the pause is ended", func() bool { until, _ := b.Paused(); return until.IsZero() })
	r.StatusWhere("with room nothing is said", ok(group.ConditionJournal))
}

// A volume on a device, named in the document later on: too small a device is named and waited for, and its growth lets
// the replica grow.
func TestDocumentChangesAndDeviceGrows(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a")
	f := r.Follower(quick)
	r.AppliedTo(r.Fill(2, 3, "a"))
	device, grow := growingDevice(t, 1<<20)
	changed := r.Document()
	changed.Spec.Volumes = []group.Volume{{Name: "b", UID: r.UID("b"), Replica: group.Replica{Path: device}}}
	f.Update(changed)
	seeded(t, r, "b")
	first := r.Fill(2, 3, "a", "b")
	onDevice := func(c *events.Commit) {
		t.Helper()
		eventually(t, fmt.Sprintf("barrier %d is applied", c.Token.Barrier), func() bool {
			cp, err := replica.ReadCheckpoint(r.Dir())
			return err == nil && cp.Commit.Barrier == c.Token.Barrier && cp.Volumes["b"].Device == device
		})
		replicatest.SameFiles(t, r.State(c.Token.Barrier), func(v string) string {
			if v == "b" {
				return device
			}
			return replica.VolumePath(r.Dir(), v)
		})
	}
	onDevice(first)
	if err := r.Resize("b", 2<<20); err != nil {
		t.Fatal(err)
	}
	second := r.Fill(2, 8, "a", "b")
	s := r.StatusWhere("the small device is named", func(s *group.Status) bool { return !ok(group.ConditionStorage)(s) })
	if message := replicatest.Condition(s, group.ConditionStorage).Message; !strings.Contains(message, "volume b") || !strings.Contains(message, "grow the device") {
		t.Errorf("the condition says %q", message)
	}
	if s.Applied.Barrier != first.Token.Barrier {
		t.Errorf("applied is %d", s.Applied.Barrier)
	}
	grow(2 << 20)
	onDevice(second)
	r.Leave("b")
	f.Update(r.Document())
	last := r.Fill(2, 3, "a")
	r.AppliedTo(last)
	r.StatusWhere("b has left", func(s *group.Status) bool { return s.Volumes[1].State == "left" })
}
