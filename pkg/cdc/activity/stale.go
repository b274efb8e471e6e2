package activity

// maxRun is how many regions NextStale gives out at once: 1 GiB.
const maxRun = 256

// setStale makes a region stale. What is sent of it already doesn't count any more.
func (l *Log) setStale(r uint32) {
	l.stale.set(r)
	l.taken.unset(r)
	if !l.listed.has(r) {
		l.whole = l.whole || len(l.sets) >= 4096
		if !l.whole {
			l.sets = append(l.sets, r)
		}
		l.urgent = true
	}
	if e := l.hot[r]; e != nil {
		l.lru.remove(e)
		if e.pins == 0 {
			l.remove(e)
		}
	}
}

// staleWhere makes those hot regions stale that which tells.
func (l *Log) staleWhere(which func(*entry) bool) {
	for e := l.lru.oldest(); e != nil; {
		at := e
		e = l.lru.younger(e)
		if which(at) {
			l.setStale(at.region)
		}
	}
	l.wakeRoom()
}

// MarkStale makes the regions of a range stale, durably: their content has to be sent again.
func (l *Log) MarkStale(off, length int64) error {
	l.mu.Lock()
	first, end, err := l.span(off, length)
	if err != nil {
		l.mu.Unlock()
		return err
	}
	listed := true
	for r := first; r < end; r++ {
		listed = listed && l.listed.has(r)
		l.setStale(r)
	}
	l.wakeRoom()
	if listed {
		l.mu.Unlock()
		return nil
	}
	return l.commitLocked()
}

// AllStale makes every region stale. It is durable with the next commit: before a stream is adopted.
func (l *Log) AllStale() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.allStale()
}

func (l *Log) allStale() {
	l.whole, l.urgent = true, true
	l.staleWhere(func(*entry) bool { return true })
	l.stale.setAll(l.regions)
	l.taken.empty()
}

// Dropped tells that of what was not stored yet nothing ever will be. Its regions are stale.
func (l *Log) Dropped() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.staleWhere(func(e *entry) bool { return !l.sent(e) })
	l.taken.empty() // of what was sent of them, a part may be gone
}

// Lost tells that what the adopted stream held behind the sequence after is gone. The regions whose last
// mutation lies behind it become stale. Covered is false where not all of them are known any more:
// then every region is stale. It is durable with the next commit, as AllStale is.
func (l *Log) Lost(after uint64) (covered bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken.empty()
	if after < l.recent.reach {
		l.allStale()
		return false
	}
	l.staleWhere(func(e *entry) bool { return e.place > l.stored || l.places.cover(e.place) > after })
	for _, c := range l.recent.list {
		if c.seq > after && c.region < l.regions {
			l.setStale(c.region)
		}
	}
	return true
}

// NextStale returns the first run of stale regions that isn't before the offset after, of 1 GiB at
// most: what a pass should send next. The caller then calls Resent for as much of it as it has sent;
// regions that become stale anew meanwhile stay so.
func (l *Log) NextStale(after int64) (off, length int64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if after < 0 || after >= l.size {
		return 0, 0, false
	}
	first, ok := l.stale.next(uint32(after / RegionSize))
	if !ok || first >= l.regions {
		return 0, 0, false
	}
	end := first
	for end < l.regions && end-first < maxRun && l.stale.has(end) {
		l.taken.set(end)
		end++
	}
	off = int64(first) * RegionSize
	return off, min(int64(end)*RegionSize, l.size) - off, true
}

// StaleBytes is how much of the volume is stale.
func (l *Log) StaleBytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.staleBytes()
}

func (l *Log) staleBytes() int64 {
	n := int64(l.stale.n) * RegionSize
	if short := int64(l.regions)*RegionSize - l.size; short > 0 && l.stale.has(l.regions-1) {
		n -= short
	}
	return n
}

// Resent tells that everything in a range was put into the pipeline, up to place, or is known to equal
// what the stream's base holds; each part of it when no mutation of that part was between Begin and End.
// The regions that lie in it as a whole, were given out by NextStale and didn't become stale since are
// hot until that is stored and flushed.
func (l *Log) Resent(off, length int64, place uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	end := min(off+length, l.size)
	l.last = max(l.last, place)
	for r := uint32((off + RegionSize - 1) / RegionSize); r < l.regions; r++ {
		if min(int64(r+1)*RegionSize, l.size) > end {
			break
		}
		if !l.taken.has(r) {
			continue
		}
		l.stale.unset(r)
		l.taken.unset(r)
		e := l.hot[r]
		if e == nil {
			e = l.add(r)
		}
		// Mutations of it have ended meanwhile, and none of them has a place behind last. Who has only been
		// sent is the first to be cleared.
		e.place, e.ended, e.used = l.last, l.flushes.begun, l.tick
		l.lru.addOldest(e)
	}
	if l.lru.n > l.o.Hot-l.eighth {
		signal(l.work)
	}
}
