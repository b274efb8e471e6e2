package cdc

import (
	"context"
	"sync"
)

// rangeLocks serialises what overlaps, in the order of arrival: a range waits for every earlier
// one that it overlaps, whether that one has its lock or waits for it. So nobody starves, and two
// holders never overlap.
type rangeLocks struct {
	mu          sync.Mutex
	first, last *rangeLock // in the order of arrival
	free        *rangeLock
}

type rangeLock struct {
	off, end   int64
	blockers   int           // earlier ones that overlap
	ready      chan struct{} // gets a token when blockers falls to 0
	prev, next *rangeLock
}

func (l *rangeLock) overlaps(m *rangeLock) bool { return l.off < m.end && m.off < l.end }

// lock waits until nothing earlier overlaps [off, off+length), or fails with ctx's error.
func (r *rangeLocks) lock(ctx context.Context, off, length int64) (*rangeLock, error) {
	r.mu.Lock()
	l := r.free
	if l != nil {
		r.free, l.next = l.next, nil
	} else {
		l = &rangeLock{}
	}
	l.off, l.end, l.blockers = off, off+length, 0
	for m := r.first; m != nil; m = m.next {
		if m.overlaps(l) {
			l.blockers++
		}
	}
	if l.prev = r.last; l.prev != nil {
		l.prev.next = l
	} else {
		r.first = l
	}
	r.last = l
	if l.blockers == 0 {
		r.mu.Unlock()
		return l, nil
	}
	if l.ready == nil {
		l.ready = make(chan struct{}, 1)
	}
	r.mu.Unlock()

	select {
	case <-l.ready:
		return l, nil
	case <-ctx.Done():
		r.unlock(l)
		return nil, ctx.Err()
	}
}

// unlock ends a lock, or a wait for one.
func (r *rangeLocks) unlock(l *rangeLock) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for m := l.next; m != nil; m = m.next {
		if m.overlaps(l) {
			if m.blockers--; m.blockers == 0 {
				m.ready <- struct{}{}
			}
		}
	}
	if l.prev != nil {
		l.prev.next = l.next
	} else {
		r.first = l.next
	}
	if l.next != nil {
		l.next.prev = l.prev
	} else {
		r.last = l.prev
	}
	if l.ready != nil {
		select { // of a wait that was given up just when it ended
		case <-l.ready:
		default:
		}
	}
	l.prev, l.next, r.free = nil, r.free, l
}
