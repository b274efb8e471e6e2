package cdc

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/farshore/farshore/pkg/cdc/activity"
	"github.com/farshore/farshore/pkg/events"
)

// frameBuffers is how many frames of full size a recorder holds beside its budget: one is filled while
// others are built.
const frameBuffers = 3

// buffers are of full size. They are those of all recorders, so an idle one holds none.
var buffers = sync.Pool{New: func() any { return new([events.MaxContent]byte) }}

type frameBuffer = *[events.MaxContent]byte

// errDropped tells a pass that what it sent last is no longer on its way.
var errDropped = errors.New("the recording was interrupted")

// pipeline takes operations in order and hands them to the journal in that order: a frame is open
// (operations are copied into it), then built (squeezed, compressed, moved to memory of its own
// size), then appended, then stored. Building needs nothing but time, so a full-size buffer always
// comes back soon; what waits for the journal is bounded by credit. Marks and other events take a
// place between frames at once, without credit.
//
// It is on while there is a journal that takes what it is given. Each time that it is switched off a round
// ends: what wasn't handed to the journal by then is dropped.
type pipeline struct {
	share      *share
	log        *activity.Log
	frameBytes int
	linger     time.Duration
	compressor compressor

	mu       sync.Mutex
	room     sync.Cond // a buffer is free, or nothing is taken any more
	journal  Journal   // of the Record that runs
	on       bool
	round    uint64        // from 1
	switched chan struct{} // closed and replaced when on or err changes
	open     *openFrame
	timer    *time.Timer
	building queue[*item]
	ready    queue[*item]
	sent     queue[*item] // appended, not stored
	full     int          // buffers in use, at most frameBuffers
	place    uint64       // of the newest operation taken
	settled  uint64       // place up to which everything is stored
	stored   uint64
	last     uint64 // sequence appended
	size     int64  // of the volume
	queued   int64  // size of the volume by the newest Resize taken
	told     int64  // size of the volume by what was appended
	bytes    int64  // of content written by fronts and not stored: debt
	passed   int64  // of content read by a pass and not stored
	settles  uint64 // items that became stored
	err      error

	toBuild, toSend chan struct{} // of capacity 1: there is something to do
	toPass          chan struct{} // of capacity 1: passed has become less
	toMind          chan struct{} // of capacity 1: something is on its way, or has arrived
	failed          atomic.Bool   // err is set
	recording       atomic.Bool   // on
	frames          atomic.Int64  // handed to the journal
}

// item is what takes one place in the stream.
type item struct {
	round  uint64
	place  uint64     // of the newest operation in it or before it
	frame  *openFrame // not built yet
	span   trace.SpanContext
	event  events.Event // nil with frame == nil: takes no place, but its turn
	buf    frameBuffer  // that event's payload is in; nil where it isn't
	credit int64
	live   bool
	bytes  int64
	passed int64
	opened time.Time
	seq    uint64           // valid behind done
	err    error            // valid behind done
	done   chan struct{}    // closed when it is stored, or won't be; nil where nobody waits
	then   func(seq uint64) // called when it is stored; may be nil
}

func newPipeline(o Options, s *share) *pipeline {
	p := &pipeline{
		share: s, log: o.Activity, frameBytes: o.FrameBytes, linger: o.Linger,
		compressor: compressor{on: o.Compress}, size: o.Device.Size(), place: 1, settled: 1, round: 1,
		switched: make(chan struct{}),
		toBuild:  make(chan struct{}, 1), toSend: make(chan struct{}, 1), toPass: make(chan struct{}, 1), toMind: make(chan struct{}, 1),
	}
	p.room.L = &p.mu
	p.timer = time.AfterFunc(time.Hour, p.lingered)
	p.timer.Stop()
	return p
}

// append puts an operation with its data (at most frameBytes) behind the others and returns its place, or 0
// where the pipeline is off. The credit is the pipeline's from here on. Data is copied. A pass names the
// round that it runs in, a front 0.
func (p *pipeline) append(op events.Op, data []byte, credit int64, round uint64) (place uint64, err error) {
	p.mu.Lock()
	spare, place, err := p.take(op, data, credit, round)
	p.mu.Unlock()
	p.share.release(spare)
	return place, err
}

func (p *pipeline) take(op events.Op, data []byte, credit int64, round uint64) (spare int64, place uint64, err error) {
	for {
		if p.err != nil {
			return credit, 0, p.err
		}
		if !p.on || round != 0 && round != p.round {
			return credit, 0, nil
		}
		f := p.open
		if f == nil || f.buf == nil && len(data) > 0 {
			if len(data) > 0 && p.full == frameBuffers {
				p.room.Wait()
				continue
			}
			if f == nil {
				f = p.begin()
			}
			if len(data) > 0 {
				p.full++
				f.buf = buffers.Get().(frameBuffer)
				f.content = f.buf[:0]
			}
		}
		if f.rewrite(op, data) {
			f.live = f.live || round == 0
			p.place++
			return credit, p.place, nil
		}
		if len(f.content)+len(data) > p.frameBytes || len(f.ops) >= maxOps {
			p.close()
			continue
		}
		return p.add(f, op, data, credit, round == 0), p.place, nil
	}
}

// holeShare is by how much a hole counts less than data as bytes of a pass. It isn't nothing: the activity log
// lists the regions of a hole, too, until it is stored.
const holeShare = 256

// add puts an operation into the open frame, where there is room, and returns what is left of the credit.
func (p *pipeline) add(f *openFrame, op events.Op, data []byte, credit int64, live bool) (spare int64) {
	if f.extend(op, data) {
		spare = credit - int64(len(data))
	} else {
		f.add(op, data)
	}
	p.place++
	f.credit += credit - spare
	if live {
		f.live = true
		f.bytes += int64(len(data))
		p.bytes += int64(len(data))
	} else {
		passed := int64(len(data))
		if op.Kind != events.OpWrite {
			passed = op.Length / holeShare
		}
		f.passed += passed
		p.passed += passed
	}
	if len(f.content) == p.frameBytes || len(f.ops) >= maxOps {
		p.close()
	}
	return spare
}

func (p *pipeline) begin() *openFrame {
	p.open = &openFrame{opened: time.Now(), ops: make([]events.Op, 0, 16)}
	p.timer.Reset(p.linger)
	return p.open
}

// lingered closes the open frame if it is old enough.
func (p *pipeline) lingered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		return
	}
	if left := p.linger - time.Since(p.open.opened); left > 0 {
		p.timer.Reset(left) // the frame that the timer was set for was closed by size
		return
	}
	p.close()
}

// close hands the open frame, if any, over to be built.
func (p *pipeline) close() {
	f := p.open
	if f == nil {
		return
	}
	p.open = nil
	p.push(&item{frame: f, credit: f.credit, live: f.live, bytes: f.bytes, passed: f.passed, opened: f.opened})
}

func (p *pipeline) push(it *item) {
	it.round, it.place = p.round, p.place
	p.building.push(it)
	signal(p.toBuild)
	signal(p.toMind)
}

// put closes the open frame and gives the item the place behind it, or refuses it: with errDropped where the
// pipeline is off, or in another round than the one named; 0 is any. An item without an event takes no
// place: it is done when everything before it is stored, with the sequence of the last one. It returns the
// journal that the item is for.
func (p *pipeline) put(it *item, round uint64) (Journal, error) {
	p.mu.Lock()
	err := p.err
	if err == nil && (!p.on || round != 0 && round != p.round) {
		err = errDropped
	}
	if err != nil {
		p.mu.Unlock()
		p.share.release(it.credit)
		return nil, err
	}
	p.close()
	p.passed += it.passed
	p.push(it)
	journal := p.journal
	p.mu.Unlock()
	return journal, nil
}

// at calls f with the place of the newest operation, if the round hasn't ended. f must not call the pipeline.
func (p *pipeline) at(round uint64, f func(place uint64)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	if !p.on || round != p.round {
		return errDropped
	}
	f(p.place)
	return nil
}

// now is the round that runs, and the place of the newest operation.
func (p *pipeline) now() (round, place uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.round, p.place
}

// wait returns the sequence of it once it is stored.
func (p *pipeline) wait(ctx context.Context, it *item) (uint64, error) {
	select {
	case <-it.done:
		return it.seq, it.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// build builds frames in order until ctx ends.
func (p *pipeline) build(ctx context.Context) error {
	for {
		p.mu.Lock()
		it, ok := p.building.pop()
		if ok {
			p.building.busy = it
		}
		p.mu.Unlock()
		if !ok {
			if !wait(ctx, p.toBuild) {
				return nil
			}
			continue
		}
		if it.frame != nil {
			if err := p.finish(it); err != nil {
				return err
			}
		}
		p.mu.Lock()
		p.building.busy = nil
		var lost drops
		if it.round == p.round {
			p.ready.push(it)
		} else {
			p.lose(it, &lost)
		}
		p.mu.Unlock()
		p.answer(&lost, ErrNotReady)
		signal(p.toSend)
	}
}

// finish turns an open frame into an event with memory of its own size, and gives its buffer back.
func (p *pipeline) finish(it *item) error {
	f := it.frame
	ops, content := squeeze(f.ops, f.content)
	e, err := p.compressor.frame(ops, content)
	if err != nil {
		return err
	}
	if len(content) == 0 {
		e.Payload = nil
	} else if e.Compression == events.Uncompressed {
		if len(content) > p.frameBytes*3/4 {
			it.buf = f.buf // it goes on to the journal
		} else {
			e.Payload = append(make([]byte, 0, len(content)), content...)
		}
	}
	spare := max(0, it.credit-int64(len(e.Payload)+opCost*len(ops)))
	p.mu.Lock()
	it.event, it.frame = e, nil
	it.credit -= spare
	if f.buf != nil {
		p.full--
		p.room.Broadcast()
		if it.buf == nil {
			buffers.Put(f.buf)
		}
	}
	p.mu.Unlock()
	p.share.release(spare)
	return nil
}

// send appends to the journal in order until ctx ends. An error is final.
func (p *pipeline) send(ctx context.Context, journal Journal) error {
	for {
		p.mu.Lock()
		it, ok := p.ready.pop()
		if ok {
			p.ready.busy = it
		}
		p.mu.Unlock()
		if !ok {
			if !wait(ctx, p.toSend) {
				return nil
			}
			continue
		}
		seq := uint64(0)
		if it.event != nil {
			var err error
			if seq, err = journal.Append(trace.ContextWithSpanContext(ctx, it.span), it.event); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			if it.event.Kind() == events.KindFrame {
				p.frames.Add(1)
			}
		}
		p.appended(it, seq, journal.Stored())
	}
}

func (p *pipeline) appended(it *item, seq, stored uint64) {
	p.mu.Lock()
	p.ready.busy = nil
	if seq != 0 {
		p.last = seq
	}
	if e, ok := it.event.(*events.Resize); ok {
		p.told = e.New
	}
	if it.buf != nil {
		buffers.Put(it.buf)
	}
	it.seq, it.event, it.buf = p.last, nil, nil
	p.sent.push(it)
	s := p.settle(stored)
	p.mu.Unlock()
	p.release(s)
}

// watch notes what the journal has stored until ctx ends. An error is final.
func (p *pipeline) watch(ctx context.Context, journal Journal) error {
	for {
		stored := journal.Stored()
		p.mu.Lock()
		s := p.settle(stored)
		p.mu.Unlock()
		p.release(s)
		if err := journal.WaitStored(ctx, stored+1); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// settlement is what follows from something being stored.
type settlement struct {
	credit     int64
	place, seq uint64
	items      []*item // that somebody waits for
}

// settle lets go of what is stored.
func (p *pipeline) settle(seq uint64) (s settlement) {
	p.stored = max(p.stored, seq)
	for {
		it, ok := p.sent.peek()
		if !ok || it.seq > p.stored {
			break
		}
		p.sent.pop()
		s.credit += it.credit
		p.settled = it.place
		p.settles++
		p.bytes -= it.bytes
		if it.passed > 0 {
			p.passed -= it.passed
			signal(p.toPass)
		}
		if it.done != nil || it.then != nil {
			s.items = append(s.items, it)
		}
		signal(p.toMind)
	}
	s.place, s.seq = p.settled, p.stored
	return s
}

func (p *pipeline) release(s settlement) {
	p.share.release(s.credit)
	p.log.Stored(s.place, s.seq)
	for _, it := range s.items {
		if it.then != nil {
			it.then(it.seq)
		}
		if it.done != nil {
			close(it.done)
		}
	}
}

// awaitPassed waits until at most limit bytes of a pass are on their way.
func (p *pipeline) awaitPassed(ctx context.Context, limit int64) error {
	for {
		p.mu.Lock()
		passed := p.passed
		p.mu.Unlock()
		if passed <= limit {
			return nil
		}
		if !wait(ctx, p.toPass) {
			return ctx.Err()
		}
	}
}

// failure is the error that stop was called with, or nil.
func (p *pipeline) failure() error {
	if !p.failed.Load() {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// debt is what was acknowledged and isn't stored: the bytes, and since when.
func (p *pipeline) debt() (bytes int64, since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range []*queue[*item]{&p.sent, &p.ready, &p.building} {
		for it := range q.all() {
			if it.live {
				return p.bytes, it.opened
			}
		}
	}
	if p.open != nil && p.open.live {
		return p.bytes, p.open.opened
	}
	return p.bytes, time.Time{}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// wait waits for a signal; it returns false when ctx ends.
func wait(ctx context.Context, c chan struct{}) bool {
	select {
	case <-c:
		return true
	case <-ctx.Done():
		return false
	}
}

func spanOf(ctx context.Context) trace.SpanContext { return trace.SpanContextFromContext(ctx) }
