package replay_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/replay"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

func rig(t *testing.T) *replicatest.Rig {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := replicatest.NewRig(t, "g", seed)
	for _, v := range []string{"a", "b"} {
		r.Volume(v, 1<<20)
		if err := errors.Join(r.Frame(v, 8), r.Seed(v)); err != nil {
			t.Fatal(err)
		}
		r.Join(v)
	}
	return r
}

// recover replays to target and checks that the result is the barrier it should be, byte for byte.
func recover(t *testing.T, r *replicatest.Rig, target string, want uint64) *replay.Result {
	t.Helper()
	into := filepath.Join(t.TempDir(), "into")
	var last replay.Progress
	result, err := replay.Run(t.Context(), replay.Options{
		Site: r.Pair.DR, Group: r.Group, Dir: r.Dir(), Target: target, Into: into,
		Progress: func(p replay.Progress) { last = p },
	})
	if err != nil {
		t.Fatalf("replay to %s: %v", target, err)
	}
	if result.Point.Barrier != want {
		t.Fatalf("replay to %s gave %d, want %d", target, result.Point.Barrier, want)
	}
	if last.Phase == "" || last.Bytes != last.Total || last.Point.Barrier != want {
		t.Errorf("the last progress is %+v", last)
	}
	paths := make(map[string]string)
	for _, v := range result.Volumes {
		paths[v.Name] = v.Path
		if v.UID != replicatest.UID(v.Name) || v.Size != int64(len(r.State(want)[v.Name])) {
			t.Errorf("volume %+v", v)
		}
	}
	if len(paths) != len(r.State(want)) {
		t.Errorf("%d volumes, want %d", len(paths), len(r.State(want)))
	}
	replicatest.SameFiles(t, r.State(want), func(v string) string { return paths[v] })
	return result
}

func mirrored(r *replicatest.Rig, parts ...string) {
	for _, p := range append(parts, "control") {
		r.Mirrored(p)
	}
}

// Every way of naming a point, while the applier runs and after it is gone.
func TestTargets(t *testing.T) {
	t.Parallel()
	r := rig(t)
	stop := r.Follow(nil)
	r.Fill(3, 4, "a", "b")
	labeled := r.Cut("before-upgrade")
	r.Fill(2, 4, "a", "b")
	newer := r.Cut("before-upgrade")
	r.Fill(1, 300, "a", "b") // the journal holds more than the replicas do
	last := r.Fill(4, 4, "a", "b")
	r.AppliedTo(last)
	check := func() {
		t.Helper()
		recover(t, r, "latest", last.Token.Barrier)
		recover(t, r, "before-upgrade", newer.Token.Barrier)
		recover(t, r, strconv.FormatUint(labeled.Token.Barrier, 10), labeled.Token.Barrier)
		recover(t, r, labeled.Time.Format(time.RFC3339Nano), labeled.Token.Barrier)
		recover(t, r, labeled.Time.Add(-time.Nanosecond).Format(time.RFC3339Nano), labeled.Token.Barrier-1)
		recover(t, r, "1", 1)
	}
	check()
	stop()
	check()
	if result := recover(t, r, "latest", last.Token.Barrier); result.From != replay.Replicas || result.Base != last.Token.Barrier || result.Bytes != 0 {
		t.Errorf("replayed from %s at %d although the replicas are at %d", result.From, result.Base, last.Token.Barrier)
	}
	r.AppliedTo(last) // the replicas were read, not touched
	refused(t, r)
}

func refused(t *testing.T, r *replicatest.Rig) {
	t.Helper()
	run := func(target, into string) error {
		_, err := replay.Run(t.Context(), replay.Options{Site: r.Pair.DR, Group: r.Group, Dir: r.Dir(), Target: target, Into: into})
		return err
	}
	for _, target := range []string{"no-such-label", "99999", "", time.Now().Add(time.Hour).Format(time.RFC3339)} {
		if err := run(target, filepath.Join(t.TempDir(), "x")); !errors.Is(err, replay.ErrUnknownTarget) {
			t.Errorf("target %q: %v", target, err)
		}
	}
	var trimmed *replay.TrimmedError
	err := run(r.Commits[0].Time.Add(-time.Second).Format(time.RFC3339), filepath.Join(t.TempDir(), "x"))
	if !errors.As(err, &trimmed) || trimmed.After == nil || trimmed.After.Barrier != 1 {
		t.Errorf("before the oldest: %v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run("latest", dir); !errors.Is(err, replay.ErrNotEmpty) {
		t.Errorf("into a directory that holds something: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the directory was touched: %v, %v", entries, err)
	}
}

// Points before and behind the base, while replication goes on; a trimmed one is refused and the nearest left are named.
func TestReplayFromBase(t *testing.T) {
	t.Parallel()
	r := rig(t)
	r.Retention = 10 * time.Second
	r.Fill(5, 3, "a", "b")
	label := r.Cut("early")
	r.Follow(func(o *replica.FollowerOptions) { o.RetentionEvery = 10 * time.Millisecond })
	last := r.Fill(25, 3, "a", "b")
	r.AppliedTo(last)
	var base replica.Checkpoint
	replicatest.Eventually(t, "there is a base", func() (err error) {
		if base, err = replica.ReadCheckpoint(replica.BaseDir(r.Dir())); err != nil {
			return err
		}
		if base.Commit.Barrier+10 < last.Token.Barrier || base.Applying != nil {
			return fmt.Errorf("the base is at %d", base.Commit.Barrier)
		}
		tail, err := r.Pair.DR.Tail(t.Context(), replica.MirrorName(r.ID("control")))
		if err == nil && tail.First == 1 {
			err = errors.New("the control mirror is not trimmed")
		}
		return err
	})
	at := base.Commit.Barrier
	if result := recover(t, r, strconv.FormatUint(at, 10), at); result.Base != at {
		t.Errorf("replayed from %d, the base is at %d", result.Base, at)
	}
	recover(t, r, strconv.FormatUint(at+1, 10), at+1)
	done := make(chan struct{})
	go func() { // the group goes on meanwhile
		defer close(done)
		r.Fill(10, 3, "a", "b")
	}()
	recover(t, r, strconv.FormatUint(last.Token.Barrier, 10), last.Token.Barrier)
	<-done
	for _, target := range []string{label.Time.Format(time.RFC3339), "early", strconv.FormatUint(label.Token.Barrier, 10)} {
		_, err := replay.Run(t.Context(), replay.Options{Site: r.Pair.DR, Group: "g", Dir: r.Dir(), Target: target, Into: filepath.Join(t.TempDir(), "x")})
		var trimmed *replay.TrimmedError
		if target == "early" {
			// The commit itself is gone: nothing tells a trimmed label from one there never was.
			if !errors.Is(err, replay.ErrUnknownTarget) {
				t.Errorf("%s: %v", target, err)
			}
			continue
		}
		if !errors.As(err, &trimmed) || trimmed.After == nil || trimmed.After.Barrier < at {
			t.Errorf("%s: %v", target, err)
		}
	}
	points, err := replay.Points(t.Context(), replay.Options{Site: r.Pair.DR, Group: "g", Dir: r.Dir()}, 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range points {
		if p.Restorable != (p.Barrier >= at) && p.Barrier < at {
			t.Errorf("barrier %d is restorable: %v (%s), the base is at %d", p.Barrier, p.Restorable, p.Reason, at)
		}
	}
	if n := len(points); n < 10 || points[n-1].Bytes == nil || *points[n-1].Bytes == 0 {
		t.Errorf("%d points, the last is %+v", n, points[len(points)-1])
	}
}

// Damage in the journal: the newest point before it is recovered, one behind it is refused by name.
func TestReplayAroundDamage(t *testing.T) {
	t.Parallel()
	r := rig(t)
	stop := r.Follow(nil)
	good := r.Fill(4, 4, "a", "b")
	r.AppliedTo(good)
	bad := r.Fill(1, 4, "a", "b")
	r.Fill(3, 4, "a", "b")
	mirrored(r, "a", "b")
	stop()
	lost := bad.Vector[1].Position.Seq - 1
	r.DeleteFromMirror("b", lost)
	// A directory of the group without replicas: everything comes from the journal.
	elsewhere := filepath.Join(t.TempDir(), "none")
	result, err := replay.Run(t.Context(), replay.Options{Site: r.Pair.DR, Group: "g", Dir: elsewhere, Target: "latest", Into: filepath.Join(t.TempDir(), "x")})
	if err != nil {
		t.Fatal(err)
	}
	if result.Point.Barrier != good.Token.Barrier {
		t.Errorf("the latest is %d, want %d", result.Point.Barrier, good.Token.Barrier)
	}
	_, err = replay.Run(t.Context(), replay.Options{
		Site: r.Pair.DR, Group: "g", Dir: elsewhere, Target: strconv.FormatUint(bad.Token.Barrier, 10), Into: filepath.Join(t.TempDir(), "x"),
	})
	var trimmed *replay.TrimmedError
	if !errors.As(err, &trimmed) || trimmed.Before == nil || trimmed.Before.Barrier != good.Token.Barrier || !strings.Contains(err.Error(), fmt.Sprint(lost)) {
		t.Errorf("behind the damage: %v", err)
	}
}

// Content that is damaged shows only when it is read: latest steps back before it, any other target fails
// and leaves nothing.
func TestReplayAroundUnknownDamage(t *testing.T) {
	t.Parallel()
	r := rig(t)
	stop := r.Follow(nil)
	good := r.Fill(2, 4, "a", "b")
	mirrored(r, "a", "b")
	r.AppliedTo(good)
	stop()
	r.StopWriter("a")
	r.StopWriter("b")
	body, err := events.Append(nil, events.Header{Epoch: 1, Time: time.Now()}, &events.Heartbeat{})
	if err != nil {
		t.Fatal(err)
	}
	body[len(body)-1] ^= 1
	bad := r.Raw("a", body)
	next := *good
	next.Token.Barrier++
	next.Time = good.Time.Add(time.Second)
	if body, err = events.Append(nil, events.Header{Epoch: 1, Time: time.Now()}, &events.Mark{Token: next.Token}); err != nil {
		t.Fatal(err)
	}
	next.Vector = append([]events.VectorEntry(nil), good.Vector...)
	for i := range next.Vector {
		next.Vector[i].Position.Seq = r.Raw(next.Vector[i].Volume, body)
	}
	r.Publish(&next)
	mirrored(r)
	for _, v := range next.Vector {
		replicatest.Eventually(t, v.Volume+" is mirrored", func() error {
			tail, err := r.Pair.DR.Tail(t.Context(), replica.MirrorName(r.ID(v.Volume)))
			if err == nil && tail.Last < v.Position.Seq {
				err = fmt.Errorf("at %d", tail.Last)
			}
			return err
		})
	}
	recover(t, r, "latest", good.Token.Barrier)
	into := filepath.Join(t.TempDir(), "x")
	_, err = replay.Run(t.Context(), replay.Options{Site: r.Pair.DR, Group: "g", Dir: r.Dir(), Target: fmt.Sprint(next.Token.Barrier), Into: into})
	if stream, seq, ok := replica.Damage(err); !ok || seq != bad || stream != replica.MirrorName(r.ID("a")) {
		t.Errorf("got %v, want damage at %d", err, bad)
	}
	if entries, err := os.ReadDir(into); err == nil && len(entries) > 0 {
		t.Errorf("a failed replay left %v", entries)
	}
}

func TestNoGroup(t *testing.T) {
	t.Parallel()
	r := rig(t)
	if _, err := replay.Points(t.Context(), replay.Options{Site: r.Pair.DR, Group: "none", Dir: r.Dir()}, 0); !errors.Is(err, replay.ErrNoJournal) {
		t.Errorf("points of a group that isn't there: %v", err)
	}
}
