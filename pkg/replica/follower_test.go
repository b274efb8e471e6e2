package replica_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/farshore/farshore/pkg/barrier/clock"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

func seeded(t *testing.T, r *replicatest.Rig, volumes ...string) {
	t.Helper()
	for _, v := range volumes {
		r.Volume(v, 1<<20)
		if err := errors.Join(r.Frame(v, 8), r.Seed(v)); err != nil {
			t.Fatal(err)
		}
		r.Join(v)
	}
}

// Two volumes, byte for byte at every commit, over restarts of everything.
func TestFollow(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a", "b")
	stop := r.Follow(nil)
	for range 5 {
		r.AppliedTo(r.Fill(1, 5, "a", "b"))
	}
	stop()
	last := r.Fill(20, 3, "a", "b")
	stop = r.Follow(nil)
	r.AppliedTo(last)
	r.Reopen("a")
	r.AppliedTo(r.Fill(1, 5, "a"))

	r.Pair.StopDR()
	last = r.Fill(3, 3, "b")
	r.Pair.StartDR()
	r.Pair.WaitLinked()
	r.AppliedTo(last)
	r.Pair.Cut()
	last = r.Fill(3, 3, "a", "b")
	r.Pair.Heal()
	r.AppliedTo(last)
	stop()
}

// A volume that joins is seeded while the members go on, and is part of the commits from its first one on.
func TestVolumeJoins(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a")
	r.Follow(nil)
	r.AppliedTo(r.Fill(1, 2, "a"))
	r.Volume("b", 1<<20)
	if err := r.Frame("b", 8); err != nil {
		t.Fatal(err)
	}
	r.Stored("b")
	s := r.StatusWhere("b is shown as joining", func(s *group.Status) bool { return len(s.Volumes) == 2 && s.Volumes[1].AppliedSeq > 0 })
	if s.Volumes[1].State != "joining" || s.Volumes[0].State != "member" {
		t.Errorf("the volumes are %s and %s", s.Volumes[0].State, s.Volumes[1].State)
	}
	r.AppliedTo(r.Fill(2, 2, "a")) // it holds nobody back
	if err := r.Seed("b"); err != nil {
		t.Fatal(err)
	}
	r.Stored("b")
	replicatest.Eventually(t, "b is seeded", func() error {
		cp, err := replica.ReadCheckpoint(r.Dir())
		if err == nil && cp.Volumes["b"].State != replica.Seeded {
			err = fmt.Errorf("it is %+v", cp.Volumes["b"])
		}
		return err
	})
	r.Join("b")
	r.AppliedTo(r.Fill(2, 2, "a", "b"))
	r.Leave("a")
	r.AppliedTo(r.Fill(1, 2, "b"))
	r.StatusWhere("a has left", func(s *group.Status) bool { return s.Volumes[0].State == "left" && s.Volumes[1].State == "member" })
}

// [I] A gap stops the replicas at the last recovery point before it; it is named and never skipped.
func TestGapInMirror(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a", "b")
	stop := r.Follow(nil)
	before := r.Fill(1, 5, "a", "b")
	r.AppliedTo(before)
	stop()
	good := r.Fill(1, 5, "a", "b")
	lost := good.Vector[0].Position.Seq + 2
	r.Fill(3, 5, "a", "b")
	r.Mirrored("a")
	r.Mirrored("b")
	r.Mirrored("control")
	r.DeleteFromMirror("a", lost)
	r.Follow(func(o *replica.FollowerOptions) { o.DamageRetry = 20 * time.Millisecond })
	r.AppliedTo(good)
	s := r.StatusWhere("the gap is named", func(s *group.Status) bool { return !replicatest.Condition(s, group.ConditionComplete).OK })
	message := replicatest.Condition(s, group.ConditionComplete).Message
	if !strings.Contains(message, replica.MirrorName(r.ID("a"))) || !strings.Contains(message, fmt.Sprint(lost)) {
		t.Errorf("the condition says %q, want stream and sequence %d", message, lost)
	}
	s = r.StatusWhere("the point before the gap is the newest", func(s *group.Status) bool {
		return s.RecoveryPoint != nil && s.RecoveryPoint.Barrier == good.Token.Barrier
	})
	if s.Phase != group.PhaseStopped {
		t.Errorf("the phase is %s", s.Phase)
	}
}

// [I] A damaged message stops the replicas at the last recovery point before it, survives a restart of the
// applier as known damage, and is tried again slowly.
func TestDamagedMessage(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a", "b")
	stop := r.Follow(func(o *replica.FollowerOptions) { o.DamageRetry = 20 * time.Millisecond })
	good := r.Fill(2, 5, "a", "b")
	r.AppliedTo(good)
	r.Stored("a")
	r.StopWriter("a")
	frame, err := events.NewFrame([]events.Op{{Kind: events.OpWrite, Length: 512}}, make([]byte, 512), events.Uncompressed)
	if err != nil {
		t.Fatal(err)
	}
	body, err := events.Append(nil, events.Header{Epoch: 1, Time: time.Now()}, frame)
	if err != nil {
		t.Fatal(err)
	}
	body[len(body)/2] ^= 1
	bad := r.Raw("a", body)
	mark := &events.Mark{Token: events.Token{Epoch: 1, Barrier: good.Token.Barrier + 1}}
	if body, err = events.Append(nil, events.Header{Epoch: 1, Time: time.Now()}, mark); err != nil {
		t.Fatal(err)
	}
	next := *good
	next.Token, next.Time = mark.Token, good.Time.Add(time.Second)
	next.Vector = []events.VectorEntry{{Volume: "a", Position: events.Position{Generation: 1, Seq: r.Raw("a", body)}}}
	r.Publish(&next)
	check := func() {
		t.Helper()
		s := r.StatusWhere("the damage is named", func(s *group.Status) bool { return !replicatest.Condition(s, group.ConditionComplete).OK })
		message := replicatest.Condition(s, group.ConditionComplete).Message
		if !strings.Contains(message, replica.MirrorName(r.ID("a"))) || !strings.Contains(message, fmt.Sprint(bad)) {
			t.Errorf("the condition says %q, want stream and sequence %d", message, bad)
		}
		if s.RecoveryPoint == nil || s.RecoveryPoint.Barrier != good.Token.Barrier || s.Applied.Barrier != good.Token.Barrier {
			t.Errorf("recovery point %+v, applied %+v, want barrier %d", s.RecoveryPoint, s.Applied, good.Token.Barrier)
		}
	}
	check()
	stop()
	known, err := replica.KnownDamage(t.Context(), r.Pair.DR, "g")
	if err != nil || len(known) != 1 || known[0].Seq != bad {
		t.Fatalf("known damage is %+v, %v", known, err)
	}
	r.Follow(func(o *replica.FollowerOptions) { o.DamageRetry = 20 * time.Millisecond })
	check()
	r.AppliedTo(good)
}

// faulty is a target that fails while it is told to.
type faulty struct {
	replica.Target
	full *atomic.Bool
}

func (f faulty) Reserve(e []replica.Extent) error {
	if f.full.Load() && len(e) > 0 {
		return syscall.ENOSPC
	}
	return f.Target.Reserve(e)
}

// A full disk is shown, and room lets the replicas go on by themselves.
func TestFollowerOnFullDisk(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a", "b")
	var full atomic.Bool
	r.Follow(func(o *replica.FollowerOptions) {
		o.OpenTarget = func(spec replica.TargetSpec) (replica.Target, error) {
			target, err := replica.OpenFile(spec.Path, spec.Size, spec.Blank)
			return faulty{target, &full}, err
		}
	})
	before := r.Fill(1, 5, "a", "b")
	r.AppliedTo(before)
	full.Store(true)
	last := r.Fill(4, 5, "a", "b")
	s := r.StatusWhere("the full disk is shown", func(s *group.Status) bool {
		return !replicatest.Condition(s, group.ConditionStorage).OK && s.Applied != nil
	})
	if s.Applied.Barrier != before.Token.Barrier || s.Phase != group.PhaseStopped {
		t.Errorf("at %d, phase %s", s.Applied.Barrier, s.Phase)
	}
	r.StatusWhere("the newest point is what the mirrors hold", func(s *group.Status) bool {
		return s.RecoveryPoint != nil && s.RecoveryPoint.Barrier == last.Token.Barrier
	})
	full.Store(false)
	r.AppliedTo(last)
	r.StatusWhere("all is well", func(s *group.Status) bool {
		return replicatest.Condition(s, group.ConditionStorage).OK && s.Phase == group.PhaseFollowing
	})
}

// The four lags, the clock's difference and the metrics, while a link is up and while it is cut.
func TestLags(t *testing.T) {
	r := replicatest.NewRig(t, "g", pickSeed(t))
	const ahead = 40 * time.Second
	r.Clock = func() time.Time { return time.Now().UTC() }
	seeded(t, r, "a")
	go func() {
		_ = clock.Serve(t.Context(), r.Pair.Primary.Conn(), "g", func() time.Time { return time.Now().Add(ahead) })
	}()
	reader := sdkmetric.NewManualReader()
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	r.Follow(func(o *replica.FollowerOptions) { o.Meter, o.RoomEvery = meters.Meter("test"), 10*time.Millisecond })
	r.AppliedTo(r.Fill(2, 3, "a"))
	s := r.StatusWhere("everything is known", func(s *group.Status) bool {
		return s.ClockOffsetSeconds != nil && s.RecoveryPoint != nil && len(s.Volumes) == 1 &&
			s.Volumes[0].Lags.CaptureDebt != nil && s.Volumes[0].Lags.TransitLagSeconds != nil && s.Volumes[0].Lags.ReplayDebt != nil
	})
	if off := *s.ClockOffsetSeconds; off < 39 || off > 41 {
		t.Errorf("the clock's offset is %g s, want 40", off)
	}
	// The rig's events carry this machine's clock: by the primary's they are 40 s old.
	if lag := *s.Volumes[0].Lags.TransitLagSeconds; lag < 39 || lag > 50 {
		t.Errorf("the transit lag is %g s", lag)
	}
	if rpo := *s.Lags.RecoverableRPOSeconds; rpo < 39 || rpo > 50 {
		t.Errorf("the RPO is %g s", rpo)
	}
	if d := s.Volumes[0].Lags.CaptureDebt; d.Bytes != 42 {
		t.Errorf("the capture debt is %+v", d)
	}
	r.Pair.Cut()
	r.StatusWhere("the cut link shows as growing lag", func(now *group.Status) bool {
		return *now.Volumes[0].Lags.TransitLagSeconds > *s.Volumes[0].Lags.TransitLagSeconds+1
	})
	r.Pair.Heal()
	var data metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			names[m.Name] = true
		}
	}
	for _, name := range []string{
		"farshore.recoverable.rpo", "farshore.transit.lag", "farshore.replay.debt.seconds", "farshore.replay.debt.bytes",
		"farshore.replay.debt.messages", "farshore.capture.debt.seconds", "farshore.capture.debt.bytes", "farshore.clock.offset",
		"farshore.recovery.point.time", "farshore.applied.bytes", "farshore.applied.commits", "farshore.region.mismatches",
		"farshore.mirrors.bytes", "farshore.mirrors.limit",
	} {
		if !names[name] {
			t.Errorf("metric %s is not measured", name)
		}
	}
}

// [I] One applier works on a group: a second one waits for the lock, and for the lease where it has a set of its own.
func TestOneFollower(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	seeded(t, r, "a")
	stop := r.Follow(nil)
	r.AppliedTo(r.Fill(1, 3, "a"))
	other := r.Document()
	other.Spec.Recovery.Directory = t.TempDir()
	ready := make(chan struct{})
	f, err := replica.NewFollower(replica.FollowerOptions{Site: r.Pair.DR, Group: other, Instance: "other", Ready: func() { close(ready) }})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.Run(t.Context()) }()
	r.AppliedTo(r.Fill(3, 3, "a"))
	replicatest.Eventually(t, "the second one has a set", func() error {
		_, err := os.Stat(filepath.Join(other.Spec.Recovery.Directory, "g", replica.CheckpointFile))
		return err
	})
	select {
	case <-ready:
		t.Fatal("two appliers follow one group")
	case err := <-done:
		t.Fatalf("the second one ended: %v", err)
	default:
	}
	stop()
	<-ready
}

// [I] Mirrors are trimmed only behind a base; a checkpoint and its base go on from each other.
func TestRetention(t *testing.T) {
	t.Parallel()
	r := replicatest.NewRig(t, "g", pickSeed(t))
	r.Retention = 10 * time.Second // of the history's clock: a second from commit to commit
	seeded(t, r, "a", "b")
	fast := func(o *replica.FollowerOptions) { o.RetentionEvery = 10 * time.Millisecond }
	stop := r.Follow(fast)
	r.AppliedTo(r.Fill(8, 2, "a", "b"))
	if cp, err := replica.ReadCheckpoint(replica.BaseDir(r.Dir())); err == nil && cp.Commit.Barrier > 0 {
		t.Errorf("there is a base at %d before anything is out of the retention", cp.Commit.Barrier)
	}
	hold, err := replica.HoldBase(r.Dir())
	if err != nil {
		t.Fatal(err)
	}
	last := r.Fill(20, 2, "a", "b")
	r.AppliedTo(last)
	if first := firstOf(t, r, "a"); first != 1 {
		t.Errorf("the mirror begins at %d while a replay holds the base", first)
	}
	if err := hold.Close(); err != nil {
		t.Fatal(err)
	}
	trimmed := func(behind uint64) {
		t.Helper()
		replicatest.Eventually(t, "the history is trimmed", func() error {
			cp, err := replica.ReadCheckpoint(replica.BaseDir(r.Dir()))
			if err != nil {
				return err
			}
			if first := firstOf(t, r, "a"); cp.Commit.Barrier < behind || first != cp.Volumes["a"].Seq+1 {
				return fmt.Errorf("base at barrier %d, sequence %d, mirror from %d", cp.Commit.Barrier, cp.Volumes["a"].Seq, first)
			}
			return nil
		})
	}
	trimmed(last.Token.Barrier - 11)
	stop()
	cp, err := replica.ReadCheckpoint(replica.BaseDir(r.Dir()))
	if err != nil {
		t.Fatal(err)
	}
	replicatest.SameFiles(t, r.State(cp.Commit.Barrier), func(v string) string { return replica.VolumePath(replica.BaseDir(r.Dir()), v) })
	r.Follow(fast)
	last = r.Fill(20, 2, "a", "b")
	r.AppliedTo(last)
	trimmed(last.Token.Barrier - 11)
	s := r.StatusWhere("the oldest point is the base", func(s *group.Status) bool { return s.Oldest != nil && s.Oldest.Barrier >= last.Token.Barrier-11 })
	if s.Oldest.Barrier >= last.Token.Barrier-5 {
		t.Errorf("the oldest point is %d of %d: the retention was not kept", s.Oldest.Barrier, last.Token.Barrier)
	}
}

func firstOf(t *testing.T, r *replicatest.Rig, volume string) uint64 {
	t.Helper()
	tail, err := r.Pair.DR.Tail(t.Context(), replica.MirrorName(r.ID(volume)))
	if err != nil {
		t.Fatal(err)
	}
	return tail.First
}
