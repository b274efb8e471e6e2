package cdc

import (
	"cmp"
	"errors"
	"time"

	"github.com/farshore/farshore/pkg/events"
)

// How a pipeline gets its journal, and what happens to what is in it when it is switched off.

// attach gives the pipeline the journal that it is to record into, and whose stream takes the volume for as
// long as size says; 0: what it is. It stays off.
func (p *pipeline) attach(j Journal, size int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	if p.journal != nil {
		return errors.New("the volume is being recorded already")
	}
	p.journal, p.last, p.stored = j, 0, j.Stored()
	p.told = cmp.Or(size, p.size)
	return nil
}

// resume switches the pipeline on, in the next round. Nothing that was handed to the journal in an earlier
// one is left, or none was.
func (p *pipeline) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil || p.on {
		return
	}
	p.on = true
	p.recording.Store(true)
	p.changed()
	if p.queued = p.told; p.told < p.size {
		p.resized()
	}
}

// resize makes the volume larger; the stream is told before any operation that comes behind the call.
func (p *pipeline) resize(size int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	if p.size = size; p.on {
		p.resized()
	}
	return nil
}

func (p *pipeline) resized() {
	p.close()
	p.push(&item{event: &events.Resize{Old: p.queued, New: p.size}})
	p.queued = p.size
}

// changed wakes who waits for on or err to change.
func (p *pipeline) changed() {
	close(p.switched)
	p.switched = make(chan struct{})
}

// off drops everything that wasn't handed to the journal, and takes nothing until resume. It returns how many
// bytes of fronts that were, and when the oldest of them came.
func (p *pipeline) off() (bytes int64, since time.Time) {
	p.mu.Lock()
	var lost drops
	p.interrupt(&lost)
	p.mu.Unlock()
	p.answer(&lost, ErrNotReady)
	return lost.bytes, lost.since
}

// interrupt ends the round.
func (p *pipeline) interrupt(lost *drops) {
	p.on = false
	p.recording.Store(false)
	p.round++
	p.timer.Stop()
	if p.open != nil {
		p.close()
	}
	for _, q := range []*queue[*item]{&p.building, &p.ready} {
		for _, it := range q.rest() {
			p.lose(it, lost)
		}
	}
	p.changed()
	p.room.Broadcast()
	signal(p.toPass)
}

// detach takes the journal away, and with it everything that isn't known to be stored. Nobody works on the
// pipeline any more. Who waits for something is told why. It returns what off does.
func (p *pipeline) detach(why error) (bytes int64, since time.Time) {
	p.mu.Lock()
	var lost drops
	p.interrupt(&lost)
	for _, q := range []*queue[*item]{&p.building, &p.ready, &p.sent} {
		for it := range q.all() {
			p.lose(it, &lost)
		}
		*q = queue[*item]{}
	}
	p.journal = nil
	why = cmp.Or(p.err, why, ErrNotReady)
	p.mu.Unlock()
	p.answer(&lost, why)
	return lost.bytes, lost.since
}

// drops collects what is dropped, until nothing is locked.
type drops struct {
	credit int64
	bytes  int64     // of fronts
	since  time.Time // when the oldest of them came
	items  []*item   // that somebody waits for
}

func (p *pipeline) lose(it *item, lost *drops) {
	lost.credit += it.credit
	lost.bytes += it.bytes
	if it.live && (lost.since.IsZero() || it.opened.Before(lost.since)) {
		lost.since = it.opened
	}
	p.bytes -= it.bytes
	p.passed -= it.passed
	if it.frame != nil && it.frame.buf != nil {
		p.full--
		buffers.Put(it.frame.buf)
	}
	if it.buf != nil {
		buffers.Put(it.buf)
	}
	it.frame, it.event, it.buf = nil, nil, nil
	if it.done != nil {
		lost.items = append(lost.items, it)
	}
}

func (p *pipeline) answer(lost *drops, err error) {
	p.share.release(lost.credit)
	for _, it := range lost.items {
		it.err = err
		close(it.done)
	}
}

// stop lets nothing in any more; err is everybody's answer. It returns false where that was done before.
func (p *pipeline) stop(err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return false
	}
	p.err = err
	p.failed.Store(true)
	p.timer.Stop()
	p.share.fail(err)
	p.changed()
	p.room.Broadcast()
	return true
}

// handed tells whether the journal has something that it hasn't stored.
func (p *pipeline) handed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, sent := p.sent.peek()
	return sent || p.ready.busy != nil
}

// movement is how many items were stored so far, and whether any is on its way.
func (p *pipeline) movement() (settles uint64, waiting bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, building := p.building.peek()
	_, ready := p.ready.peek()
	_, sent := p.sent.peek()
	return p.settles, sent || ready || building || p.ready.busy != nil || p.building.busy != nil || p.open != nil
}

// awaitOn is a channel that is closed when the pipeline is switched on or fails; nil where it is on.
func (p *pipeline) awaitOn() chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.on || p.err != nil {
		return nil
	}
	return p.switched
}
