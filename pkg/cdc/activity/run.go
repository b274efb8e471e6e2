package activity

import (
	"context"
	"time"
)

const (
	// tickEvery is how often Run looks for something to do, and how old the highest acknowledged sequence
	// in the file is at most.
	tickEvery = time.Second
	// idleTicks is after how many ticks a hot region that wasn't used is cleared, and how many lie between
	// two flushes for that.
	idleTicks = 20
	// expireTicks is how often regions that were covered long ago are forgotten.
	expireTicks = 60
)

// Run does ahead of time what Begin would have to wait for, until ctx ends; then it returns nil. It clears
// regions when room gets scarce and when they weren't used for a while, forgets what was covered long
// ago, notes the highest acknowledged sequence, and retries what could not be written.
func (l *Log) Run(ctx context.Context) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.work:
			l.ahead()
		case <-tick.C:
			l.tidy(ctx)
		}
	}
}

// ahead clears an eighth of the regions where fewer have room.
func (l *Log) ahead() {
	l.mu.Lock()
	defer l.mu.Unlock()
	scarce := func() int { return l.lru.n - (l.o.Hot - l.eighth) }
	if n := scarce(); n > 0 && !l.closed {
		l.evict(max(n, l.eighth))
		if scarce() > 0 && l.flushHelps() {
			l.flushDevice()
			l.evict(max(scarce(), l.eighth))
		}
		l.wakeRoom()
	}
}

// tidy does what is due each second.
func (l *Log) tidy(ctx context.Context) {
	l.mu.Lock()
	l.tick++
	if l.closed {
		l.mu.Unlock()
		return
	}
	if l.tick%expireTicks == 0 {
		l.recent.expire(l.keepSince())
	}
	idle := func(e *entry) bool { return l.tick-e.used >= idleTicks }
	if l.tick%idleTicks == 0 {
		for e := l.lru.oldest(); e != nil; e = l.lru.younger(e) {
			if idle(e) && l.sent(e) && !l.durable(e) {
				l.flushDevice()
				break
			}
		}
	}
	l.evictWhere(l.lru.n, idle)
	if !l.urgent && !l.whole && len(l.clears) == 0 && l.acked == l.noted || l.closed {
		l.mu.Unlock()
		return
	}
	failed := l.count.errors
	b := l.join(false)
	l.mu.Unlock()
	if err := l.await(ctx, b); err != nil && ctx.Err() == nil && failed%expireTicks == 0 {
		l.o.Log.Error("activity log can't be written; it is retried", "error", err)
	}
}
