package barrier

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

// recovery is a DR site that answers about the control stream.
type recovery struct {
	repair.Recovery
	mu     sync.Mutex
	found  repair.Foundation
	busy   error // until then Found answers it
	stored map[uint32]uint64
	asked  int
}

func (r *recovery) Found(_ context.Context, part, _ string) (repair.Foundation, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if part != journal.Control {
		return repair.Foundation{}, repair.ErrRefused
	}
	return r.found, r.busy
}

func (r *recovery) Stored(_ context.Context, _ string, generation uint32) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stored[generation], nil
}

func (r *recovery) set(change func(*recovery)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

func (r *rig) recover(f repair.Foundation) *recovery {
	dr := &recovery{found: f, stored: make(map[uint32]uint64)}
	start(r.t, func(ctx context.Context) error { return repair.ServeRecovery(ctx, r.site.Conn(), testGroup, dr) })
	r.eventually("the DR site answers", func() error {
		_, err := repair.RecoveryOf(r.site.Conn(), testGroup).Stored(r.t.Context(), journal.Control, 1)
		return err
	})
	return dr
}

func controlStream(generation uint32) string {
	return journal.StreamID{Group: testGroup, Part: journal.Control, Generation: generation}.Name()
}

// renewed reads a generation of the control stream and checks that it goes on where the one before ended.
func (r *rig) renewed(generation uint32, base *events.Base) []journal.Message {
	r.t.Helper()
	messages := r.read(controlStream(generation))
	first, ok := messages[0].Event.(*events.Epoch)
	if !ok || fmt.Sprint(first.Base) != fmt.Sprint(base) {
		r.t.Errorf("generation %d begins with %+v, not on %+v", generation, messages[0].Event, base)
	}
	return messages
}

// [I] A control stream that an operator deleted is not continued: a new generation begins on what the DR site
// holds, with the roster and above every number, epoch and time that anybody knows.
func TestLostControlStreamIsRenewed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b := new(fakeTap), new(fakeTap)
	r.serve("a", 1, a)
	r.serve("b", 1, b)
	future := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	base := &events.Base{Generation: 1, Seq: 77, Barrier: 4000}
	dr := r.recover(repair.Foundation{Base: base, Newest: 4, Barrier: 5000, Epoch: 20, Roster: 30, Time: future})
	dr.set(func(d *recovery) { d.busy = repair.ErrBusy })
	c := r.coordinate(Options{Volumes: volumes("a", "b"), Interval: onDemand})
	var before *events.Commit
	r.eventually("both are members", func() error {
		if before = r.mark("before"); len(before.Vector) != 2 {
			return errors.New("not yet")
		}
		return nil
	})
	if err := r.site.JetStream().DeleteStream(t.Context(), controlStream(1)); err != nil {
		t.Fatal(err)
	}
	r.eventually("the DR site is asked", func() error {
		dr.mu.Lock()
		defer dr.mu.Unlock()
		if dr.asked == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	dr.set(func(d *recovery) { d.busy = nil })
	after := r.mark("after")
	if after.Token.Barrier <= 5000 || after.Token.Epoch <= 20 || !after.Time.After(future) || len(after.Vector) != 2 || after.Roster <= 30 {
		t.Errorf("behind %+v came %+v", before, after)
	}
	messages := r.renewed(5, base)
	states := map[string]events.MemberState{}
	for _, m := range messages {
		switch e := m.Event.(type) {
		case *events.Member:
			states[e.Volume] = e.State
		case *events.Commit:
			if states["a"] != events.Joined || states["b"] != events.Joined {
				t.Errorf("committed with the roster %v", states)
			}
		}
	}
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}

	// A fresh coordinator goes on in it.
	r.coordinate(Options{Volumes: volumes("a", "b"), Interval: onDemand})
	if again := r.mark("again"); again.Token.Compare(after.Token) <= 0 || !again.Time.After(after.Time) || again.Roster != after.Roster {
		t.Errorf("behind %+v came %+v", after, again)
	}
}

// A coordinator that starts on a stream that ends below the DR site's mirror, as a rolled back one does, takes the
// roster from what is left of it.
func TestRolledBackControlStreamIsRenewed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.serve("a", 1, new(fakeTap))
	gone := r.serve("b", 1, new(fakeTap))
	dr := r.recover(repair.Foundation{Newest: 1})
	c := r.coordinate(Options{Volumes: volumes("a", "b"), Interval: onDemand})
	r.eventually("both are members", func() error {
		if len(r.mark("before").Vector) != 2 {
			return errors.New("not yet")
		}
		return nil
	})
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	gone.stop()
	tail, err := r.site.Tail(t.Context(), controlStream(1))
	if err != nil {
		t.Fatal(err)
	}
	base := &events.Base{Generation: 1, Seq: tail.Last + 3, Barrier: 900}
	dr.set(func(d *recovery) { d.stored[1], d.found.Base, d.found.Barrier = tail.Last+3, base, 900 })
	r.coordinate(Options{Volumes: volumes("a", "b"), Interval: onDemand})
	// [I] b is a member still, although only the old stream tells: no commit without it.
	r.eventually("b is missed", func() error {
		if m := r.missing(); len(m.Members) != 1 || m.Members[0].Volume != "b" {
			return m
		}
		return nil
	})
	r.serve("b", 2, &fakeTap{seq: 1000})
	if after := r.mark("after"); after.Token.Barrier <= 900 || len(after.Vector) != 2 {
		t.Errorf("committed %+v", after)
	}
	r.renewed(2, base)
}

// The DR site may ask for a new generation, once; and what concerns volumes is refused.
func TestRenewOnRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.serve("a", 1, new(fakeTap))
	r.recover(repair.Foundation{Newest: 1, Barrier: 10})
	r.coordinate(Options{Volumes: volumes("a"), Interval: onDemand})
	before := r.mark("before")
	capture := repair.CaptureOf(r.site.Conn(), testGroup, journal.Control)
	if err := capture.Heal(t.Context(), nil); !errors.Is(err, repair.ErrRefused) {
		t.Errorf("heal: %v", err)
	}
	if _, err := capture.Scrub(t.Context()); !errors.Is(err, repair.ErrRefused) {
		t.Errorf("scrub: %v", err)
	}
	if err := capture.Incarnate(t.Context(), 1, 2, 1); err != nil {
		t.Errorf("incarnate: %v", err)
	}
	for range 3 { // repeated, and late
		r.eventually("renew", func() error { return capture.Renew(t.Context(), 1, "its mirror is damaged") })
		after := r.mark("after")
		if after.Token.Compare(before.Token) <= 0 || after.Token.Epoch <= before.Token.Epoch {
			t.Errorf("token %+v behind %+v", after.Token, before.Token)
		}
	}
	generation, err := r.site.Generation(t.Context(), testGroup, journal.Control)
	if err != nil || generation != 2 {
		t.Errorf("generation %d, %v", generation, err)
	}
	r.renewed(2, nil)
}

// [I] A member whose stream got a new generation is followed there, and no commit counts it before it is ready in it.
func TestMemberWithANewGeneration(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.serve("a", 1, new(fakeTap))
	old := r.serve("b", 7, &fakeTap{seq: 500})
	r.coordinate(Options{Volumes: volumes("a", "b"), Interval: onDemand})
	r.eventually("both are members", func() error {
		if len(r.mark("before").Vector) != 2 {
			return errors.New("not yet")
		}
		return nil
	})
	fresh := &fakeTap{unready: true, progress: events.Progress{Pass: events.PassResync, Done: 1, Total: 2}}
	start(t, func(ctx context.Context) error {
		return Serve(ctx, r.site.Conn(), testGroup, "b", Info{UID: "uid-b", Generation: 2, Epoch: 1, Size: 1 << 20}, fresh)
	})
	r.eventually("the old generation's tap doesn't count any more", func() error {
		if m := r.missing(); m.Members[0].Volume != "b" {
			return m
		}
		return nil
	})
	commits := len(r.commits())
	r.missing()
	if n := len(r.commits()); n != commits {
		t.Errorf("%d commits before the pass was done", n-commits)
	}
	fresh.set(func(f *fakeTap) { f.unready = false })
	got := r.mark("after").Vector[1]
	if want := (events.VectorEntry{Volume: "b", Position: events.Position{Generation: 2, Seq: fresh.seq}}); got != want {
		t.Errorf("the vector has %+v, want %+v", got, want)
	}
	old.stop()
}
