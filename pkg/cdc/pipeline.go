package cdc

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/farshore/farshore/pkg/events"
)

// frameBuffers is how many frames of full size a recorder holds beside its budget: one is filled while
// others are built.
const frameBuffers = 3

// pipeline takes operations in order and hands them to the journal in that order: a frame is open
// (operations are copied into it), then built (squeezed, compressed, moved to memory of its own
// size), then appended, then stored. Building needs nothing but time, so a full-size buffer always
// comes back soon; what waits for the journal is bounded by credit. Marks and other events take a
// place between frames at once, without credit.
type pipeline struct {
	journal    Journal
	share      *share
	frameBytes int
	linger     time.Duration
	compressor compressor

	mu       sync.Mutex
	room     sync.Cond // a buffer is free, or the pipeline failed
	open     *openFrame
	timer    *time.Timer
	building queue[*item]
	ready    queue[*item]
	sent     queue[*item] // appended, not stored
	buffers  [][]byte     // free
	spares   [][]byte     // free, beside the frameBuffers; as many at most
	made     int          // buffers, of frameBuffers
	stored   uint64
	last     uint64 // sequence appended
	bytes    int64  // of content written by fronts and not stored: debt
	passed   int64  // of content read by a pass and not stored
	err      error

	toBuild, toSend chan struct{} // of capacity 1: there is something to do
	toPass          chan struct{} // of capacity 1: passed has become less
	failed          atomic.Bool   // err is set
	frames          atomic.Int64  // handed to the journal
}

// item is what takes one place in the stream.
type item struct {
	frame  *openFrame // not built yet
	span   trace.SpanContext
	event  events.Event // nil with frame == nil: takes no place, but its turn
	buf    []byte       // of full size, that event's payload is in; nil where it isn't
	credit int64
	live   bool
	bytes  int64
	passed int64
	opened time.Time
	seq    uint64        // valid behind done
	err    error         // valid behind done
	done   chan struct{} // nil where nobody waits
}

func newPipeline(o Options, s *share) *pipeline {
	p := &pipeline{
		journal: o.Journal, share: s, frameBytes: o.FrameBytes, linger: o.Linger,
		compressor: compressor{on: o.Compress},
		toBuild:    make(chan struct{}, 1), toSend: make(chan struct{}, 1), toPass: make(chan struct{}, 1),
	}
	p.room.L = &p.mu
	p.timer = time.AfterFunc(time.Hour, p.lingered)
	p.timer.Stop()
	return p
}

// append puts an operation with its data (at most frameBytes) behind the others. The credit is the
// pipeline's from here on. Data is copied.
func (p *pipeline) append(op events.Op, data []byte, credit int64, live bool) error {
	p.mu.Lock()
	spare, err := p.place(op, data, credit, live)
	p.mu.Unlock()
	p.share.release(spare)
	return err
}

func (p *pipeline) place(op events.Op, data []byte, credit int64, live bool) (spare int64, err error) {
	for {
		if p.err != nil {
			return credit, p.err
		}
		f := p.open
		if f == nil || f.content == nil && len(data) > 0 {
			var buf []byte
			if len(data) > 0 {
				if buf = p.buffer(); buf == nil {
					p.room.Wait()
					continue
				}
			}
			if f == nil {
				f = p.begin()
			}
			f.content = buf
		}
		if f.rewrite(op, data) {
			f.live = f.live || live
			return credit, nil
		}
		if len(f.content)+len(data) > p.frameBytes || len(f.ops) >= maxOps {
			p.close()
			continue
		}
		if f.extend(op, data) {
			spare = credit - int64(len(data))
		} else {
			f.add(op, data)
		}
		f.credit += credit - spare
		if live {
			f.live = true
			f.bytes += int64(len(data))
			p.bytes += int64(len(data))
		} else {
			f.passed += int64(len(data))
			p.passed += int64(len(data))
		}
		if len(f.content) == p.frameBytes || len(f.ops) >= maxOps {
			p.close()
		}
		return spare, nil
	}
}

// buffer returns an empty full-size buffer, or nil where all are in use.
func (p *pipeline) buffer() []byte {
	if n := len(p.buffers); n > 0 {
		b := p.buffers[n-1]
		p.buffers = p.buffers[:n-1]
		return b
	}
	if p.made == frameBuffers {
		return nil
	}
	p.made++
	return make([]byte, 0, p.frameBytes)
}

// spare is a full-size buffer for one that went on to the journal.
func (p *pipeline) spare() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.spares); n > 0 {
		b := p.spares[n-1]
		p.spares = p.spares[:n-1]
		return b
	}
	return make([]byte, 0, p.frameBytes)
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
	p.building.push(it)
	signal(p.toBuild)
}

// put closes the open frame and gives e the place behind it. A nil event takes no place: it is done
// when everything before it was appended, with the sequence of the last one.
func (p *pipeline) put(e events.Event, credit int64) (*item, error) {
	return p.enqueue(&item{event: e, credit: credit, done: make(chan struct{})})
}

// mark is put for a mark, which keeps the trace context of who asked for it.
func (p *pipeline) mark(ctx context.Context, m *events.Mark) (*item, error) {
	return p.enqueue(&item{event: m, span: trace.SpanContextFromContext(ctx), done: make(chan struct{})})
}

func (p *pipeline) enqueue(it *item) (*item, error) {
	p.mu.Lock()
	if err := p.err; err != nil {
		p.mu.Unlock()
		p.share.release(it.credit)
		return nil, err
	}
	p.close()
	p.push(it)
	p.mu.Unlock()
	return it, nil
}

// wait returns the sequence of it once it is stored.
func (p *pipeline) wait(ctx context.Context, it *item) (uint64, error) {
	select {
	case <-it.done:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if it.err != nil {
		return 0, it.err
	}
	if it.seq == 0 {
		return 0, nil
	}
	return it.seq, p.journal.WaitStored(ctx, it.seq)
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
		p.ready.push(it)
		p.mu.Unlock()
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
	buf := f.content
	if len(content) > 0 && e.Compression == events.Uncompressed {
		if len(content) > p.frameBytes*3/4 {
			it.buf, buf = buf, p.spare() // the old one goes on to the journal
		} else {
			e.Payload = append(make([]byte, 0, len(content)), content...)
		}
	}
	if len(content) == 0 {
		e.Payload = nil
	}
	spare := max(0, it.credit-int64(len(e.Payload)+opCost*len(ops)))
	it.event, it.frame = e, nil
	it.credit -= spare
	if buf != nil {
		p.mu.Lock()
		p.buffers = append(p.buffers, buf[:0])
		p.mu.Unlock()
		p.room.Broadcast()
	}
	p.share.release(spare)
	return nil
}

// send appends to the journal in order until ctx ends. An error is final.
func (p *pipeline) send(ctx context.Context) error {
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
			if seq, err = p.journal.Append(trace.ContextWithSpanContext(ctx, it.span), it.event); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			if it.event.Kind() == events.KindFrame {
				p.frames.Add(1)
			}
		}
		p.appended(it, seq)
	}
}

func (p *pipeline) appended(it *item, seq uint64) {
	stored := p.journal.Stored()
	p.mu.Lock()
	p.ready.busy = nil
	if seq != 0 {
		p.last = seq
	}
	if it.buf != nil && len(p.spares) < frameBuffers {
		p.spares = append(p.spares, it.buf[:0])
	}
	it.seq, it.event, it.buf = p.last, nil, nil
	p.sent.push(it)
	credit := p.settle(stored)
	p.mu.Unlock()
	p.share.release(credit)
	if it.done != nil {
		close(it.done)
	}
}

// storedTo notes that everything up to seq is stored.
func (p *pipeline) storedTo(seq uint64) {
	p.mu.Lock()
	credit := p.settle(seq)
	p.mu.Unlock()
	p.share.release(credit)
}

// settle lets go of what is stored and returns its credit.
func (p *pipeline) settle(seq uint64) (credit int64) {
	p.stored = max(p.stored, seq)
	for {
		it, ok := p.sent.peek()
		if !ok || it.seq > p.stored {
			return credit
		}
		p.sent.pop()
		credit += it.credit
		p.bytes -= it.bytes
		if it.passed > 0 {
			p.passed -= it.passed
			signal(p.toPass)
		}
	}
}

// stop lets nothing in any more; err is everybody's answer.
func (p *pipeline) stop(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return
	}
	p.err = err
	p.failed.Store(true)
	p.timer.Stop()
	p.share.fail(err)
	p.room.Broadcast()
}

// discard drops what is in a pipeline that was stopped and that nobody works on any more.
func (p *pipeline) discard() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.close()
	for _, q := range []*queue[*item]{&p.building, &p.ready, &p.sent} {
		for it := range q.all() {
			p.share.release(it.credit)
			if it.done != nil && q != &p.sent {
				it.err = p.err
				close(it.done)
			}
		}
		*q = queue[*item]{}
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

// failure is the error that fail was called with, or nil.
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
