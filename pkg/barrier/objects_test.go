package barrier

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

// serveObjects runs the watcher's side.
func (r *rig) serveObjects(epoch uint64, tap ObjectsTap) *process {
	return start(r.t, func(ctx context.Context) error {
		return ServeObjects(ctx, r.site.Conn(), testGroup, Info{Generation: 1, Epoch: epoch}, tap)
	})
}

// fakeObjects is a watcher without an API server.
type fakeObjects struct {
	fakeTap
	revision   string // of the API server
	proven     string
	onRevision func(context.Context) error
}

func (f *fakeObjects) Revision(ctx context.Context, t events.Token) (string, error) {
	f.mu.Lock()
	f.note("revision %d", t.Barrier)
	on := f.onRevision
	f.mu.Unlock()
	if on != nil {
		if err := on(ctx); err != nil {
			return "", err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.proven = f.revision
	return f.revision, nil
}

func (f *fakeObjects) Mark(ctx context.Context, t events.Token) (ObjectsMarked, error) {
	m, err := f.fakeTap.Mark(ctx, t)
	f.mu.Lock()
	defer f.mu.Unlock()
	return ObjectsMarked{Hold: m.Hold, Revision: f.proven, Stored: m.Stored}, err
}

func (f *fakeObjects) change(change func(*fakeObjects)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// everybody waits until the cut has so many volumes and the objects.
func (r *rig) everybody(volumes int) *events.Commit {
	r.t.Helper()
	var got *events.Commit
	r.eventually("all are members", func() error {
		if got = r.mark("x"); len(got.Vector) != volumes || got.Objects == nil {
			return fmt.Errorf("committed %+v", got)
		}
		return nil
	})
	return got
}

// A labelled commit tells the revision that was read for it and a scheduled one what was proven before; the revision is
// read behind the holds and before the marks, and only for the former.
func TestObjectsInACommit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, o := new(fakeTap), &fakeObjects{revision: "100", proven: "90"}
	r.serve("a", 1, a)
	r.serveObjects(7, o)
	c := r.coordinate(Options{Volumes: volumes("a"), Objects: true, Interval: onDemand})
	r.everybody(1)
	o.change(func(o *fakeObjects) { o.revision, o.log = "120", nil })
	a.set(func(a *fakeTap) { a.log = nil })
	got := r.mark("one")
	if want := (events.Position{Generation: 1, Seq: o.seq}); *got.Objects != want || got.Revision != "120" {
		t.Errorf("committed %+v, want objects at %+v", got, want)
	}
	if want := fmt.Sprintf("hold %d, revision %[1]d, mark %[1]d", got.Token.Barrier); o.did() != want || strings.Contains(a.did(), "revision") {
		t.Errorf("the objects' tap was asked to %s, the volume's to %s", o.did(), a.did())
	}
	o.change(func(o *fakeObjects) { o.revision, o.log = "130", nil })
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	r.coordinate(Options{Volumes: volumes("a"), Objects: true, Interval: 2 * time.Millisecond})
	r.eventually("crash commits", func() error {
		if commits := r.commits(); commits[len(commits)-1].Type != events.Crash {
			return errors.New("not yet")
		}
		return nil
	})
	commits := r.commits()
	if last := commits[len(commits)-1]; last.Revision != "120" || last.Objects == nil || strings.Contains(o.did(), "revision") {
		t.Errorf("committed %+v, asked to %s", last, o.did())
	}
	last := map[string]events.MemberState{}
	for _, m := range of[*events.Member](r.control()) {
		last[m.Volume] = m.State
	}
	if last[journal.Objects] != events.Joined {
		t.Errorf("states are %v", last)
	}
}

// A group may have objects and no volume.
func TestObjectsAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if _, err := NewCoordinator(Options{Site: r.site, Group: testGroup}); err == nil {
		t.Error("a coordinator of nothing was made")
	}
	r.serveObjects(1, &fakeObjects{revision: "5"})
	r.coordinate(Options{Objects: true, Interval: onDemand})
	if got := r.mark("x"); len(got.Vector) != 0 || got.Objects == nil || got.Revision != "5" {
		t.Errorf("committed %+v", got)
	}
}

// An API server that doesn't answer, or says no, refuses labelled barriers with the reason, and the volumes are released
// within their limit. Crash barriers go on.
func TestAPIServerThatDoesNotAnswer(t *testing.T) {
	for name, tt := range map[string]struct {
		on   func(context.Context) error
		want string
	}{
		"refuses": {func(context.Context) error { return errors.New("connection refused") }, "revision was not read: connection refused"},
		"hangs":   {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, "revision"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			a, o := new(fakeTap), &fakeObjects{revision: "100"}
			r.serve("a", 1, a)
			r.serveObjects(1, o)
			o.onRevision = tt.on
			r.coordinate(Options{Volumes: volumes("a"), Objects: true, Interval: 5 * time.Millisecond, HoldLimit: 100 * time.Millisecond})
			r.eventually("objects are a member", func() error {
				if commits := r.commits(); len(commits) == 0 || commits[len(commits)-1].Objects == nil {
					return errors.New("not yet")
				}
				return nil
			})
			before := len(r.commits())
			if m := r.missing(); len(m.Members) != 1 || m.Members[0].Volume != journal.Objects || !strings.Contains(m.Members[0].Reason, tt.want) {
				t.Errorf("refused with %v", m)
			}
			r.eventually("crash commits go on", func() error {
				if len(r.commits()) == before {
					return errors.New("not yet")
				}
				return nil
			})
			o.change(func(o *fakeObjects) { o.onRevision = nil })
			if got := r.mark("x"); got.Revision != "100" {
				t.Errorf("committed %+v", got)
			}
		})
	}
}

// Whatever message of the objects' part gets lost, the barrier fails and names it, nobody stays held, and the next
// one works.
func TestSilentObjectsFailTheBarrier(t *testing.T) {
	wait := func(on <-chan struct{}) func(events.Token) error {
		return func(events.Token) error { <-on; return nil }
	}
	for name, arm := range map[string]func(o *fakeObjects, on <-chan struct{}){
		"in the hold": func(o *fakeObjects, on <-chan struct{}) { o.onHold = wait(on) },
		"in the reading": func(o *fakeObjects, on <-chan struct{}) {
			o.onRevision = func(context.Context) error { <-on; return nil }
		},
		"in the proof": func(o *fakeObjects, on <-chan struct{}) { o.onMark = wait(on) },
		"while its mark is stored": func(o *fakeObjects, on <-chan struct{}) {
			o.onStored = func(context.Context, uint64) error { <-on; return nil }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			a, o := new(fakeTap), &fakeObjects{revision: "100"}
			r.serve("a", 1, a)
			r.serveObjects(1, o)
			r.coordinate(Options{Volumes: volumes("a"), Objects: true, Interval: onDemand, HoldLimit: 100 * time.Millisecond, VoteTimeout: 500 * time.Millisecond})
			r.everybody(1)
			before := len(r.commits())
			on := make(chan struct{})
			o.change(func(o *fakeObjects) { arm(o, on) })
			if m := r.missing(); !slices.Equal(m.Volumes(), []string{journal.Objects}) {
				t.Errorf("missing %v", m)
			}
			r.eventually("a is released", func() error {
				if a.isHeld() {
					return errors.New(a.did())
				}
				return nil
			})
			if n := len(r.commits()); n != before {
				t.Errorf("%d commits without the objects", n-before)
			}
			close(on)
			o.change(func(o *fakeObjects) { o.onHold, o.onMark, o.onStored, o.onRevision = nil, nil, nil, nil })
			r.mark("y")
		})
	}
}

// The proof may take longer than a tap has to open its gate, and nobody is held for it.
func TestProofMayTakeTheWholeVote(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, o := new(fakeTap), &fakeObjects{revision: "100"}
	r.serve("a", 1, a)
	r.serveObjects(1, o)
	c := r.coordinate(Options{Volumes: volumes("a"), Objects: true, Interval: onDemand, HoldLimit: 20 * time.Millisecond})
	r.everybody(1)
	proving := make(chan struct{}, 16)
	o.change(func(o *fakeObjects) {
		o.onMark = func(events.Token) error {
			proving <- struct{}{}
			late := time.NewTimer(c.openLimit() + 100*time.Millisecond) // what is tested is that this is not too late
			<-late.C
			return nil
		}
	})
	marked := make(chan *events.Commit, 1)
	go func() { marked <- r.mark("slow") }()
	<-proving
	r.eventually("a is open", func() error {
		if a.isHeld() {
			return errors.New(a.did())
		}
		return nil
	})
	if got := <-marked; got.Revision != "100" {
		t.Errorf("committed %+v", got)
	}
}

// A mark that proves less than what was asked for is no vote, as one that proves nothing is.
func TestMarkHasToProveTheRevision(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	o := &unprovenObjects{fakeObjects: fakeObjects{revision: "100"}, proof: "100"}
	r.serveObjects(1, o)
	r.coordinate(Options{Objects: true, Interval: onDemand})
	r.mark("x")
	for _, less := range []string{"99", "9", "", "0", "abc"} {
		o.change(func(*fakeObjects) { o.proof = less })
		if m := r.missing(); !strings.Contains(m.Error(), fmt.Sprintf("proves revision %q", less)) {
			t.Errorf("proof of %q: %v", less, m)
		}
	}
	o.change(func(*fakeObjects) { o.proof = "1000" })
	if got := r.mark("y"); got.Revision != "1000" {
		t.Errorf("committed %+v", got)
	}
}

// unprovenObjects proves whatever it is told to.
type unprovenObjects struct {
	fakeObjects
	proof string
}

func (o *unprovenObjects) Mark(ctx context.Context, t events.Token) (ObjectsMarked, error) {
	m, err := o.fakeObjects.Mark(ctx, t)
	o.mu.Lock()
	defer o.mu.Unlock()
	m.Revision = o.proof
	return m, err
}

// Objects that are still being sent for the first time hold nothing back, and those of an API server that
// doesn't answer join with a crash barrier.
func TestJoiningObjectsHoldNothingBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	o := &fakeObjects{fakeTap: fakeTap{unready: true, progress: events.Progress{Pass: events.PassSeed, Done: 1, Total: 4}}, revision: "100"}
	o.onRevision = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	r.serve("a", 1, new(fakeTap))
	r.serveObjects(1, o)
	c := r.coordinate(Options{Volumes: volumes("a"), Objects: true, Interval: onDemand, HoldLimit: 100 * time.Millisecond})
	r.eventually("they are joining", func() error {
		if got := r.mark("first sync"); got.Objects != nil {
			t.Fatalf("committed %+v", got)
		}
		if !slices.Contains(rosterOf(r.control()), "objects 1") {
			return fmt.Errorf("the roster is %v", rosterOf(r.control()))
		}
		return nil
	})
	o.change(func(o *fakeObjects) { o.unready = false })
	r.eventually("they were asked for the revision", func() error {
		if got := r.mark("in vain"); got.Objects != nil {
			t.Fatalf("committed %+v", got)
		}
		if !strings.Contains(o.did(), "revision") {
			return errors.New("not yet")
		}
		return nil
	})
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	r.coordinate(Options{Volumes: volumes("a"), Objects: true, Interval: 5 * time.Millisecond, HoldLimit: 100 * time.Millisecond})
	r.eventually("they are a member", func() error {
		if !slices.Contains(rosterOf(r.control()), "objects 2") {
			return fmt.Errorf("the roster is %v", rosterOf(r.control()))
		}
		return nil
	})
}

// rosterOf returns the names and states of all that was ever in the roster.
func rosterOf(messages []journal.Message) (out []string) {
	last := map[string]events.MemberState{}
	for _, m := range of[*events.Member](messages) {
		last[m.Volume] = m.State
	}
	for _, name := range slices.Sorted(maps.Keys(last)) {
		out = append(out, fmt.Sprintf("%s %d", name, last[name]))
	}
	return out
}

// Objects leave when the document has none any more, and join again when it has.
func TestObjectsLeaveAndComeBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, o := new(fakeTap), &fakeObjects{revision: "100"}
	r.serve("a", 1, a)
	gone := r.serveObjects(1, o)
	c := r.coordinate(Options{Volumes: volumes("a"), Objects: true, Interval: onDemand})
	r.everybody(1)
	gone.stop()
	r.eventually("they are missed", func() error {
		if m := r.missing(); m.Members[0].Volume != journal.Objects {
			return m
		}
		return nil
	})
	c.SetParts(volumes("a"), false)
	r.eventually("they left", func() error {
		if got := r.mark("without"); got.Objects != nil || got.Revision != "" {
			return fmt.Errorf("committed %+v", got)
		}
		return nil
	})
	r.serveObjects(2, &fakeObjects{fakeTap: fakeTap{seq: 1000}, revision: "100"})
	c.SetParts(volumes("a"), true)
	r.everybody(1)
}

// A snapshotter that knows nothing of objects, as an older one, lets them leave and cuts volumes; a newer one that takes
// over again lets them join.
func TestOldSnapshotterAgainstNew(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.serve("a", 1, new(fakeTap))
	r.serveObjects(1, &fakeObjects{revision: "100"})
	for range 2 {
		c := r.coordinate(Options{Volumes: volumes("a"), Objects: true, Interval: onDemand})
		first := r.everybody(1)
		if err := c.stop(); err != nil {
			t.Fatal(err)
		}
		old := r.coordinate(Options{Volumes: volumes("a"), Interval: onDemand})
		if got := r.mark("old"); got.Objects != nil || got.Roster == first.Roster {
			t.Errorf("the old one committed %+v behind %+v", got, first)
		}
		if err := old.stop(); err != nil {
			t.Fatal(err)
		}
	}
	// One that asks the objects' tap as if it were a volume's gets its mark at once.
	c := r.coordinate(Options{Volumes: volumes("a"), Objects: true, Interval: onDemand})
	last := r.everybody(1)
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	q := request{identity: identity{1, 1}, Verb: verbHold, Token: events.Token{Epoch: last.Token.Epoch, Barrier: last.Token.Barrier + 1}, Limit: time.Minute}
	if a := r.answered(r.ask(journal.Objects, q)); a.Outcome != held {
		t.Fatalf("got %+v", a)
	}
	q.Verb = verbMark
	if a := r.answered(r.ask(journal.Objects, q)); a.Outcome != opened || a.Revision != "100" {
		t.Errorf("got %+v", a)
	}
}

// [I] An objects stream that has lost its end can't be part of a cut behind what was promised: known over a restart
// of the snapshotter, and over a new generation of the control stream.
func TestObjectsNeverFall(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	o := &fakeObjects{fakeTap: fakeTap{seq: 100}, revision: "100"}
	r.serve("a", 1, new(fakeTap))
	r.serveObjects(1, o)
	r.recover(repair.Foundation{Newest: 1, Barrier: 10})
	c := r.coordinate(Options{Volumes: volumes("a"), Objects: true, Interval: onDemand})
	before := r.everybody(1)
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	r.coordinate(Options{Volumes: volumes("a"), Objects: true, Interval: onDemand})
	lost := func() {
		t.Helper()
		o.change(func(o *fakeObjects) { o.seq = 50 })
		if m := r.missing(); m.Members[0].Volume != journal.Objects || !strings.Contains(m.Error(), "lost history") {
			t.Errorf("got %v", m)
		}
	}
	lost()
	capture := repair.CaptureOf(r.site.Conn(), testGroup, journal.Control)
	r.eventually("renew", func() error { return capture.Renew(t.Context(), 1, "its mirror is damaged") })
	r.eventually("generation 2", func() error {
		if n, err := r.site.Generation(t.Context(), testGroup, journal.Control); err != nil || n != 2 {
			return fmt.Errorf("generation %d, %v", n, err)
		}
		return nil
	})
	lost()
	o.change(func(o *fakeObjects) { o.seq = 200 })
	if after := r.mark("after"); after.Objects == nil || after.Objects.Seq <= before.Objects.Seq || len(after.Vector) != 1 {
		t.Errorf("behind %+v came %+v", before, after)
	}
	r.renewed(2, nil)
}

// The revision is asked for once, and only behind the hold of its token.
func TestRevisionNeedsItsHold(t *testing.T) {
	t.Parallel()
	r := tapRig(t)
	o := &fakeObjects{revision: "100"}
	r.serveObjects(5, o)
	heard, err := r.site.Conn().SubscribeSync(announceSubject(testGroup))
	if err == nil {
		_, err = heard.NextMsg(10 * time.Second)
	}
	if err != nil {
		t.Fatal(err)
	}
	if a := r.answered(r.ask(journal.Objects, ofTap(verbRevision, 1, 1))); a.Outcome != refused {
		t.Errorf("without a hold: %+v", a)
	}
	r.answered(r.ask(journal.Objects, ofTap(verbHold, 1, 2)))
	if a := r.answered(r.ask(journal.Objects, ofTap(verbRevision, 1, 1))); a.Outcome != refused {
		t.Errorf("of another token: %+v", a)
	}
	if a := r.answered(r.ask(journal.Objects, ofTap(verbRevision, 1, 2))); a.Outcome != read || a.Revision != "100" {
		t.Errorf("got %+v", a)
	}
	again := r.ask(journal.Objects, ofTap(verbRevision, 1, 2))
	sub := r.ask(journal.Objects, ofTap(verbMark, 1, 2))
	if a := r.answered(sub); a.Outcome != opened || a.Revision != "100" {
		t.Errorf("got %+v", a)
	}
	r.answered(sub)
	if _, err := again.NextMsg(10 * time.Millisecond); !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("the second question got %v", err)
	}
	o.change(func(o *fakeObjects) { o.revision = "" })
	r.answered(r.ask(journal.Objects, ofTap(verbHold, 1, 3)))
	if a := r.answered(r.ask(journal.Objects, ofTap(verbRevision, 1, 3))); a.Outcome != refused || !strings.Contains(a.Reason, "no revision") {
		t.Errorf("without a revision: %+v", a)
	}
}

func undisturbed(context.Context, *Coordinator) {}

// [I] The cut contains a mutation, or a change of an object, only if it contains every mutation acknowledged before
// that one was issued, and in labelled cuts every change of an object as well: while messages of this and of an older
// snapshotter arrive late, twice and garbled.
func TestCutsOfVolumesAndObjectsAreConsistent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	enough := 1000
	if testing.Short() {
		enough = 150
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	began := time.Now()
	commits, violations := r.cutModel(seed, enough, faults{}, func(ctx context.Context, c *Coordinator) {
		newSaboteur(r, seed, c).run(ctx)
	})
	for i, v := range violations {
		if i == 5 {
			t.Errorf("… and %d more", len(violations)-i)
			break
		}
		t.Error(v)
	}
	attempts := commits[len(commits)-1].Token.Barrier
	t.Logf("%d commits of %d barriers in %s", len(commits), attempts, time.Since(began).Round(time.Millisecond))
}

// The check can fail: it does with every tap that breaks one of its promises, and where the revision is read
// outside of the time between the last hold and the first mark.
func TestCheckFindsWhatIsWrongWithObjects(t *testing.T) {
	enough := 100
	if testing.Short() {
		enough = 40
	}
	for name, f := range map[string]faults{
		"the revision is read before the last hold":  {readAtHold: true},
		"the revision is read behind the first mark": {readAtMark: true},
		"the gate is not closed":                     {leaky: true},
		"the mark proves nothing":                    {unproven: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			_, violations := r.cutModel(1, enough, f, undisturbed)
			if len(violations) == 0 {
				t.Error("no violation was found: the check proves nothing")
			} else {
				t.Logf("%d violations, such as %s", len(violations), violations[0])
			}
			inCrash := slices.ContainsFunc(violations, func(v string) bool { return strings.Contains(v, "type 1: thread") })
			if inCrash != f.leaky {
				t.Errorf("a crash cut is wrong: %t, want %t", inCrash, f.leaky)
			}
		})
	}
}

// What keeps the objects from voting is told in their own words.
func TestReasonsOfObjects(t *testing.T) {
	if got := notReady(journal.Objects, events.Progress{}); !strings.Contains(got, "objects must be sent first") {
		t.Errorf("got %q", got)
	}
	if got := notReady(journal.Objects, events.Progress{Pass: events.PassSeed, Done: 1, Total: 4}); !strings.Contains(got, "at 25 %") {
		t.Errorf("got %q", got)
	}
	c, err := NewCoordinator(Options{Site: newRig(t).site, Group: testGroup, Objects: true})
	if err != nil {
		t.Fatal(err)
	}
	c.history = newHistory()
	if _, err := c.check(journal.Objects); err == nil || !strings.Contains(err.Error(), "reaches the API server") {
		t.Errorf("a watcher that was never heard: %v", err)
	}
}
