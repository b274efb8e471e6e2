package barrier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

const onDemand = -1 // an Interval: labelled barriers only

func TestLabelledBarrierIsCommitted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b := new(fakeTap), new(fakeTap)
	r.serve("a", 3, a)
	r.serve("b", 4, b)
	r.coordinate(Options{Volumes: volumes("a", "b"), Interval: onDemand, Tracer: trace.NewTracerProvider().Tracer("")})
	r.eventually("both are members", func() error {
		if got := r.mark("before-upgrade"); len(got.Vector) != 2 {
			return errors.New("one of them is still joining")
		}
		return nil
	})
	got := r.mark("again")
	commits := r.commits()
	last := commits[len(commits)-1]
	if last.Token != got.Token || !last.Time.Equal(got.Time) || last.Label != "again" || last.Type != events.Labeled || last.Hold != time.Millisecond {
		t.Errorf("answered %+v, the stream has %+v", got, last)
	}
	for i, want := range []events.VectorEntry{
		{Volume: "a", Position: events.Position{Generation: 1, Seq: a.seq}},
		{Volume: "b", Position: events.Position{Generation: 1, Seq: b.seq}},
	} {
		if last.Vector[i] != want {
			t.Errorf("vector has %+v, want %+v", last.Vector[i], want)
		}
	}
	for _, m := range r.control() {
		if _, ok := m.Event.(*events.Commit); ok && len(m.Header.Trace) == 0 {
			t.Error("a commit carries no trace context")
		}
	}
}

func TestScheduleMakesBarriers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.serve("a", 1, new(fakeTap))
	r.coordinate(Options{Volumes: volumes("a"), Interval: 2 * time.Millisecond})
	r.eventually("many commits", func() error {
		if n := len(r.commits()); n < 50 {
			return errors.New("not yet")
		}
		return nil
	})
	if c := r.commits()[20]; c.Type != events.Crash || c.Label != "" {
		t.Errorf("a scheduled commit is %+v", c)
	}
}

func TestMarkRefusals(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	conn := r.site.Conn()
	if _, err := RequestMark(t.Context(), conn, testGroup, "x", time.Second); !errors.Is(err, ErrNoSnapshotter) {
		t.Errorf("without a snapshotter: %v", err)
	}
	r.coordinate(Options{Volumes: volumes("a"), Interval: onDemand})
	if _, err := RequestMark(t.Context(), conn, testGroup, "x", 10*time.Second); !errors.Is(err, ErrNoMembers) {
		t.Errorf("without a member: %v", err)
	}
	if _, err := RequestMark(t.Context(), conn, testGroup, "x\ny", time.Second); !errors.Is(err, ErrLabel) {
		t.Errorf("with a bad label: %v", err)
	}
	// A client that doesn't check gets the same answer.
	m, err := conn.Request(markSubject(testGroup), []byte(`{"label":"x\ny"}`), 5*time.Second)
	if err != nil || !strings.Contains(string(m.Data), string(failedLabel)) {
		t.Errorf("unchecked label: %s, %v", m.Data, err)
	}
}

// [I] No commit without every member's vote; the absentee is named: in the answer, in the control
// stream's heartbeats, and in the metrics.
func TestMissingMemberIsNamed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	reader := sdkmetric.NewManualReader()
	meter := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("")
	present := new(fakeTap)
	r.serve("a", 1, present)
	gone := r.serve("b", 1, new(fakeTap))
	c := r.coordinate(Options{Volumes: volumes("a", "b"), Interval: 5 * time.Millisecond, Meter: meter})
	r.eventually("both are members", func() error {
		if commits := r.commits(); len(commits) == 0 || len(commits[len(commits)-1].Vector) != 2 {
			return errors.New("not yet")
		}
		return nil
	})
	gone.stop()
	r.eventually("it is missed", func() error {
		if got := c.Missing(); !slices.Equal(got, []string{"b"}) {
			return errors.New("missing " + strings.Join(got, ","))
		}
		return nil
	})
	before := len(r.commits())
	if m := r.missing(); len(m.Members) != 1 || m.Members[0].Volume != "b" || m.Members[0].Reason == "" {
		t.Errorf("the answer names %v", m)
	}
	r.eventually("a heartbeat names it", func() error {
		beats := of[*events.Heartbeat](r.control())
		if len(beats) == 0 || !slices.Equal(beats[len(beats)-1].Missing, []string{"b"}) {
			return errors.New("not yet")
		}
		return nil
	})
	if now := len(r.commits()); now != before {
		t.Errorf("%d commits were made without b", now-before)
	}
	if got := counted(t, reader, "farshore.barrier.missing_votes", "volume", "b"); got == 0 {
		t.Error("the metric doesn't count the missing vote")
	}
	if n := strings.Count(c.log.String(), "barrier failed"); n == 0 || n > 4 {
		t.Errorf("the failure was logged %d times", n)
	}
	r.serve("b", 2, &fakeTap{seq: 1000})
	r.eventually("commits again", func() error {
		if len(r.commits()) == before {
			return errors.New("not yet")
		}
		return nil
	})
	r.eventually("heartbeats name nobody", func() error {
		beats := of[*events.Heartbeat](r.control())
		if len(beats[len(beats)-1].Missing) != 0 {
			return errors.New("not yet")
		}
		return nil
	})
	if counted(t, reader, "farshore.barriers", "result", "committed") == 0 || counted(t, reader, "farshore.barriers", "result", "missing") == 0 {
		t.Error("barriers are not counted by how they ended")
	}
}

// counted returns a counter's value for one label.
func counted(t *testing.T, reader *sdkmetric.ManualReader, name, label, value string) (sum int64) {
	t.Helper()
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	for _, s := range rm.ScopeMetrics {
		for _, m := range s.Metrics {
			if m.Name != name {
				continue
			}
			for _, p := range m.Data.(metricdata.Sum[int64]).DataPoints {
				if v, _ := p.Attributes.Value("group"); v.AsString() != testGroup {
					t.Errorf("%s has no group", name)
				}
				for _, kv := range p.Attributes.ToSlice() {
					if string(kv.Key) == label && kv.Value.AsString() == value {
						sum += p.Value
					}
				}
			}
		}
	}
	return sum
}

// A member that is silent in the middle of a barrier, as one that is stopped is, fails it; everybody
// else is released, and the next barrier works as soon as it is back.
func TestSilentMemberFailsTheBarrier(t *testing.T) {
	for name, arm := range map[string]func(f *fakeTap, on <-chan struct{}){
		"in the hold": func(f *fakeTap, on <-chan struct{}) { f.onHold = func(events.Token) error { <-on; return nil } },
		"in the mark": func(f *fakeTap, on <-chan struct{}) { f.onMark = func(events.Token) error { <-on; return nil } },
		"while its mark is being stored": func(f *fakeTap, on <-chan struct{}) {
			f.onStored = func(context.Context, uint64) error { <-on; return nil }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			a, b := new(fakeTap), new(fakeTap)
			r.serve("a", 1, a)
			r.serve("b", 1, b)
			r.coordinate(Options{Volumes: volumes("a", "b"), Interval: onDemand, HoldLimit: 100 * time.Millisecond, VoteTimeout: 1500 * time.Millisecond})
			r.eventually("both are members", func() error {
				if len(r.mark("x").Vector) != 2 {
					return errors.New("not yet")
				}
				return nil
			})
			before := len(r.commits())
			on := make(chan struct{})
			b.set(func(f *fakeTap) { arm(f, on) })
			if m := r.missing(); !slices.Equal(m.Volumes(), []string{"b"}) {
				t.Errorf("missing %v, want b", m)
			}
			r.eventually("a is released", func() error {
				if a.isHeld() {
					return errors.New(a.did())
				}
				return nil
			})
			if n := len(r.commits()); n != before {
				t.Errorf("%d commits without b", n-before)
			}
			close(on)
			b.set(func(f *fakeTap) { f.onHold, f.onMark, f.onStored = nil, nil, nil })
			r.mark("y")
		})
	}
}

// A member that isn't ready (a resync runs) holds commits back, and nobody is held for it.
func TestUnreadyMemberIsMissing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b := new(fakeTap), new(fakeTap)
	r.serve("a", 1, a)
	r.serve("b", 1, b)
	r.coordinate(Options{Volumes: volumes("a", "b"), Interval: onDemand})
	r.eventually("both are members", func() error {
		if len(r.mark("x").Vector) != 2 {
			return errors.New("not yet")
		}
		return nil
	})
	b.set(func(f *fakeTap) {
		f.unready, f.progress = true, events.Progress{Pass: events.PassResync, Done: 30, Total: 100}
	})
	r.eventually("b is missing, with its progress", func() error {
		m := r.missing()
		if !strings.Contains(m.Error(), "a resync is at 30 %") {
			return m
		}
		return nil
	})
	r.eventually("a is left alone", func() error { // once b has announced that it isn't ready, and late messages are through
		did := a.did()
		r.missing()
		if a.did() != did {
			return errors.New("it was disturbed: " + strings.TrimPrefix(a.did(), did))
		}
		return nil
	})
	b.set(func(f *fakeTap) { f.unready = false })
	r.mark("y")
}

// [I] Numbers and times go on over a restart, whatever was tried before and wherever the clock is.
func TestRestartGoesOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := new(fakeTap)
	r.serve("a", 1, a)
	now := time.Now()
	c := r.coordinate(Options{Volumes: volumes("a"), Interval: onDemand, Now: func() time.Time { return now }})
	first := r.mark("one")
	a.set(func(f *fakeTap) { f.onMark = func(events.Token) error { return errors.New("broken") } })
	r.missing() // uses numbers up without committing any
	used := a.newest
	a.set(func(f *fakeTap) { f.onMark = nil })
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	r.coordinate(Options{Volumes: volumes("a"), Interval: onDemand, Now: func() time.Time { return now.Add(-time.Hour) }})
	second := r.mark("two")
	if second.Token.Barrier <= used.Barrier || second.Token.Epoch <= first.Token.Epoch {
		t.Errorf("token %+v behind %+v and the attempt %+v", second.Token, first.Token, used)
	}
	if want := first.Time.Add(time.Microsecond); !second.Time.Equal(want) {
		t.Errorf("time is %s, want %s", second.Time, want)
	}
	if len(second.Vector) != 1 || second.Roster != first.Roster {
		t.Errorf("the roster was not taken over: %+v", second)
	}
}

// A volume joins without holding the others back, is a member once it has voted, and leaves only
// when the document no longer lists it.
func TestRoster(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	late := &fakeTap{unready: true, progress: events.Progress{Pass: events.PassSeed, Done: 1, Total: 4}}
	r.serve("a", 1, new(fakeTap))
	r.serve("late", 1, late)
	c := r.coordinate(Options{Volumes: volumes("a", "late", "never"), Interval: onDemand})
	states := func() map[string]events.MemberState {
		m := map[string]events.MemberState{}
		for _, e := range of[*events.Member](r.control()) {
			m[e.Volume] = e.State
		}
		return m
	}
	r.eventually("late is joining", func() error {
		if got := r.mark("seeding"); len(got.Vector) != 1 {
			t.Fatalf("the vector of %+v has a volume that is seeding", got)
		}
		if s := states(); s["a"] != events.Joined || s["late"] != events.Joining {
			return errors.New("not yet")
		}
		return nil
	})
	late.set(func(f *fakeTap) { f.unready = false })
	r.eventually("late is a member", func() error {
		if got := r.mark("seeded"); len(got.Vector) != 2 {
			return errors.New("not yet")
		}
		return nil
	})
	if s := states(); s["late"] != events.Joined || s["never"] != 0 {
		t.Errorf("states are %v", s)
	}
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	r.coordinate(Options{Volumes: volumes("late"), Interval: onDemand})
	if got := r.mark("without a"); len(got.Vector) != 1 || got.Vector[0].Volume != "late" {
		t.Errorf("vector is %+v", got.Vector)
	}
	if s := states(); s["a"] != events.Left {
		t.Errorf("states are %v", s)
	}
}

// A joining volume that can't keep its word costs the members no commit.
func TestBrokenJoinerHoldsNothingBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.serve("a", 1, new(fakeTap))
	r.coordinate(Options{Volumes: volumes("a", "b"), Interval: onDemand, HoldLimit: 200 * time.Millisecond})
	r.mark("alone")
	b := &fakeTap{onMark: func(events.Token) error { return errors.New("broken") }}
	r.serve("b", 1, b)
	r.eventually("b was asked to mark", func() error {
		if got := r.mark("with b"); len(got.Vector) != 1 {
			t.Fatalf("vector is %+v", got.Vector)
		}
		if !strings.Contains(b.did(), "mark") {
			return errors.New("not yet")
		}
		return nil
	})
}

// A tap of another volume under the same name is not let in.
func TestStrangerIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.serve("a", 1, new(fakeTap))
	c := r.coordinate(Options{Volumes: []Volume{{Name: "a", UID: "another"}}, Interval: onDemand})
	if _, err := RequestMark(t.Context(), r.site.Conn(), testGroup, "x", 20*time.Second); !errors.Is(err, ErrNoMembers) {
		t.Errorf("got %v", err)
	}
	if n := strings.Count(c.log.String(), "another volume than the document"); n != 1 {
		t.Errorf("told %d times", n)
	}
}

// [I] The newer of two coordinators wins: the older one's taps refuse it and its commits can't be stored.
func TestNewerCoordinatorFencesTheOlder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := new(fakeTap)
	r.serve("a", 1, a)
	older := r.coordinate(Options{Volumes: volumes("a"), Interval: 5 * time.Millisecond})
	r.mark("first")
	newer := r.coordinate(Options{Volumes: volumes("a"), Interval: 5 * time.Millisecond})
	if err := older.wait(); !errors.Is(err, journal.ErrFenced) {
		t.Fatalf("the older one ended with %v", err)
	}
	commit := r.mark("second")
	if commit.Token.Epoch != newer.writer.Epoch() {
		t.Errorf("committed by epoch %d", commit.Token.Epoch)
	}
	// What the older one may have left in the network.
	old := request{identity: identity{1, 1}, Token: events.Token{Epoch: commit.Token.Epoch - 1, Barrier: commit.Token.Barrier + 1000}, Limit: time.Minute}
	for _, v := range []verb{verbHold, verbMark, verbRelease} {
		old.Verb = v
		r.ask("a", old)
	}
	r.mark("third")
	if strings.Contains(a.did(), fmt.Sprintf("hold %d", old.Token.Barrier)) {
		t.Error("an old hold was followed")
	}
}

// A bracket of hooks that a predecessor left open is closed before anything else.
func TestOpenHooksAreClosed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := journal.StreamID{Group: testGroup, Part: journal.Control, Generation: 1}
	if _, err := r.site.Generation(t.Context(), testGroup, journal.Control); err != nil {
		t.Fatal(err)
	}
	if err := r.site.EnsureStream(t.Context(), id, journal.StreamOptions{Replicas: 1}); err != nil {
		t.Fatal(err)
	}
	w, err := r.site.OpenWriter(t.Context(), id, journal.WriterOptions{Writer: "old", Open: func(uint64) *events.Epoch { return &events.Epoch{Writer: "old"} }})
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, w.Run)
	open := &events.HooksOpen{Token: events.Token{Epoch: 1, Barrier: 41}, Hooks: []string{"freeze"}}
	seq, err := w.Append(t.Context(), open)
	if err == nil {
		err = w.WaitStored(t.Context(), seq)
	}
	if err != nil {
		t.Fatal(err)
	}
	p.stop()
	r.serve("a", 1, new(fakeTap))
	r.coordinate(Options{Volumes: volumes("a"), Interval: onDemand})
	if c := r.mark("x"); c.Token.Barrier <= 41 {
		t.Errorf("barrier %d was used for hooks already", c.Token.Barrier)
	}
	brackets := of[*events.HooksOpen](r.control())
	if len(brackets) != 2 || !brackets[1].End || brackets[1].Token != open.Token || !slices.Equal(brackets[1].Hooks, open.Hooks) {
		t.Errorf("brackets are %+v", brackets)
	}
}

// A stream that has lost its end can't be part of a cut behind what was promised.
func TestVectorNeverFalls(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := &fakeTap{seq: 100}
	r.serve("a", 1, a)
	r.coordinate(Options{Volumes: volumes("a"), Interval: onDemand})
	r.mark("x")
	a.set(func(f *fakeTap) { f.seq = 50 })
	if m := r.missing(); !strings.Contains(m.Error(), "lost history") {
		t.Errorf("got %v", m)
	}
}

// A coordinator that taps refuse for a newer one, and that nothing fences, ends: a power cut took the
// newer one's epoch away, and starting again brings a higher one.
func TestCoordinatorWithALowEpochEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.serve("a", 1, new(fakeTap))
	first := r.coordinate(Options{Volumes: volumes("a"), Interval: onDemand})
	r.mark("x")
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	c, err := NewCoordinator(Options{Site: r.site, Group: testGroup, Volumes: volumes("a"), Interval: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	c.patience = 50 * time.Millisecond
	p := start(t, c.Run)
	<-c.Ready()
	lost := request{identity: identity{1, 1}, Verb: verbHold, Token: events.Token{Epoch: 3, Barrier: 7}, Limit: time.Minute}
	if a := r.answered(r.ask("a", lost)); a.Outcome != held {
		t.Fatalf("got %+v", a)
	}
	if err := p.wait(); !errors.Is(err, ErrSuperseded) {
		t.Fatalf("got %v", err)
	}
	r.coordinate(Options{Volumes: volumes("a"), Interval: onDemand})
	if got := r.mark("y"); got.Token.Epoch < 3 || got.Token.Barrier <= 7 {
		t.Errorf("token is %+v", got.Token)
	}
}
