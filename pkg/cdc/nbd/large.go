package nbd

import (
	"context"
	"sync/atomic"
)

// writePiece is how much of a large write is stored at once, in bytes: little enough to be in the processor's
// cache then.
const writePiece = MaxIncoming

// large is a write whose payload isn't kept until all of it is there, but stored piece by piece as it arrives. That
// takes little memory, and is faster than a buffer and a goroutine for each request as long as the export
// is fast. Where it isn't, pieces are stored concurrently. A client that goes away in between leaves the beginning of
// a write that it was never told to be done.
type large struct {
	q        request
	received int64         // bytes whose call has begun
	held     atomic.Int32  // by the leader that receives, by calls that were left behind, and by concurrent ones
	failed   atomic.Uint32 // the first error
}

func newLarge(q request) *large {
	w := &large{q: q}
	w.held.Store(1)
	return w
}

// inPieces tells whether a write is done so: not if it is as small as a piece and durable, since that is one call then.
func inPieces(q request) bool {
	return q.length > writePiece || q.length > maxInline && q.flags&cmdFlagFUA == 0
}

// leave is called when the call of a piece is left behind; it returns what the successor goes on with.
func (w *large) leave() *large {
	if w == nil || w.received == int64(w.q.length) {
		return nil // the call left behind is the last
	}
	w.held.Add(1)
	return w
}

// done ends a hold. It is true for the last one: then the write is to be answered.
func (w *large) done(e errno) bool {
	w.fail(e)
	return w.held.Add(-1) == 0
}

func (w *large) fail(e errno) {
	if e != ok {
		w.failed.CompareAndSwap(uint32(ok), uint32(e))
	}
}

func (w *large) errno() errno { return errno(w.failed.Load()) }

// piece receives the next piece of a large write and stores it, or has it stored.
func (l *leader) piece(ctx context.Context) error {
	c, w := l.c, l.large
	if err := l.flush(); err != nil { // what follows may wait
		return err
	}
	if err := l.space(maxReply); err != nil {
		return err
	}
	n := min(writePiece, int64(w.q.length)-w.received)
	b, err := c.v.mem.borrow(ctx, incoming, int(n))
	if err != nil {
		return err
	}
	if err := l.receive(b.b[:n]); err != nil {
		c.v.mem.giveBack(b)
		return err
	}
	part := request{cmd: cmdWrite, offset: w.q.offset + uint64(w.received), length: uint32(n)}
	w.received += n
	switch {
	case w.errno() != ok: // the rest is only read past
		c.v.mem.giveBack(b)
	case c.pieces.slow.Load():
		c.slots <- struct{}{}
		c.ops.Add(1)
		w.held.Add(1)
		go c.workPiece(ctx, w, part, b)
	default:
		if err := l.store(ctx, part, b); err != nil {
			return err
		}
	}
	if w.received < int64(w.q.length) {
		return nil
	}
	l.large = nil
	if !w.done(ok) {
		return nil
	}
	if w.errno() == ok && w.q.flags&cmdFlagFUA != 0 {
		c.slots <- struct{}{}
		c.ops.Add(1)
		go c.workEnd(ctx, w)
		return nil
	}
	l.out = c.appendReply(l.out, w.q, w.errno())
	return nil
}

// store stores a piece here.
func (l *leader) store(ctx context.Context, part request, b *buffer) error {
	c, w := l.c, l.large
	defer c.v.mem.giveBack(b)
	t := c.pieces.begin()
	l.begin()
	e := c.perform(ctx, part, b.b[:part.length:part.length])
	c.pieces.end(t)
	if l.end() {
		w.fail(e)
		return nil
	}
	if w.done(e) {
		return l.abandon(c.finish(ctx, w))
	}
	return l.abandon(nil)
}

// workPiece stores a piece in flight.
func (c *conn) workPiece(ctx context.Context, w *large, part request, b *buffer) {
	defer c.release()
	t := c.pieces.begin()
	e := c.perform(ctx, part, b.b[:part.length:part.length])
	c.pieces.end(t)
	c.v.mem.giveBack(b)
	if w.done(e) {
		c.send(c.finish(ctx, w))
	}
}

// workEnd ends a durable write in flight.
func (c *conn) workEnd(ctx context.Context, w *large) {
	defer c.release()
	c.send(c.finish(ctx, w))
}

// finish makes a large write durable, if that is wanted, and returns the reply.
func (c *conn) finish(ctx context.Context, w *large) []byte {
	if w.errno() == ok && w.q.flags&cmdFlagFUA != 0 {
		w.fail(c.perform(ctx, request{cmd: cmdFlush}, nil))
	}
	return c.appendReply(make([]byte, 0, maxReply), w.q, w.errno())
}
