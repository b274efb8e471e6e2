package nbd

import (
	"sync/atomic"
	"time"
)

const (
	slowOp    = 60 * time.Microsecond  // a small request, see pace
	slowStore = 400 * time.Microsecond // a piece of a large write
	sample    = 8                      // one request in so many is timed
)

// pace tells whether requests of a kind are slow: whether they wait for something. The leader
// doesn't work on them itself then.
type pace struct {
	limit time.Duration // they are slow from this mean on, until it is a third of it
	n     atomic.Uint32
	mean  atomic.Int64 // ns
	slow  atomic.Bool
}

// begin returns the time, or zero for a request that isn't timed.
func (p *pace) begin() time.Time {
	if p.n.Add(1)%sample != 0 {
		return time.Time{}
	}
	return time.Now()
}

// end takes note of one that was begun.
func (p *pace) end(t time.Time) {
	if t.IsZero() {
		return
	}
	// Concurrent updates may lose one; that does no harm. One odd value is bounded.
	d := min(time.Since(t), 4*p.limit)
	m := p.mean.Load()
	m += (int64(d) - m) / 8
	p.mean.Store(m)
	switch {
	case m > int64(p.limit):
		p.slow.Store(true)
	case m < int64(p.limit/3):
		p.slow.Store(false)
	}
}
