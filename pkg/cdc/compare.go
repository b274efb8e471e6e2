package cdc

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"

	"github.com/farshore/farshore/pkg/cdc/activity"
	"github.com/farshore/farshore/pkg/repair"
)

// hashesAhead is how much of a volume the hashes are asked for at once, in bytes.
const hashesAhead = 16 << 20

// comparison lets a pass leave out what the base of the stream's generation holds already.
//
// Where a unit of the volume equals the base, the replica at this position of the stream equals it too,
// provided that whatever changed the volume since the generation began is in the stream: the bytes that
// mutations have changed are as the mutations left them, the others as the base has them. So a region is no
// longer compared when something changed it that isn't in the stream, and when something of what was
// appended may be missing there.
type comparison struct {
	hashes func(ctx context.Context, off, length int64) ([][32]byte, error)

	mu      sync.Mutex
	without []uint64 // a bit for each region that isn't compared any more
	touched []uint64 // a bit for each region that a mutation has changed since the generation began
	failed  uint64   // flushes of the device that had failed when without was last seen to
	ended   bool
	off     int64 // of window
	window  [][32]byte
}

// newComparison returns the comparison of a Record; nil where there is nothing to compare with.
func newComparison(t Tenure, size int64, failed uint64) *comparison {
	if t.Hashes == nil {
		return nil
	}
	words := (size + 64*activity.RegionSize - 1) / (64 * activity.RegionSize)
	return &comparison{hashes: t.Hashes, without: make([]uint64, words), touched: make([]uint64, words), failed: failed}
}

// mark sets the bits of the regions that a range touches. What lies behind the volume's size at the beginning
// has none: it is never compared.
func mark(bits []uint64, off, length int64) {
	for r := off / activity.RegionSize; r*activity.RegionSize < off+length && r/64 < int64(len(bits)); r++ {
		bits[r/64] |= 1 << (r % 64)
	}
}

func (c *comparison) touch(off, length int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	mark(c.touched, off, length)
}

func (c *comparison) exclude(off, length int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	mark(c.without, off, length)
}

func (c *comparison) excludeTouched() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, touched := range c.touched {
		c.without[i] |= touched
	}
}

// flushed takes into account how many flushes have failed: each may have lost what mutations had changed.
func (c *comparison) flushed(failed uint64) {
	if c.failed != failed {
		c.failed = failed
		c.excludeTouched()
	}
}

// holds tells whether the region at off is compared.
func (c *comparison) holds(off int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := off / activity.RegionSize
	return !c.ended && r/64 < int64(len(c.without)) && c.without[r/64]&(1<<(r%64)) == 0
}

// at returns the hash of the unit at off, if it was fetched. known is false where it has to be.
func (c *comparison) at(off int64) (hash [32]byte, known bool) {
	if off < c.off || off >= c.off+hashesAhead {
		return hash, false
	}
	if i := (off - c.off) / repair.HashUnit; i < int64(len(c.window)) {
		return c.window[i], true
	}
	return hash, false
}

// same tells whether a unit of the volume is what the base has there. The run of stale regions that it belongs
// to ends at limit. A device that can't be read isn't intact.
func (p *pass) same(ctx context.Context, round uint64, off, n, limit int64) (same, intact bool, err error) {
	c := p.compare.Load()
	if c != nil {
		c.flushed(p.stale.FlushFailures()) // one that fails later makes the region stale anew
	}
	if c == nil || off%repair.HashUnit != 0 || !c.holds(off) {
		return false, true, nil
	}
	hash, known := c.at(off)
	if !known {
		if err := p.fetch(ctx, c, round, off, min(hashesAhead, limit-off)); err != nil {
			return false, false, err
		}
		if hash, known = c.at(off); !known {
			return false, true, nil
		}
	}
	lock, err := p.locks.lock(ctx, off, n)
	if err != nil {
		return false, false, err
	}
	defer p.locks.unlock(lock)
	buf := buffers.Get().(frameBuffer)
	defer buffers.Put(buf)
	if !p.read(buf[:n], off) {
		return false, false, nil
	}
	return sha256.Sum256(buf[:n]) == hash && c.holds(off), true, nil
}

// fetch asks for the hashes of a range until it gets them, the base is gone, or the round ends. Where fewer
// come than were asked for, the rest is unknown.
func (p *pass) fetch(ctx context.Context, c *comparison, round uint64, off, length int64) error {
	for told := false; ; {
		hashes, err := c.hashes(ctx, off, length)
		if err == nil {
			c.off, c.window = off, hashes
			return nil
		}
		if errors.Is(err, repair.ErrGone) {
			p.log.Warn("the base can't be compared with any more; data is sent instead", "error", err)
			c.mu.Lock()
			c.ended = true
			c.mu.Unlock()
			return nil
		}
		if !told {
			told = true
			p.log.Warn("hashes of the base can't be had, trying again", "offset", off, "error", err)
		}
		if err := sleep(ctx, p.retry); err != nil {
			return err
		}
		if err := p.pipe.at(round, func(uint64) {}); err != nil {
			return err
		}
	}
}
