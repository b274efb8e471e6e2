package activity

import (
	"context"
	"fmt"
)

// entry is what is known of a region that is hot, or pinned.
type entry struct {
	region uint32
	pins   int32  // mutations that have begun and haven't ended
	used   uint32 // the tick it was last used in
	place  uint64 // of its last mutation, or of its content; 0: none
	ended  uint64 // the number of the last flush that had begun when its last mutation ended; 0: none has

	newer, older *entry // in the LRU list; nil where it isn't in it
}

// lru is a list of entries in the order they were last used. The zero value isn't usable: init.
type lru struct {
	root entry // root.older is the newest, root.newer the oldest
	n    int
}

func (u *lru) init() { u.root.older, u.root.newer = &u.root, &u.root }

func (u *lru) insert(e, behind *entry) {
	e.newer, e.older = behind, behind.older
	behind.older.newer, behind.older = e, e
	u.n++
}

// addNewest and addOldest put an entry that isn't in the list into it.
func (u *lru) addNewest(e *entry) { u.insert(e, &u.root) }
func (u *lru) addOldest(e *entry) { u.insert(e, u.root.newer) }

func (u *lru) remove(e *entry) {
	if e.older == nil {
		return
	}
	e.newer.older, e.older.newer = e.older, e.newer
	e.newer, e.older = nil, nil
	u.n--
}

func (u *lru) use(e *entry) {
	if u.root.older != e {
		u.remove(e)
		u.addNewest(e)
	}
}

// oldest returns the entry that was used the longest ago, and younger the one behind e; nil: none.
func (u *lru) oldest() *entry { return u.younger(&u.root) }

func (u *lru) younger(e *entry) *entry {
	if e.newer == &u.root {
		return nil
	}
	return e.newer
}

// Begin announces a mutation of a range: when it returns nil, every region of the range is durably
// listed, and stays so until End is called for the same range and more. For regions that are hot that is
// at once; for others Begin waits for a commit, which it shares with whoever waits at that time, and
// before that for room among the hot ones, which may need the device to be flushed or the journal
// to store something. It fails with the error of the log's file, with ctx's, or because the range is
// outside of the volume or touches more than MaxRegions; then nothing may be written.
func (l *Log) Begin(ctx context.Context, off, length int64) error {
	l.mu.Lock()
	first, end, err := l.span(off, length)
	if err == nil && end-first > uint32(min(MaxRegions, l.o.Hot)) {
		err = fmt.Errorf("activity log: a mutation of %d bytes at %d touches more than %d regions", length, off, min(MaxRegions, l.o.Hot))
	}
	if err == nil && l.closed {
		err = ErrClosed
	}
	if err != nil {
		l.mu.Unlock()
		return err
	}
	if need := l.missing(first, end); need > 0 && (len(l.room) > 0 || l.lru.n+need > l.o.Hot) {
		if err := l.awaitRoom(ctx, first, end); err != nil {
			l.mu.Unlock()
			return err
		}
	}
	if l.pin(first, end) {
		l.mu.Unlock()
		return nil
	}
	l.aheadOf(first, end)
	b := l.join(true)
	if l.lru.n > l.o.Hot-l.eighth {
		signal(l.work)
	}
	l.mu.Unlock()
	if err := l.await(ctx, b); err != nil {
		l.mu.Lock()
		l.unpin(first, end)
		l.mu.Unlock()
		return fmt.Errorf("list regions as changing: %w", err)
	}
	return nil
}

// missing is how many regions of the range need room that they don't have.
func (l *Log) missing(first, end uint32) int {
	n := 0
	for r := first; r < end; r++ {
		if l.hot[r] == nil && !l.stale.has(r) {
			n++
		}
	}
	return n
}

// pin pins the regions of a range, makes those hot that aren't stale, and tells whether all are listed.
func (l *Log) pin(first, end uint32) bool {
	listed := true
	for r := first; r < end; r++ {
		e := l.hot[r]
		if e == nil {
			e = l.add(r)
			if !l.stale.has(r) {
				l.lru.addNewest(e)
			}
		} else if e.older != nil {
			l.lru.use(e)
		}
		e.pins++
		e.used = l.tick
		if !l.listed.has(r) {
			l.sets = append(l.sets, r)
			listed = false
		}
	}
	return listed
}

// aheadRegions is how many regions are listed with those that a sequential writer comes to.
const aheadRegions = 4

// aheadOf lists the regions behind a range too, where the one before it is hot and room isn't scarce: so a
// sequential writer waits once for several. Those that aren't written are cleared in their turn.
func (l *Log) aheadOf(first, end uint32) {
	if first == 0 || l.hot[first-1] == nil {
		return
	}
	for r := end; r < min(end+aheadRegions, l.regions) && l.lru.n < l.o.Hot-l.eighth; r++ {
		if l.dirty(r) || l.listed.has(r) {
			return
		}
		e := l.add(r)
		e.used = l.tick
		l.lru.addNewest(e)
		l.sets = append(l.sets, r)
	}
}

// unpin takes back what pin did.
func (l *Log) unpin(first, end uint32) {
	for r := first; r < end; r++ {
		e := l.hot[r]
		e.pins--
		switch {
		case e.pins > 0:
		case e.older == nil: // stale
			l.remove(e)
		case e.place == 0 && e.ended == 0: // nothing was changed
			l.clears = append(l.clears, cover{region: r})
			l.remove(e)
		}
	}
	l.wakeRoom()
}

// End tells that a mutation which was begun has ended, and has a place in the pipeline: a number that
// only grows. Place 0: nobody will send it, so its regions are stale.
func (l *Log) End(off, length int64, place uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first, end, err := l.span(off, length)
	if err != nil {
		panic(err) // Begin has taken the same range
	}
	l.last = max(l.last, place)
	for r := first; r < end; r++ {
		e := l.hot[r]
		if e == nil || e.pins == 0 {
			panic(fmt.Sprintf("activity log: the end of a mutation of region %d that was not begun", r))
		}
		e.pins--
		if place == 0 {
			l.setStale(r)
			continue
		}
		e.place = max(e.place, place)
		e.ended = l.flushes.begun
		if e.pins == 0 && e.older == nil { // stale: whoever sends it again sends this too
			l.remove(e)
		}
	}
	if place == 0 {
		l.wakeRoom()
	}
}

// Stored tells that everything up to a place is stored in the journal, which ends at seq at least.
func (l *Log) Stored(place, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stored = max(l.stored, place)
	l.last = max(l.last, place)
	l.acked = max(l.acked, seq)
	l.places.add(l.stored, l.acked)
	l.wakeRoom()
}

// add makes an entry for a region; it isn't in the list yet.
func (l *Log) add(r uint32) *entry {
	e := l.spare
	if e != nil {
		l.spare = e.older
	} else {
		e = new(entry)
	}
	*e = entry{region: r}
	l.hot[r] = e
	l.peak = max(l.peak, len(l.hot))
	return e
}

// remove forgets an entry.
func (l *Log) remove(e *entry) {
	l.lru.remove(e)
	delete(l.hot, e.region)
	if len(l.hot) < l.eighth {
		e.older = l.spare
		l.spare = e
	}
	if l.peak > 256 && len(l.hot) < l.peak/8 { // a map never shrinks
		small := make(map[uint32]*entry, len(l.hot))
		for r, e := range l.hot {
			small[r] = e
		}
		l.hot, l.peak, l.spare = small, len(small), nil
	}
}

// sent tells whether nothing of a region is on its way any more.
func (l *Log) sent(e *entry) bool { return e.pins == 0 && e.place <= l.stored }

// evict clears up to n regions, the ones that were used the longest ago first, and tells how many.
func (l *Log) evict(n int) int {
	return l.evictWhere(n, func(*entry) bool { return true })
}

func (l *Log) evictWhere(n int, want func(*entry) bool) int {
	now := l.seconds()
	cleared := 0
	for e := l.lru.oldest(); e != nil && cleared < n; {
		at := e
		e = l.lru.younger(e)
		if !l.sent(at) || !l.durable(at) || !want(at) {
			continue
		}
		c := cover{region: at.region, at: now, seq: l.places.cover(at.place)}
		l.clears = append(l.clears, c)
		l.recent.add(c)
		l.remove(at)
		cleared++
	}
	return cleared
}

// roomWait is a Begin that waits for room.
type roomWait struct{ again chan struct{} }

func (w *roomWait) wake() { signal(w.again) }

// wakeRoom lets the first who waits for room look again.
func (l *Log) wakeRoom() {
	if len(l.room) > 0 {
		l.room[0].wake()
	}
}

// awaitRoom waits until the regions of a range fit among the hot ones. Who waits holds nothing, and takes
// all it needs at once: so nobody waits for somebody who waits. It is called with l.mu held.
func (l *Log) awaitRoom(ctx context.Context, first, end uint32) error {
	w := &roomWait{again: make(chan struct{}, 1)}
	l.room = append(l.room, w)
	l.count.waits++
	defer func() {
		for i, other := range l.room {
			if other == w {
				l.room = append(l.room[:i], l.room[i+1:]...)
				break
			}
		}
		l.wakeRoom()
	}()
	for {
		if l.closed {
			l.wakeRoom()
			return ErrClosed
		}
		if l.room[0] == w {
			if over := l.lru.n + l.missing(first, end) - l.o.Hot; over > 0 {
				l.evictWhere(max(over, l.eighth), func(e *entry) bool { return e.region < first || e.region >= end })
			}
			if l.lru.n+l.missing(first, end) <= l.o.Hot {
				return nil
			}
			if l.flushHelps() && l.flushDevice() {
				continue
			}
		}
		l.mu.Unlock()
		var err error
		select {
		case <-w.again:
		case <-ctx.Done():
			err = fmt.Errorf("wait for room in the activity log: %w", ctx.Err())
		}
		l.mu.Lock()
		if err != nil {
			return err
		}
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (l *Log) seconds() uint32 { return uint32(l.o.Now().Unix()) }

// Waiting is how many mutations wait for room.
func (l *Log) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.room)
}
