package cdc

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farshore/farshore/pkg/events"
)

// gate is where mutations are admitted.
//
// A hold doesn't wait for the mutations that were admitted before it, and needn't: let B be a
// mutation in the cut and A one that was acknowledged before B was issued. B was admitted before its
// volume confirmed the hold (behind the hold nothing is admitted until the mark, and what is
// admitted then is appended behind the mark). Marks are only asked for when all volumes have
// confirmed. So A was acknowledged, and therefore appended, before any mark was asked for, and lies
// before its volume's mark.
type gate struct {
	closed atomic.Pointer[closure] // nil: open

	mu     sync.Mutex
	newest events.Token // of all holds seen
	held   bool         // newest holds the gate
	limit  *time.Timer  // of newest
}

// closure is one time that the gate is closed; newer tokens may take it over.
type closure struct {
	opened   chan struct{}
	since    time.Time
	withheld atomic.Int64 // nanoseconds behind since of the first mutation withheld, plus 1; 0: none yet
}

// admit returns when the gate is open. A mutation that passes it counts as admitted from the
// moment at which it saw the gate open.
func (g *gate) admit(ctx context.Context) error {
	for {
		c := g.closed.Load()
		if c == nil {
			return nil
		}
		if c.withheld.Load() == 0 {
			c.withheld.CompareAndSwap(0, int64(time.Since(c.since))+1)
		}
		select {
		case <-c.opened:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
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
	g.newest, g.held = t, true
	if g.closed.Load() == nil {
		g.closed.Store(&closure{opened: make(chan struct{}), since: time.Now()})
	}
	g.limit = time.AfterFunc(limit, func() { g.release(t) })
	return nil
}

// mark calls place, which puts the mark at its place and is told how long admission was closed,
// and opens the gate, whatever place answers.
func (g *gate) mark(t events.Token, place func(hold time.Duration) error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.held || t != g.newest {
		return fmt.Errorf("%w: %d/%d", ErrNotHeld, t.Epoch, t.Barrier)
	}
	defer g.open()
	c := g.closed.Load()
	first := c.withheld.Load() // before the clock is read: a mutation may be withheld in between
	held := time.Since(c.since)
	if first != 0 {
		held -= time.Duration(first - 1)
	}
	return place(held)
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
	g.held = false
	c := g.closed.Load()
	g.closed.Store(nil)
	close(c.opened)
}
