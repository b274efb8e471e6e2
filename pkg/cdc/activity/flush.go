package activity

import "slices"

// flushes is which flushes of the device are known to have made durable what had ended before.
type flushes struct {
	begun uint64   // the number of the last one that began
	good  uint64   // the number of the last one that counts
	open  []uint64 // that have begun and not ended, in order
	early []uint64 // that succeeded while one which began before them was open
	lost  uint64   // how many have failed
}

func (f *flushes) begin() uint64 {
	f.begun++
	f.open = append(f.open, f.begun)
	return f.begun
}

// end takes the outcome of a flush. A success counts when every flush that began before has ended: one of
// those may still fail, and take along what this one didn't find to be written any more.
func (f *flushes) end(begun uint64, ok bool) {
	if i := slices.Index(f.open, begun); i >= 0 {
		f.open = slices.Delete(f.open, i, i+1)
		if ok {
			f.early = append(f.early, begun)
		}
	}
	f.early = slices.DeleteFunc(f.early, func(n uint64) bool {
		if len(f.open) > 0 && n > f.open[0] {
			return false
		}
		f.good = max(f.good, n)
		return true
	})
}

// FlushBegun tells that a flush of the device begins, and returns what Flushed or FlushFailed has to be
// told when it has ended.
func (l *Log) FlushBegun() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flushes.begin()
}

// Flushed tells that the flush which began as number begun has succeeded: whatever had ended before
// it began is durable.
func (l *Log) Flushed(begun uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushes.end(begun, true)
	l.wakeRoom()
}

// FlushFailed tells that a flush of the device has failed: what wasn't durable before may be lost, and
// no later flush brings it back. Its regions are stale.
func (l *Log) FlushFailed(begun uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushFailed(begun)
}

func (l *Log) flushFailed(begun uint64) {
	l.taken.empty() // what was read to be sent again may be lost too
	l.staleWhere(func(e *entry) bool { return e.pins > 0 || !l.durable(e) })
	l.flushes.end(begun, false) // only now: one that began later counts from here on
}

// durable tells whether the device was flushed since the last mutation of a region has ended.
func (l *Log) durable(e *entry) bool { return e.ended == 0 || e.ended < l.flushes.good }

// flushHelps tells whether regions could be cleared if only the device was flushed.
func (l *Log) flushHelps() bool {
	if l.o.Flush == nil || l.flushing {
		return false
	}
	for e := l.lru.oldest(); e != nil; e = l.lru.younger(e) {
		if l.sent(e) && !l.durable(e) {
			return true
		}
	}
	return false
}

// flushDevice flushes the device if it can, and tells whether that has changed something already: a flush
// that succeeds counts only when those that began before have ended. It is called with l.mu held and lets
// go of it meanwhile.
func (l *Log) flushDevice() bool {
	if l.o.Flush == nil || l.flushing {
		return false
	}
	l.flushing = true
	begun := l.flushes.begin()
	l.mu.Unlock()
	err := l.o.Flush()
	l.mu.Lock()
	l.flushing = false
	l.count.flushes++
	if err == nil {
		l.flushes.end(begun, true)
	} else {
		l.o.Log.Error("flush of the device failed; the regions that were changed since the last one are sent again", "error", err)
		l.flushFailed(begun)
	}
	l.wakeRoom()
	return err != nil || l.flushes.good >= begun
}

// FlushFailures is how many flushes of the device have failed so far. Each of them made regions stale.
func (l *Log) FlushFailures() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flushes.lost
}
