package activity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
)

// batch is who waits for one commit. One of them makes it for all: who finds the token in lead.
type batch struct {
	sync bool // it has to be durable
	lead chan struct{}
	done chan struct{} // closed when err is set
	err  error
}

// join returns the batch whose commit has whatever was noted so far. It is called with l.mu held.
func (l *Log) join(sync bool) *batch {
	if l.next == nil {
		l.next = &batch{lead: make(chan struct{}, 1), done: make(chan struct{})}
		if !l.writing {
			l.next.lead <- struct{}{}
		}
	}
	l.next.sync = l.next.sync || sync
	return l.next
}

// await waits until a batch's commit has ended, and makes it if it is the caller's turn. Where ctx
// ends first, the commit may be made or not.
func (l *Log) await(ctx context.Context, b *batch) error {
	select {
	case <-b.done:
		return b.err
	case <-b.lead:
		l.write(b)
		return b.err
	case <-ctx.Done():
		return ctx.Err() // the token stays for the others, or for who joins next
	}
}

// write makes the commit of a batch.
func (l *Log) write(b *batch) {
	l.mu.Lock()
	l.next, l.writing = nil, true
	c := l.take(b.sync)
	l.mu.Unlock()
	err := l.store.commit(c)
	if errors.Is(err, syscall.ENOSPC) {
		err = fmt.Errorf("%w (writes to the volume fail until there is room beside %s)", err, l.o.Path)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(c, err)
	l.writing = false
	if l.next != nil {
		l.next.lead <- struct{}{}
	}
	b.err = err
	close(b.done)
}

// change is what a commit writes.
type change struct {
	nothing bool
	sync    bool
	payload []byte // of an appended record, complete
	state   state
	sets    []uint32

	whole  bool // a new file is written instead, with:
	dirty  bitmap
	recent recents
}

// state is what every record has.
type state struct {
	size   int64
	tenure Stream
	acked  uint64
	reach  uint64
	seeded bool
	closed bool  // nobody writes to the device any more
	mtime  int64 // of the device then, Unix time in nanoseconds; 0: not known
	now    uint32
}

// take gathers what the next commit writes. Regions that it takes off the list count as not listed from
// here on, whether the commit succeeds or not; those that it lists count when it has succeeded.
func (l *Log) take(sync bool) *change {
	c := &change{sync: sync || l.urgent, state: l.state()}
	var clears []cover
	if !l.whole {
		for _, k := range l.clears {
			// One that wasn't listed yet has a sequence all the same.
			if (l.listed.has(k.region) || k.seq > 0) && !l.dirty(k.region) {
				l.listed.unset(k.region)
				clears = append(clears, k)
			}
		}
		slices.Sort(l.sets)
		for _, r := range slices.Compact(l.sets) {
			if !l.listed.has(r) && l.dirty(r) {
				c.sets = append(c.sets, r)
			}
		}
		c.sync = c.sync || len(c.sets) > 0
		if len(c.sets)+len(clears) == 0 && !l.urgent && !l.closed && (l.acked == l.noted || sync) {
			c.nothing = true
		} else {
			c.payload = appendChange(nil, c.state, c.sets, clears)
			l.whole = !l.store.fits(len(c.payload))
		}
	}
	if l.whole {
		c.whole, c.sync, c.nothing = true, true, false
		c.dirty = l.stale.clone()
		for r := range l.hot {
			c.dirty.set(r)
		}
		l.listed.and(&c.dirty)
		c.recent = recents{list: slices.Clone(l.recent.list), reach: l.recent.reach}
	}
	l.sets, l.clears, l.urgent, l.whole = l.sets[:0], l.clears[:0], false, false
	if cap(l.sets)+cap(l.clears) > 512 { // which a seed makes large
		l.sets, l.clears = nil, nil
	}
	return c
}

// dirty tells whether a region has to be on the list.
func (l *Log) dirty(r uint32) bool { return l.hot[r] != nil || l.stale.has(r) }

func (l *Log) state() state {
	s := state{
		size: l.size, tenure: l.tenure, acked: l.acked, reach: l.recent.reach, seeded: l.seeded, now: l.seconds(),
	}
	if l.closed {
		s.closed = true
		for _, e := range l.hot {
			s.closed = s.closed && e.pins == 0
		}
		if s.closed && l.o.Modified != nil {
			if t, err := l.o.Modified(); err == nil {
				s.mtime = t.UnixNano()
			} else {
				s.closed = false
			}
		}
	}
	return s
}

// settle takes the outcome of a commit.
func (l *Log) settle(c *change, err error) {
	switch {
	case err != nil:
		l.count.errors++
		// What the file holds isn't known; it is written anew, with everything.
		l.whole = true
		return
	case c.nothing:
		return
	case c.whole:
		l.listed.or(&c.dirty)
	default:
		for _, r := range c.sets {
			l.listed.set(r)
		}
	}
	l.noted = c.state.acked
	l.count.commits++
}
