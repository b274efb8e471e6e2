package replay_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replay"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

// objectsOf recovers the objects at a target alone and checks that they are those of the barrier.
func objectsOf(t *testing.T, r *replicatest.Rig, target string, want uint64) {
	t.Helper()
	view, point, err := replay.Objects(t.Context(), replay.Options{Site: r.Pair.DR, Group: r.Group, Dir: r.Dir(), Target: target})
	if err != nil {
		t.Fatalf("objects at %s: %v", target, err)
	}
	if point.Barrier != want || view.Barrier() != want || !point.Objects || point.Revision != view.Revision() || point.Revision == "" {
		t.Fatalf("objects at %s are of barrier %d and %+v, want %d", target, view.Barrier(), point, want)
	}
	replicatest.SameObjects(t, view, r.ObjectsAt(want))
}

// [I] Every point gives back the volumes and the objects of the same instant: from the journal, from a base, over lost
// histories, while the applier runs and after it is gone. The objects can be had alone.
func TestReplayObjects(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	r := rig(t)
	r.Retention = 12 * time.Second
	stop := r.Follow(func(o *replica.FollowerOptions) { o.RetentionEvery = 10 * time.Millisecond })
	r.Fill(2, 2, "a")
	r.Objects()
	c := r.Fill(3, 2, "a", "b", journal.Objects)
	r.AppliedTo(c)
	r.RenewObjectsOn(c)
	r.AppliedTo(r.Fill(3, 2, "a", journal.Objects))
	r.RenewObjectsOn(nil)
	r.Fill(3, 2, "a", journal.Objects)
	labeled := r.Cut("before-upgrade")
	r.Leave(journal.Objects)
	without := r.Fill(1, 2, "a")
	r.Join(journal.Objects)
	last := r.Fill(4, 2, "a", "b", journal.Objects)
	r.AppliedTo(last)
	replicatest.Eventually(t, "the base has objects", func() error {
		cp, err := replica.ReadCheckpoint(replica.BaseDir(r.Dir()))
		if err == nil && cp.Volumes[journal.Objects].State != replica.Member {
			err = errors.New("it has none")
		}
		return err
	})
	check := func() {
		t.Helper()
		points, err := replay.Points(t.Context(), replay.Options{Site: r.Pair.DR, Group: "g", Dir: r.Dir()}, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range points {
			if p.Objects != (r.ObjectsAt(p.Barrier) != nil) || p.Objects != (p.Revision != "") {
				t.Errorf("point %+v", p)
			}
			if !p.Restorable {
				continue
			}
			target := strconv.FormatUint(p.Barrier, 10)
			result := recover(t, r, target, p.Barrier)
			if p.Objects != (result.Objects != nil) {
				t.Fatalf("barrier %d has objects: %v; the result: %+v", p.Barrier, p.Objects, result.Objects)
			}
			if p.Objects {
				replicatest.SameObjects(t, result.Objects.View, r.ObjectsAt(p.Barrier))
				objectsOf(t, r, target, p.Barrier)
			}
		}
		objectsOf(t, r, replay.Latest, last.Token.Barrier)
		objectsOf(t, r, "before-upgrade", labeled.Token.Barrier)
		objectsOf(t, r, without.Time.Format(time.RFC3339Nano), labeled.Token.Barrier)
		_, _, err = replay.Objects(t.Context(), replay.Options{
			Site: r.Pair.DR, Group: "g", Dir: r.Dir(), Target: strconv.FormatUint(without.Token.Barrier, 10),
		})
		if !errors.Is(err, replay.ErrNoObjects) {
			t.Errorf("objects of a point without: %v", err)
		}
	}
	check()
	stop()
	check()
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("replays of objects left %v, %v", left, err)
	}
}

// The objects of a point whose volume can't be recovered are there nevertheless; a damaged objects' stream makes latest step
// back.
func TestReplayObjectsAroundDamage(t *testing.T) {
	t.Parallel()
	r := rig(t)
	r.Objects()
	stop := r.Follow(nil)
	good := r.Fill(3, 2, "a", "b", journal.Objects)
	r.AppliedTo(good)
	bad := r.Fill(1, 2, "a", "b", journal.Objects)
	last := r.Fill(1, 2, "a", "b", journal.Objects)
	mirrored(r, "a", "b", journal.Objects)
	stop()
	elsewhere := filepath.Join(t.TempDir(), "none")
	r.DeleteFromMirror("a", bad.Vector[0].Position.Seq-1)
	view, _, err := replay.Objects(t.Context(), replay.Options{Site: r.Pair.DR, Group: "g", Dir: elsewhere, Target: replay.Latest})
	if err != nil {
		t.Fatal(err)
	}
	replicatest.SameObjects(t, view, r.ObjectsAt(last.Token.Barrier))
	r.DeleteFromMirror(journal.Objects, bad.Objects.Seq-1)
	view, point, err := replay.Objects(t.Context(), replay.Options{Site: r.Pair.DR, Group: "g", Dir: elsewhere, Target: replay.Latest})
	if err != nil || point.Barrier != good.Token.Barrier {
		t.Fatalf("the latest objects are of barrier %d: %v", point.Barrier, err)
	}
	replicatest.SameObjects(t, view, r.ObjectsAt(good.Token.Barrier))
}
