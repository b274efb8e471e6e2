package nbd

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"syscall"
)

const (
	inRoom    = 128 << 10 // read buffer
	outRoom   = 128 << 10 // replies collected
	maxInline = 32 << 10  // bytes of a request that the leader works on itself
	maxSkip   = 2 * MaxRequest
)

// States of a leader: a number that rises with everything it begins, times two, plus busy.
const (
	busy uint64 = 1
	left uint64 = 1<<64 - 1
)

// leader reads a connection. It works on small requests itself and collects the replies until
// there is nothing more to read: a goroutine switch and two system calls per request saved. For the
// time of a call that may block it is busy; when that takes longer than a tick, the watch has a
// successor go on with a copy of the input that is left, and the replies collected. The one left behind
// finishes its call, sends its reply and ends. So a write that waits for a barrier, or a reply
// that the client doesn't take, delays no other request.
type leader struct {
	c     *conn
	state atomic.Uint64
	n     uint64 // what has begun, as in state without busy

	// Not touched while busy: a successor reads them.
	in       *buffer // nil while there is no input
	r, w     int     // input not used yet: in.b[r:w]
	out      []byte  // replies not sent yet
	flushing bool    // the call is the sending of out

	large  *large  // a write whose payload is being received, if any
	outBuf *buffer // what out lies in, if it is this leader's alone
	fill   func(fd uintptr) bool
	got    int   // what fill read
	err    error // of fill
}

// newLeader returns one with input that was read before, and replies to send first, which it
// doesn't write to.
func newLeader(c *conn, input, replies []byte) *leader {
	l := &leader{c: c, out: replies[:len(replies):len(replies)]}
	l.fill = l.readReady
	if len(input) > 0 {
		l.in = c.v.mem.get(inRoom)
		l.w = copy(l.in.b, input)
	}
	return l
}

// lead lets l read the connection; it returns when l is done with it.
func (c *conn) lead(ctx context.Context, l *leader) {
	err := l.flush()
	for err == nil {
		err = l.request(ctx)
	}
	if errors.Is(err, errLeft) {
		c.v.mem.put(l.in)
		return // what out lies in is left to the collector: a successor may be reading it
	}
	c.end(l, err)
	c.v.mem.put(l.in)
	c.v.mem.put(l.outBuf)
}

// begin makes l busy.
func (l *leader) begin() {
	l.n++
	l.state.Store(l.n<<1 | busy)
	l.c.v.watch.rouse()
}

// end is false if there is a successor: then abandon is to be called, and nothing else.
func (l *leader) end() bool {
	return l.state.CompareAndSwap(l.n<<1|busy, l.n<<1)
}

// abandon ends the life of a leader that has a successor.
func (l *leader) abandon(reply []byte) error {
	l.c.v.watch.settle()
	if len(reply) > 0 {
		l.c.send(reply)
	}
	l.c.release()
	return errLeft
}

// succeed has another leader take over from l if l is still in the state given. The watch's lock
// is held.
func (l *leader) succeed(state uint64) {
	c := l.c
	select {
	case c.slots <- struct{}{}:
	default:
		return // as many requests are in flight as may be
	}
	c.ops.Add(1)
	if !l.state.CompareAndSwap(state, left) {
		c.release()
		return
	}
	var input, replies []byte
	if l.in != nil {
		input = l.in.b[l.r:l.w]
	}
	large := l.large
	if !l.flushing {
		replies, large = l.out, large.leave()
	}
	next := newLeader(c, input, replies)
	next.large = large
	c.leader.Store(next)
	c.follow(next)
}

// flush sends the replies collected.
func (l *leader) flush() error {
	if len(l.out) == 0 {
		return nil
	}
	l.flushing = true
	l.begin()
	err := l.c.write(l.out)
	if !l.end() {
		return l.abandon(nil)
	}
	l.flushing = false
	l.out = l.out[:0]
	return err
}

// space makes room for n more bytes of replies.
func (l *leader) space(n int) error {
	if cap(l.out)-len(l.out) >= n {
		return nil
	}
	if err := l.flush(); err != nil {
		return err
	}
	if l.outBuf == nil {
		l.outBuf = l.c.v.mem.get(outRoom)
	}
	l.out = l.outBuf.b[:0]
	return nil
}

// need reads until there are n bytes of input, n being less than half of inRoom.
func (l *leader) need(n int) error {
	for l.w-l.r < n {
		if err := l.flush(); err != nil {
			return err
		}
		if err := l.read(); err != nil {
			return err
		}
	}
	return nil
}

// read reads once.
func (l *leader) read() error {
	switch {
	case l.r == l.w:
		l.r, l.w = 0, 0
	case l.r > inRoom/2:
		l.w = copy(l.in.b, l.in.b[l.r:l.w])
		l.r = 0
	}
	if l.c.raw == nil {
		if l.in == nil {
			l.in = l.c.v.mem.get(inRoom)
		}
		n, err := l.c.nc.Read(l.in.b[l.w:])
		if l.w += n; n > 0 {
			return nil
		}
		return err
	}
	if err := l.c.raw.Read(l.fill); err != nil {
		return err
	}
	if l.got <= 0 {
		if l.err != nil {
			return l.err
		}
		return io.EOF
	}
	l.w += l.got
	return nil
}

// readReady reads from a descriptor that doesn't block. It is false if there was nothing: the
// buffers are then given up until there is something.
func (l *leader) readReady(fd uintptr) bool {
	mem := l.c.v.mem
	if l.in == nil {
		l.in = mem.get(inRoom)
	}
	for {
		l.got, l.err = syscall.Read(int(fd), l.in.b[l.w:])
		if !errors.Is(l.err, syscall.EINTR) {
			break
		}
	}
	if !errors.Is(l.err, syscall.EAGAIN) {
		return true
	}
	if l.w == 0 {
		mem.put(l.in)
		l.in = nil
	}
	if len(l.out) == 0 && l.outBuf != nil {
		mem.put(l.outBuf)
		l.outBuf, l.out = nil, nil
	}
	return false
}

// request handles the next one.
func (l *leader) request(ctx context.Context) error {
	if l.large != nil {
		return l.piece(ctx)
	}
	if err := l.need(requestSize); err != nil {
		return err
	}
	c := l.c
	q, valid := parseRequest(l.in.b[l.r:])
	if !valid {
		return errMagic
	}
	e := c.check(q)
	switch {
	case q.cmd == cmdDisc:
		return errDisconnect
	case q.cmd == cmdWrite && e != ok:
		return l.refuseWrite(q, e)
	case q.cmd == cmdWrite && c.inline(q):
		return l.write(ctx, q)
	case q.cmd == cmdWrite && inPieces(q):
		l.r += requestSize
		l.large = newLarge(q)
		return nil
	case e != ok:
		if err := l.space(maxReply); err != nil {
			return err
		}
		l.r += requestSize
		l.out = c.appendReply(l.out, q, e)
		return nil
	case q.cmd == cmdRead && c.inline(q):
		return l.readInline(q)
	case c.inline(q):
		return l.perform(ctx, q)
	}
	return l.hand(ctx, q)
}

// write works on a write here, straight from the read buffer.
func (l *leader) write(ctx context.Context, q request) error {
	n := int(q.length)
	if err := l.need(requestSize + n); err != nil {
		return err
	}
	if err := l.space(maxReply); err != nil {
		return err
	}
	p := l.in.b[l.r+requestSize:][:n:n]
	l.r += requestSize + n
	t := l.c.writes.begin()
	l.begin()
	e := l.c.perform(ctx, q, p)
	l.c.writes.end(t)
	return l.finish(q, e)
}

// perform works on a request without payload here.
func (l *leader) perform(ctx context.Context, q request) error {
	if err := l.space(maxReply); err != nil {
		return err
	}
	l.r += requestSize
	l.begin()
	return l.finish(q, l.c.perform(ctx, q, nil))
}

// finish answers a request worked on here.
func (l *leader) finish(q request, e errno) error {
	if !l.end() {
		return l.abandon(l.c.appendReply(nil, q, e))
	}
	l.out = l.c.appendReply(l.out, q, e)
	return nil
}

// readInline works on a read here, straight into the replies.
func (l *leader) readInline(q request) error {
	c := l.c
	head, n := c.dataHead(), int(q.length)
	if err := l.space(head + n); err != nil {
		return err
	}
	l.r += requestSize
	b := l.out[len(l.out):][:head+n]
	t := c.reads.begin()
	l.begin()
	reply := c.readReply(q, b)
	c.reads.end(t)
	if !l.end() {
		return l.abandon(reply)
	}
	l.out = l.out[:len(l.out)+len(reply)]
	return nil
}

// hand gives a request to a goroutine of its own, when its payload is received.
func (l *leader) hand(ctx context.Context, q request) error {
	if err := l.flush(); err != nil { // what follows may wait
		return err
	}
	c := l.c
	c.slots <- struct{}{}
	c.ops.Add(1)
	l.r += requestSize
	if q.cmd != cmdWrite {
		go c.work(ctx, q, nil)
		return nil
	}
	b, err := c.v.mem.borrow(ctx, incoming, int(q.length))
	if err == nil {
		err = l.receive(b.b[:q.length])
	}
	if err != nil {
		c.v.mem.giveBack(b)
		c.release()
		return err
	}
	go c.work(ctx, q, b)
	return nil
}

// receive fills p.
func (l *leader) receive(p []byte) error {
	n := 0
	if l.in != nil {
		n = copy(p, l.in.b[l.r:l.w])
		l.r += n
	}
	if n == len(p) {
		return nil
	}
	_, err := io.ReadFull(l.c.nc, p[n:])
	return err
}

// refuseWrite reads past the payload, so that the next request can be found.
func (l *leader) refuseWrite(q request, e errno) error {
	if q.length > maxSkip {
		return errTooLong
	}
	if err := l.flush(); err != nil {
		return err
	}
	l.r += requestSize
	for n := int(q.length); ; {
		have := min(n, l.w-l.r)
		l.r += have
		if n -= have; n == 0 {
			break
		}
		if err := l.read(); err != nil {
			return err
		}
	}
	if err := l.space(maxReply); err != nil {
		return err
	}
	l.out = l.c.appendReply(l.out, q, e)
	return nil
}
