package resourcewatch

import (
	"fmt"
	"sync"
	"time"

	"github.com/farshore/farshore/pkg/events"
)

// gate is where changes are taken for the stream.
//
// A hold doesn't wait for changes that were taken before, and needn't. Such a change was received before the hold was
// confirmed. Where the barrier's revision is asked for, the change is not newer than that revision, which is read once all
// have confirmed; so it belongs into the cut. Where it isn't asked for, the change was made before any volume was told to
// mark; so all that it can have followed from was acknowledged before, too, and lies before the volumes' marks.
type gate struct {
	wake func() // tells the tenure that more may be taken

	mu       sync.Mutex
	newest   events.Token // of all holds seen
	held     bool         // newest withholds
	marking  bool         // newest was told to mark
	revision string       // up to which changes may be taken while newest marks; "": none
	since    time.Time    // of the hold
	withheld time.Time    // the first change was withheld; zero: none was
	limit    *time.Timer  // of newest
}

func (g *gate) hold(t events.Token, limit time.Duration) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch t.Compare(g.newest) {
	case -1:
		return fmt.Errorf("%w: %d/%d, newest is %d/%d", ErrStaleToken, t.Epoch, t.Barrier, g.newest.Epoch, g.newest.Barrier)
	case 0:
		if !g.held {
			return fmt.Errorf("%w: the hold %d/%d has ended", ErrStaleToken, t.Epoch, t.Barrier)
		}
		return nil // said twice
	}
	if g.limit != nil {
		g.limit.Stop()
	}
	if !g.held {
		g.since, g.withheld = time.Now(), time.Time{}
	}
	g.newest, g.held, g.marking, g.revision = t, true, false, ""
	g.limit = time.AfterFunc(limit, func() { g.expire(t) })
	return nil
}

// expire opens the gate if t holds it and wasn't told to mark.
func (g *gate) expire(t events.Token) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held && t == g.newest && !g.marking {
		g.open()
	}
}

// release opens the gate if t holds it.
func (g *gate) release(t events.Token) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held && t == g.newest {
		g.open()
	}
}

func (g *gate) open() {
	g.limit.Stop()
	g.held, g.marking, g.revision = false, false, ""
	g.wake()
}

// holds tells whether t holds the gate.
func (g *gate) holds(t events.Token) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held && t == g.newest
}

// ask notes the revision that t's mark has to prove.
func (g *gate) ask(t events.Token, revision string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.held || t != g.newest {
		return fmt.Errorf("%w: %d/%d", ErrNotHeld, t.Epoch, t.Barrier)
	}
	g.revision = revision
	return nil
}

// mark begins the mark of t and returns the revision that it has to prove; "" is none. From now on the limit of the hold
// doesn't count, and changes up to the revision are let through.
func (g *gate) mark(t events.Token) (revision string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.held || t != g.newest || g.marking {
		return "", fmt.Errorf("%w: %d/%d", ErrNotHeld, t.Epoch, t.Barrier)
	}
	g.limit.Stop()
	g.marking = true
	g.wake()
	return g.revision, nil
}

// marked returns how long the gate was closed for t, whose mark is about to be appended.
func (g *gate) marked(t events.Token) (hold time.Duration, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.held || t != g.newest || !g.marking {
		return 0, fmt.Errorf("%w: %d/%d", ErrNotHeld, t.Epoch, t.Barrier)
	}
	if g.withheld.IsZero() {
		return time.Since(g.since), nil
	}
	return time.Since(g.withheld), nil
}

// pass calls take, with the revision up to which changes may be taken ("" is no limit), if any may, and returns what it returns.
// What take takes counts as taken from the moment at which the gate was seen open; a hold waits for that long and no
// longer. Where nothing may be taken, pending tells whether there is something that is withheld.
func (g *gate) pass(pending func() bool, take func(limit string) bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.held:
		return take("")
	case g.marking && g.revision != "":
		return take(g.revision)
	}
	if g.withheld.IsZero() && pending() {
		g.withheld = time.Now()
	}
	return false
}

// isOpen tells whether what was taken before may be appended.
func (g *gate) isOpen() bool {
	yes := func() bool { return true }
	return g.pass(yes, func(string) bool { return true })
}
