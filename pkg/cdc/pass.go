package cdc

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"sync"
	"time"

	"github.com/farshore/farshore/pkg/events"
)

// holeStep is how much of a hole one operation of a pass covers at most, in bytes: that range is
// locked while the operation is put into the stream.
const holeStep = 1 << 30

// passWindow is how many bytes of a pass are on their way to the journal at most: enough to keep it busy,
// and little enough that what fronts write and the marks of barriers needn't wait long behind them.
const passWindow = 16 << 20

// pass reads the volume region by region, in stream order, beside live mutations: under a region's
// lock nothing can change it, and everything that did is in the pipeline already; so what is read
// is what the volume holds at the position where it is appended.
//
// It also keeps the suspect ranges: those that may differ from the journal, because a mutation failed
// and the device couldn't tell what it holds now. They are read again until that succeeds.
type pass struct {
	dev   Device
	pipe  *pipeline
	locks *rangeLocks
	share *share
	rate  int64
	retry time.Duration
	log   *slog.Logger
	wake  chan struct{}

	mu       sync.Mutex
	data     events.PassKind // asked for or running: PassSeed or PassResync; 0: none
	asked    int             // increases when data is asked for
	scrub    bool            // asked for or running
	now      events.Progress // of what runs
	regions  uint64
	bytes    uint64
	suspects extents
	reading  bool // a range was taken out of suspects and isn't appended yet
	unsynced bool // a flush failed: suspects are read only when one succeeded
	buf      []byte
}

func (p *pass) start(kind events.PassKind) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if kind == events.PassScrub {
		p.scrub = true
	} else {
		p.data = kind
		p.asked++
	}
	signal(p.wake)
}

// suspect notes that a range may differ from the journal.
func (p *pass) suspect(off, length int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.suspects = p.suspects.add(off, off+length)
	signal(p.wake)
}

// suspectAll notes that a flush failed: what any earlier mutation left is unknown.
func (p *pass) suspectAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unsynced = true
	p.suspects = extents{{0, p.dev.Size()}}
	signal(p.wake)
}

// ready tells whether everything the volume holds is in the pipeline.
func (p *pass) ready() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.data == 0 && len(p.suspects) == 0 && !p.reading
}

func (p *pass) progress() events.Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now.Pass == 0 && p.data != 0 {
		return events.Progress{Pass: p.data, Total: p.dev.Size()}
	}
	return p.now
}

// run works until ctx ends or the pipeline refuses.
func (p *pass) run(ctx context.Context) error {
	for ctx.Err() == nil {
		p.mu.Lock()
		kind, asked, suspects := p.data, p.asked, len(p.suspects) > 0
		if kind == 0 && p.scrub {
			kind = events.PassScrub
		}
		p.mu.Unlock()
		var err error
		switch {
		case kind == events.PassScrub && !suspects:
			err = p.whole(ctx, kind, asked)
		case kind == events.PassSeed, kind == events.PassResync:
			err = p.whole(ctx, kind, asked)
		case suspects:
			err = p.clear(ctx, asked)
		default:
			wait(ctx, p.wake)
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// whole passes the whole volume and ends with PassDone. It leaves early when a new pass of data is
// asked for.
func (p *pass) whole(ctx context.Context, kind events.PassKind, asked int) error {
	p.mu.Lock()
	p.now = events.Progress{Pass: kind, Total: p.dev.Size()}
	p.regions, p.bytes = 0, 0
	p.mu.Unlock()
	p.log.Info("pass started", "kind", passName(kind), "bytes", p.dev.Size())
	begun := time.Now()
	read := int64(0)
	for off := int64(0); off < p.dev.Size(); {
		n, data, err := p.region(ctx, kind, off, p.dev.Size())
		if err != nil {
			return err
		}
		off += n
		read += data
		p.mu.Lock()
		p.now.Done = off
		p.regions++
		again := p.asked != asked
		p.mu.Unlock()
		if again {
			return nil
		}
		if err := p.throttle(ctx, begun, read); err != nil {
			return err
		}
	}
	if kind != events.PassScrub {
		if done, err := p.settled(ctx, asked); err != nil || !done {
			return err
		}
	}
	return p.finish(kind, asked)
}

// settled works on the suspect ranges until there is none; false when a new pass was asked for.
func (p *pass) settled(ctx context.Context, asked int) (bool, error) {
	for {
		p.mu.Lock()
		suspects, again := len(p.suspects) > 0, p.asked != asked
		p.mu.Unlock()
		if again || !suspects {
			return !again, nil
		}
		if err := p.clear(ctx, asked); err != nil {
			return false, err
		}
	}
}

func (p *pass) finish(kind events.PassKind, asked int) error {
	p.mu.Lock()
	done := &events.PassDone{Pass: kind, Regions: p.regions, Bytes: p.bytes}
	p.mu.Unlock()
	if _, err := p.pipe.put(done, 0); err != nil {
		return err
	}
	p.mu.Lock()
	if kind == events.PassScrub {
		p.scrub = false
	} else if p.asked == asked {
		p.data = 0
	}
	p.now = events.Progress{}
	p.mu.Unlock()
	p.log.Info("pass done", "kind", passName(kind), "regions", done.Regions, "bytes", done.Bytes)
	return nil
}

// clear tries every suspect range once, and waits a little where that didn't clear all.
func (p *pass) clear(ctx context.Context, asked int) error {
	p.mu.Lock()
	unsynced := p.unsynced
	ranges := append(extents(nil), p.suspects...)
	p.mu.Unlock()
	if unsynced {
		p.mu.Lock()
		p.unsynced = false
		p.mu.Unlock()
		if err := p.dev.Flush(); err != nil {
			p.mu.Lock()
			p.unsynced = true
			p.mu.Unlock()
			return p.pause(ctx)
		}
	}
	for _, e := range ranges {
		for off := e.off; off < e.end; {
			n, _, err := p.region(ctx, events.PassResync, off, e.end)
			if err != nil {
				return err
			}
			off += n
			p.mu.Lock()
			again := p.asked != asked
			p.mu.Unlock()
			if again {
				return nil
			}
		}
	}
	p.mu.Lock()
	left := len(p.suspects)
	p.mu.Unlock()
	if left == 0 {
		return nil
	}
	return p.pause(ctx)
}

func (p *pass) pause(ctx context.Context) error { return sleep(ctx, p.retry) }

// region passes what begins at off and ends at limit at the latest: one region, or a hole. It returns
// how far it came, and how many bytes of data it read. A device that can't be read leaves the region
// suspect and is no error.
func (p *pass) region(ctx context.Context, kind events.PassKind, off, limit int64) (n, read int64, err error) {
	if kind != events.PassScrub {
		if n, err = p.hole(ctx, off, limit); n > 0 || err != nil {
			return n, 0, err
		}
	}
	n = min(int64(p.pipe.frameBytes), limit-off, max(zeroUnit, (p.share.most()-opCost)/zeroUnit*zeroUnit))
	if err := p.pipe.awaitPassed(ctx, min(passWindow, p.share.most()/2)); err != nil {
		return 0, 0, err
	}
	if err := p.share.acquire(ctx, n+opCost); err != nil {
		return 0, 0, err
	}
	lock, err := p.locks.lock(ctx, off, n)
	if err != nil {
		p.share.release(n + opCost)
		return 0, 0, err
	}
	defer p.locks.unlock(lock)
	p.begin(off, n, kind)
	if p.buf == nil {
		p.buf = make([]byte, p.pipe.frameBytes)
	}
	buf := p.buf[:n]
	if _, err := p.dev.ReadAt(buf, off); err != nil {
		p.share.release(n + opCost)
		p.log.Error("read region failed; the volume takes no part in barriers until it succeeds", "offset", off, "bytes", n, "error", err)
		p.end(off, n, false)
		return n, n, nil
	}
	if kind == events.PassScrub {
		_, err = p.pipe.put(&events.RegionHash{Offset: off, Length: n, Hash: sha256.Sum256(buf)}, n+opCost)
	} else {
		err = p.pipe.append(events.Op{Kind: events.OpWrite, Offset: off, Length: n}, buf, n+opCost, false)
		p.count(n)
	}
	p.end(off, n, true)
	return n, n, err
}

// hole appends the hole that begins at off, if one does that is worth it. It returns its length, or 0.
func (p *pass) hole(ctx context.Context, off, limit int64) (int64, error) {
	end := min(limit, off+holeStep)
	n := p.holeAt(off, end)
	if n < min(int64(p.pipe.frameBytes), limit-off) {
		return 0, nil // it is read like data: zeros are found later
	}
	if err := p.share.acquire(ctx, opCost); err != nil {
		return 0, err
	}
	lock, err := p.locks.lock(ctx, off, n)
	if err != nil {
		p.share.release(opCost)
		return 0, err
	}
	defer p.locks.unlock(lock)
	if p.holeAt(off, off+n) != n {
		p.share.release(opCost)
		return 0, nil // somebody wrote into it before it was locked
	}
	p.begin(off, n, events.PassResync)
	err = p.pipe.append(events.Op{Kind: events.OpZero, Offset: off, Length: n}, nil, opCost, false)
	p.end(off, n, true)
	return n, err
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

// begin takes a range out of the suspects before it is read, so that what becomes suspect
// meanwhile stays in.
func (p *pass) begin(off, n int64, kind events.PassKind) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if kind != events.PassScrub {
		p.reading = p.suspects.overlaps(off, off+n)
		p.suspects = p.suspects.remove(off, off+n)
	}
}

func (p *pass) end(off, n int64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reading = false
	if !ok {
		p.suspects = p.suspects.add(off, off+n)
	}
}

func (p *pass) count(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += uint64(n)
}

// throttle waits as long as the pass is ahead of its rate.
func (p *pass) throttle(ctx context.Context, begun time.Time, read int64) error {
	if p.rate <= 0 {
		return nil
	}
	ahead := time.Duration(float64(read)/float64(p.rate)*float64(time.Second)) - time.Since(begun)
	if ahead <= 0 {
		return nil
	}
	return sleep(ctx, ahead)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
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
