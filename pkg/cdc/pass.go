package cdc

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farshore/farshore/pkg/cdc/activity"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/repair"
)

// holeStep is how much of a hole one operation of a pass covers at most, in bytes: that range is
// locked while the operation is put into the stream.
const holeStep = 1 << 30

// passWindow is how many bytes of a pass are on their way to the journal at most: enough to keep it busy,
// and little enough that what fronts write and the marks of barriers needn't wait long behind them.
const passWindow = 16 << 20

// pass sends what the activity log lists as stale, in stream order, beside live mutations: under the lock
// of a range nothing can change it, and everything that did is in the pipeline already; so what is read
// is what the volume holds at the position where it is appended. Stale is what an earlier process may
// have left unsent, what was written while nothing was recorded, and where the device failed a mutation.
//
// When nothing is stale and a scrub is due, it sends hashes.
type pass struct {
	dev     Device
	pipe    *pipeline
	locks   *rangeLocks
	share   *share
	stale   *activity.Log
	size    func() int64
	rate    int64
	retry   time.Duration
	log     *slog.Logger
	wake    chan struct{}
	compare atomic.Pointer[comparison] // of the Record that runs; nil: none

	mu          sync.Mutex
	kind        events.PassKind // of the open pass of data; 0: none is
	done, part  int64           // bytes passed: in regions that are complete, and of the one that isn't
	regions     uint64
	bytes       uint64
	missedBytes int64 // acknowledged and not recorded, or dropped, and not sent since
	missedSince time.Time
	scrub       scrub
}

func newPass(r *Recorder) *pass {
	return &pass{
		dev: r.o.Device, pipe: r.pipe, locks: &r.locks, share: r.share, stale: r.log, size: r.Size,
		rate: r.o.PassBytesPerSecond, retry: r.o.RetryEvery, log: r.o.Log, wake: make(chan struct{}, 1),
		scrub: scrub{rate: r.o.ScrubBytesPerSecond},
	}
}

// attach opens the pass that a Record begins with.
func (p *pass) attach(t Tenure) {
	p.compare.Store(newComparison(t, p.size(), p.stale.FlushFailures()))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin(t.Pass)
	p.scrub.restart()
}

// again opens a pass over what became stale while nothing was recorded.
func (p *pass) again() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin(0)
	p.scrub.restart()
}

// begin opens a pass of the given kind; 0: the one that fits.
func (p *pass) begin(kind events.PassKind) {
	if kind == 0 {
		kind = events.PassSeed
		if p.stale.Seeded() {
			kind = events.PassResync
		}
	}
	p.kind, p.done, p.part, p.regions, p.bytes = kind, 0, 0, 0, 0
}

// open tells whether a pass of data is open.
func (p *pass) open() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kind != 0
}

// stir makes the pass look at what there is to do.
func (p *pass) stir() { signal(p.wake) }

// appended notes a mutation that is in the pipeline.
func (p *pass) appended(off, length int64) {
	if c := p.compare.Load(); c != nil {
		c.touch(off, length)
	}
}

// missed notes that a range holds something that isn't in the pipeline, written just now by a front or not. It
// is called before the range becomes stale.
func (p *pass) missed(off, length int64, written bool) {
	if c := p.compare.Load(); c != nil {
		c.exclude(off, length)
	}
	if !written {
		return
	}
	p.owe(length, time.Now())
}

// owe notes bytes that were acknowledged and aren't in the pipeline any more, or never were.
func (p *pass) owe(bytes int64, since time.Time) {
	if bytes == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.missedBytes == 0 || since.Before(p.missedSince) {
		p.missedSince = since
	}
	p.missedBytes += bytes
}

// interrupted notes that something of what was appended, or of what the device took, is lost.
func (p *pass) interrupted() {
	if c := p.compare.Load(); c != nil {
		c.excludeTouched()
	}
}

// debt is what was written and isn't in the pipeline: the bytes, at most, and since when.
func (p *pass) debt() (bytes int64, since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return min(p.missedBytes, p.stale.StaleBytes()), p.missedSince
}

func (p *pass) progress() events.Progress {
	stale := p.stale.StaleBytes()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kind != 0 {
		return events.Progress{Pass: p.kind, Done: p.done + min(p.part, stale), Total: p.done + stale}
	}
	return p.scrub.progress()
}

// run works until ctx ends or the pipeline refuses.
func (p *pass) run(ctx context.Context) error {
	for ctx.Err() == nil {
		var err error
		switch {
		case !p.pipe.recording.Load():
			wait(ctx, p.wake)
		case p.open() || p.stale.StaleBytes() > 0:
			err = p.resend(ctx)
		case p.scrubDue():
			err = p.sendHashes(ctx)
		default:
			idle := throttle{rate: int64(time.Second), begun: time.Now()} // the activity log itself finds flushes that fail
			err = idle.wait(ctx, int64(p.retry), p.wake)
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, errDropped) && !errors.Is(err, errExcused) {
			return err
		}
	}
	return nil
}

// resend passes over everything that is stale until nothing is, and ends with PassDone.
func (p *pass) resend(ctx context.Context) error {
	round, _ := p.pipe.now()
	p.mu.Lock()
	if p.kind == 0 {
		p.begin(0)
	}
	kind := p.kind
	p.mu.Unlock()
	p.log.Info("pass started", "kind", passName(kind), "bytes", p.stale.StaleBytes())
	t := throttle{rate: p.rate, begun: time.Now()}
	for cursor, failed := int64(0), false; ; {
		off, n, ok := p.stale.NextStale(cursor)
		switch {
		case ok:
			end := off + n
			for off < end {
				n, intact, err := p.some(ctx, round, off, end, &t)
				if err != nil {
					return err
				}
				off += n
				failed = failed || !intact
			}
			cursor = end
		case cursor == 0:
			return p.finish(round, kind)
		default:
			cursor = 0
			if failed {
				failed = false
				if err := sleep(ctx, p.retry); err != nil {
					return err
				}
			}
		}
	}
}

func (p *pass) finish(round uint64, kind events.PassKind) error {
	p.mu.Lock()
	done := &events.PassDone{Pass: kind, Regions: p.regions, Bytes: p.bytes}
	p.mu.Unlock()
	_, err := p.pipe.put(&item{event: done, then: func(uint64) { p.seeded() }}, round)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.kind, p.missedBytes = 0, 0
	p.mu.Unlock()
	p.log.Info("pass done", "kind", passName(kind), "regions", done.Regions, "bytes", done.Bytes)
	return nil
}

func (p *pass) seeded() {
	if p.stale.Seeded() {
		return
	}
	if err := p.stale.SetSeeded(); err != nil {
		p.log.Error("the activity log can't note that the volume was seeded; a restart calls its next pass a seed again", "error", err)
	}
}

// some passes what begins at off and ends at end at the latest: one region, or those that are one hole. It
// returns how far it came. A device that can't be read leaves the region stale and is no error.
func (p *pass) some(ctx context.Context, round uint64, off, end int64, t *throttle) (n int64, intact bool, err error) {
	n, err = p.hole(ctx, round, off, end)
	intact = n > 0
	if err == nil && n == 0 {
		n = min(activity.RegionSize, end-off)
		intact, err = p.region(ctx, round, off, n, end, t)
	}
	if err != nil {
		return 0, false, err
	}
	if !intact {
		p.passed(0, 0)
		return n, false, nil
	}
	err = p.pipe.at(round, func(place uint64) { p.stale.Resent(off, n, place) })
	p.passed(n, (n+activity.RegionSize-1)/activity.RegionSize)
	if c := p.compare.Load(); c != nil && err == nil {
		c.exclude(off, n)
	}
	return n, true, err
}

// passed notes that regions are complete, or that the one that was begun won't be.
func (p *pass) passed(n, regions int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	p.regions += uint64(regions)
	p.part = 0
}

// hole appends the hole that begins at off, where it fills regions. It returns its length, or 0.
func (p *pass) hole(ctx context.Context, round uint64, off, end int64) (int64, error) {
	n := p.holeAt(off, min(end, off+holeStep))
	if off+n < end {
		n = n / activity.RegionSize * activity.RegionSize
	}
	if n == 0 {
		return 0, nil
	}
	if err := p.awaitPassed(ctx); err != nil {
		return 0, err
	}
	sent, err := p.zero(ctx, round, off, n)
	if !sent {
		n = 0 // somebody wrote into it before it was locked
	}
	return n, err
}

// zero appends a range as zeros if that is a hole.
func (p *pass) zero(ctx context.Context, round uint64, off, n int64) (bool, error) {
	if err := p.share.acquire(ctx, opCost); err != nil {
		return false, err
	}
	lock, err := p.locks.lock(ctx, off, n)
	if err != nil {
		p.share.release(opCost)
		return false, err
	}
	defer p.locks.unlock(lock)
	if p.holeAt(off, off+n) != n {
		p.share.release(opCost)
		return false, nil
	}
	return true, p.append(events.Op{Kind: events.OpZero, Offset: off, Length: n}, nil, opCost, round)
}

// holeAt is how many bytes from off on are known to be zero without reading them.
func (p *pass) holeAt(off, end int64) int64 {
	segments, err := p.dev.Segments(off, end-off)
	if err != nil {
		return 0
	}
	n := int64(0)
	for _, s := range segments {
		if !s.Zero {
			break
		}
		n += s.Length
	}
	return n
}

// region passes one region: unit by unit, each under its own lock, and with credit that it took before. What
// changes one that was passed already is in the pipeline behind it, or makes the region stale anew. The
// run of stale regions that it belongs to ends at limit.
func (p *pass) region(ctx context.Context, round uint64, off, length, limit int64, t *throttle) (intact bool, err error) {
	for end := off + length; off < end; {
		n := min(repair.HashUnit, end-off)
		same, intact, err := p.same(ctx, round, off, n, limit)
		if err != nil || !intact {
			return false, err
		}
		if !same {
			if intact, err := p.unit(ctx, round, off, n); err != nil || !intact {
				return false, err
			}
		}
		off += n
		p.mu.Lock()
		p.part += n
		p.mu.Unlock()
		if err := t.wait(ctx, n, nil); err != nil {
			return false, err
		}
	}
	return true, nil
}

// unit sends a range as data, as many bytes at once as a frame holds and the budget always has.
func (p *pass) unit(ctx context.Context, round uint64, off, length int64) (intact bool, err error) {
	most := min(int64(p.pipe.frameBytes), max(zeroUnit, (p.share.most()-opCost)/zeroUnit*zeroUnit))
	for end := off + length; off < end; {
		n := min(most, end-off)
		if err := p.awaitPassed(ctx); err != nil {
			return false, err
		}
		if p.holeAt(off, off+n) == n {
			sent, err := p.zero(ctx, round, off, n)
			if err != nil {
				return false, err
			}
			if sent {
				off += n
				continue
			}
		}
		if intact, err := p.data(ctx, round, off, n); err != nil || !intact {
			return false, err
		}
		off += n
	}
	return true, nil
}

// awaitPassed waits until the journal has stored enough of what was passed.
func (p *pass) awaitPassed(ctx context.Context) error {
	return p.pipe.awaitPassed(ctx, min(passWindow, p.share.most()/2))
}

func (p *pass) data(ctx context.Context, round uint64, off, n int64) (intact bool, err error) {
	credit := n + opCost
	if err := p.share.acquire(ctx, credit); err != nil {
		return false, err
	}
	lock, err := p.locks.lock(ctx, off, n)
	if err != nil {
		p.share.release(credit)
		return false, err
	}
	defer p.locks.unlock(lock)
	buf := buffers.Get().(frameBuffer)
	defer buffers.Put(buf)
	if !p.read(buf[:n], off) {
		p.share.release(credit)
		return false, nil
	}
	if err := p.append(events.Op{Kind: events.OpWrite, Offset: off, Length: n}, buf[:n], credit, round); err != nil {
		return false, err
	}
	p.mu.Lock()
	p.bytes += uint64(n)
	p.mu.Unlock()
	return true, nil
}

func (p *pass) read(b []byte, off int64) bool {
	_, err := p.dev.ReadAt(b, off)
	if err != nil {
		p.log.Error("read region failed; the volume takes no part in barriers until it succeeds", "offset", off, "bytes", len(b), "error", err)
	}
	return err == nil
}

func (p *pass) append(op events.Op, data []byte, credit int64, round uint64) error {
	place, err := p.pipe.append(op, data, credit, round)
	if err == nil && place == 0 {
		err = errDropped
	}
	return err
}

// throttle keeps to a rate.
type throttle struct {
	rate  int64 // bytes per second; 0: unlimited
	begun time.Time
	bytes int64
}

// wait takes n bytes into account and waits as long as that is ahead of the rate, or until it is woken.
func (t *throttle) wait(ctx context.Context, n int64, wake <-chan struct{}) error {
	if t.bytes += n; t.rate <= 0 {
		return nil
	}
	ahead := time.Duration(float64(t.bytes)/float64(t.rate)*float64(time.Second)) - time.Since(t.begun)
	if ahead <= 0 {
		return nil
	}
	timer := time.NewTimer(ahead)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := throttle{rate: int64(time.Second), begun: time.Now()}
	return t.wait(ctx, int64(d), nil)
}

func passName(k events.PassKind) string {
	switch k {
	case events.PassSeed:
		return "seed"
	case events.PassResync:
		return "resync"
	}
	return "scrub"
}
