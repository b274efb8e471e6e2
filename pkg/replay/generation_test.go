package replay_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replay"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

// [I] Every point over lost histories, of volumes and of commits, is recovered, from the base and from nothing, and what is
// lost is listed with the reason.
func TestReplayOverGenerations(t *testing.T) {
	t.Parallel()
	r := rig(t)
	r.Retention = 15 * time.Second
	quick := func(o *replica.FollowerOptions) { o.RetentionEvery = 10 * time.Millisecond }
	stop := r.Follow(quick)
	r.AppliedTo(r.Fill(3, 4, "a", "b"))
	first := r.Fill(1, 4, "a", "b")
	r.AppliedTo(first)
	lost := *first
	lost.Token.Barrier, lost.Time = first.Token.Barrier+1, first.Time.Add(time.Second)
	lost.Vector = append([]events.VectorEntry(nil), first.Vector...)
	lost.Vector[0].Position.Seq += 100_000
	r.Publish(&lost)
	r.PassBarrier()
	r.Found("a")
	r.RenewOn("a", first)
	r.AppliedTo(r.Fill(2, 4, "a", "b"))
	r.RenewControl(r.Found(journal.Control).Base)
	r.RenewOn("b", nil)
	last := r.Fill(3, 4, "a", "b")
	r.AppliedTo(last)
	mirrored(r, "a", "b")
	all := func() {
		t.Helper()
		points, err := replay.Points(t.Context(), replay.Options{Site: r.Pair.DR, Group: "g", Dir: r.Dir()}, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range points {
			if p.Barrier == lost.Token.Barrier {
				if p.Restorable || !strings.HasPrefix(p.Reason, "lost: volume a") && !strings.HasPrefix(p.Reason, "trimmed") {
					t.Errorf("the lost point is %+v", p)
				}
				continue
			}
			if !p.Restorable {
				if !strings.HasPrefix(p.Reason, "trimmed") {
					t.Errorf("barrier %d: %s", p.Barrier, p.Reason)
				}
				continue
			}
			if p.Bytes == nil && p.Barrier > points[0].Barrier {
				t.Errorf("barrier %d has no size", p.Barrier)
			}
			recover(t, r, strconv.FormatUint(p.Barrier, 10), p.Barrier)
		}
		if n := len(points); n == 0 || !points[n-1].Restorable {
			t.Errorf("of %d points the last can't be restored", n)
		}
	}
	all()
	stop()
	all()
	stop = r.Follow(quick)
	last = r.Fill(14, 4, "a", "b") // the base goes over into the new generations
	r.AppliedTo(last)
	replicatest.Eventually(t, "the base is in the second generation", func() error {
		cp, err := replica.ReadCheckpoint(replica.BaseDir(r.Dir()))
		if err == nil && (cp.Volumes["a"].Generation != 2 || cp.Volumes["b"].Generation != 1) && cp.Commit.Barrier < 8 {
			err = errors.New("it is not")
		}
		return err
	})
	stop()
	all()
}
