package nbd

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	tick      = time.Millisecond // a leader is stuck after one to two of these
	idleTicks = 100
)

// watch looks for leaders that are stuck in a call and has others take over. It sleeps while
// nothing happens.
type watch struct {
	asleep atomic.Bool
	wake   chan struct{}

	mu    sync.Mutex
	conns map[*conn]uint64 // with the state of the leader at the tick before
}

func newWatch() *watch {
	return &watch{wake: make(chan struct{}, 1), conns: map[*conn]uint64{}}
}

func (w *watch) add(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[c] = 0
}

func (w *watch) remove(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
}

// settle returns when a successor has what it needs of the leader before.
func (w *watch) settle() {
	w.mu.Lock()
	defer w.mu.Unlock()
}

// rouse is called whenever a leader begins something.
func (w *watch) rouse() {
	if w.asleep.Load() && w.asleep.CompareAndSwap(true, false) {
		w.wake <- struct{}{}
	}
}

func (w *watch) run(ctx context.Context) {
	t := time.NewTicker(tick)
	defer t.Stop()
	idle := 0
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		if w.look() {
			idle = 0
			continue
		}
		if idle++; idle < idleTicks {
			continue
		}
		// Whatever began before this line is looked at below.
		w.asleep.Store(true)
		if w.look() && w.asleep.CompareAndSwap(true, false) {
			idle = 0
			continue
		}
		t.Stop()
		select {
		case <-w.wake:
		case <-ctx.Done():
			return
		}
		idle = 0
		t.Reset(tick)
	}
}

// look returns whether anything has happened since the last time, or is going on.
func (w *watch) look() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	active := false
	for c, before := range w.conns {
		l := c.leader.Load()
		state := l.state.Load()
		if state != before {
			active = true
			w.conns[c] = state
			continue
		}
		if state&busy != 0 && state != left {
			active = true
			l.succeed(state)
		}
	}
	return active
}
