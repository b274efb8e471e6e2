package barrier

import (
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
)

// The times of commits rise whatever happens to the clock.
func TestInstantNeverFalls(t *testing.T) {
	h := newHistory()
	start := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, step := range []struct{ clock, want time.Time }{
		{start, start},
		{start.Add(time.Second), start.Add(time.Second)},
		{start.Add(-time.Hour), start.Add(time.Second + time.Microsecond)},
		{start.Add(-time.Hour), start.Add(time.Second + 2*time.Microsecond)},
		{start.Add(time.Second + 2*time.Microsecond), start.Add(time.Second + 3*time.Microsecond)},
		{start.Add(2 * time.Second), start.Add(2 * time.Second)},
	} {
		got := h.instant(step.clock)
		if !got.Equal(step.want) {
			t.Fatalf("at %s got %s, want %s", step.clock, got, step.want)
		}
		if err := h.follow(&events.Commit{Time: got}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHistoryFollowsBrackets(t *testing.T) {
	h := newHistory()
	one, two := events.Token{Epoch: 1, Barrier: 4}, events.Token{Epoch: 2, Barrier: 5}
	for _, e := range []events.Event{
		&events.HooksOpen{Token: two, Hooks: []string{"b"}},
		&events.HooksOpen{Token: one, Hooks: []string{"a"}},
		&events.HooksOpen{Token: events.Token{Epoch: 2, Barrier: 6}},
		&events.HooksOpen{Token: events.Token{Epoch: 2, Barrier: 6}, End: true},
	} {
		if err := h.follow(e); err != nil {
			t.Fatal(err)
		}
	}
	ends := h.openHooks()
	if len(ends) != 2 || ends[0].Token != one || ends[1].Token != two || !ends[0].End {
		t.Errorf("open brackets: %+v", ends)
	}
	if h.barrier != 6 {
		t.Errorf("highest barrier is %d: a number used by hooks alone would be used again", h.barrier)
	}
}

func TestRosterRefusesAnOldVersion(t *testing.T) {
	r := newRoster()
	for version, ok := range []bool{false, true, true} {
		err := r.apply(&events.Member{Volume: "a", State: events.Joining, Roster: uint64(version)})
		if (err == nil) != ok {
			t.Errorf("version %d: %v", version, err)
		}
	}
	if err := r.apply(&events.Member{Volume: "a", State: events.Left, Roster: 2}); err == nil {
		t.Error("a version was used twice")
	}
}

func TestPresenceIgnoresLeftovers(t *testing.T) {
	p := newPresence()
	at := time.Now()
	p.note(announcement{identity: identity{1, 5}, Volume: "a", Ready: true}, at)
	p.note(announcement{identity: identity{1, 4}, Volume: "a"}, at)
	if h, ok := p.of("a"); !ok || h.Epoch != 5 || !h.Ready {
		t.Errorf("got %+v", h)
	}
	p.note(announcement{identity: identity{2, 1}, Volume: "a"}, at)
	if h, _ := p.of("a"); h.Generation != 2 {
		t.Errorf("got %+v, want the newer generation", h)
	}
	p.note(announcement{identity: identity{2, 1}, Volume: "a"}, at.Add(-2*absentAfter))
	if _, ok := p.of("a"); ok {
		t.Error("a tap that is silent counts as present")
	}
}
