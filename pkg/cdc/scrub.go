package cdc

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/farshore/farshore/pkg/events"
)

// hashCredit and hashWindow are what a hash is charged, of the budget and of passWindow.
const (
	hashCredit = 4 * opCost
	hashWindow = 4096
)

// Scrubbed is how far a scrub is that was asked for.
type Scrubbed struct {
	Number      uint64  // from 1
	Done, Total int64   // bytes
	Seq         uint64  // of the PassDone that ended it, which is stored; 0: it runs
	Journal     Journal // that Seq is in; the one that it was sent to last
}

// scrub is what a pass knows of its scrubs: the one that runs all the time in the background, at its own rate,
// and the one that was asked for, which takes its place and is as fast as a pass may be.
type scrub struct {
	rate   int64 // bytes per second, of the one in the background; 0: there is none
	cursor int64
	asked  bool // the newest one that was asked for has hashes to send
	newest Scrubbed
}

func (s *scrub) progress() events.Progress {
	if !s.asked {
		return events.Progress{}
	}
	return events.Progress{Pass: events.PassScrub, Done: min(s.newest.Done, s.newest.Total), Total: s.newest.Total}
}

func (p *pass) askScrub() uint64 {
	size := p.size()
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := &p.scrub; s.newest.Number == 0 || s.newest.Seq != 0 {
		s.asked, s.cursor = true, 0
		s.newest = Scrubbed{Number: s.newest.Number + 1, Total: size}
		p.stir()
	}
	return p.scrub.newest.Number
}

func (p *pass) scrubbed(number uint64) (Scrubbed, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.scrub.newest, number != 0 && number == p.scrub.newest.Number
}

func (p *pass) scrubDue() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.scrub.asked || p.scrub.rate > 0
}

// sendHashes goes on with the scrub that is due, until it is done, another one is, or something is stale: then
// the volume has to be sent first.
func (p *pass) sendHashes(ctx context.Context) error {
	round, _ := p.pipe.now()
	p.mu.Lock()
	off, asked, number := p.scrub.cursor, p.scrub.asked, p.scrub.newest.Number
	t := throttle{rate: p.scrub.rate, begun: time.Now()}
	if asked {
		t.rate = p.rate
	}
	p.mu.Unlock()
	for size := p.size(); off < size; {
		n := min(int64(p.pipe.frameBytes), size-off)
		sent, err := p.sendHash(ctx, round, off, n)
		if err != nil || !sent {
			return err
		}
		off += n
		p.mu.Lock()
		again := p.scrub.asked != asked || p.scrub.newest.Number != number
		if !again {
			p.scrub.cursor = off
			if asked {
				p.scrub.newest.Done, p.scrub.newest.Total = off, size
			}
		}
		p.mu.Unlock()
		if again {
			return nil
		}
		if err := t.wait(ctx, n, p.wake); err != nil {
			return err
		}
		if t.begun.Add(time.Minute).Before(time.Now()) { // what was slept too long isn't caught up with for ever
			t.begun, t.bytes = time.Now(), 0
		}
	}
	return p.endScrub(round, asked)
}

// sendHash appends the hash of a range. It doesn't where something is stale.
func (p *pass) sendHash(ctx context.Context, round uint64, off, n int64) (sent bool, err error) {
	if err := p.pipe.awaitPassed(ctx, passWindow); err != nil {
		return false, err
	}
	if err := p.share.acquire(ctx, hashCredit); err != nil {
		return false, err
	}
	lock, err := p.locks.lock(ctx, off, n)
	if err != nil {
		p.share.release(hashCredit)
		return false, err
	}
	defer p.locks.unlock(lock)
	if p.stale.StaleBytes() > 0 {
		p.share.release(hashCredit)
		return false, nil
	}
	buf := buffers.Get().(frameBuffer)
	defer buffers.Put(buf)
	if !p.read(buf[:n], off) {
		p.share.release(hashCredit)
		return false, sleep(ctx, p.retry)
	}
	hash := &events.RegionHash{Offset: off, Length: n, Hash: sha256.Sum256(buf[:n])}
	_, err = p.pipe.put(&item{event: hash, credit: hashCredit, passed: hashWindow}, round)
	return err == nil, err
}

func (p *pass) endScrub(round uint64, asked bool) error {
	it := &item{event: &events.PassDone{Pass: events.PassScrub}}
	if asked {
		it.then = p.scrubStored
	}
	journal, err := p.pipe.put(it, round)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.scrub.cursor = 0
	if asked {
		p.scrub.asked, p.scrub.newest.Journal = false, journal
	}
	return nil
}

func (p *pass) scrubStored(seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.scrub.newest.Seq = seq
}

// restart begins a scrub again whose end was dropped.
func (s *scrub) restart() {
	s.asked = s.newest.Number != 0 && s.newest.Seq == 0
	s.cursor = 0
}
