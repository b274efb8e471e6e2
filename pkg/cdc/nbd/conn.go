package nbd

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// maxInFlight bounds the requests of one connection that are being worked on outside of its
// leader. A connection with more isn't read from until one is done.
const maxInFlight = 64

var (
	errDisconnect = errors.New("client disconnected")        // as the protocol wants it
	errMagic      = errors.New("request with a wrong magic") // what follows can't be understood
	errTooLong    = errors.New("write request is far too long")
	errLeft       = errors.New("another leader has taken over")
)

// conn is a connection. It is served by one leader at a time and by goroutines that work on
// requests.
type conn struct {
	v  *service
	nc net.Conn // replaced by the handshake if TLS is used

	// What the handshake agreed on.
	entry
	size       int64
	structured bool
	allocation bool

	raw     syscall.RawConn // nil if nc has none
	leader  atomic.Pointer[leader]
	follow  func(*leader)  // starts a leader's successor
	slots   chan struct{}  // one token per request in flight
	ops     sync.WaitGroup // requests in flight
	cancel  context.CancelFunc
	ended   chan struct{}
	closing atomic.Bool // no further request is begun

	reads, writes pace

	writing sync.Mutex // who has it may write to nc

	pendMu  sync.Mutex
	pend    []byte // replies of requests in flight, to be written by who is writing them
	spare   []byte
	pending bool // somebody is writing them
}

func newConn(v *service, nc net.Conn) *conn {
	return &conn{v: v, nc: nc, slots: make(chan struct{}, maxInFlight), ended: make(chan struct{})}
}

// serve does everything from the handshake to the end of the connection. Requests are worked on
// under ctx.
func (c *conn) serve(ctx context.Context) {
	log := c.v.o.Log.With("remote", c.nc.RemoteAddr().String())
	tcp := c.nc
	defer tcp.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.cancel = cancel
	rest, err := c.handshake(ctx)
	if err != nil {
		if !errors.Is(err, errDone) && !errors.Is(err, io.EOF) && !c.closing.Load() {
			log.Warn("NBD handshake failed", "error", err)
		}
		return
	}
	log = log.With("export", c.entry.name)
	log.Debug("NBD export opened")
	c.follow = func(l *leader) { go c.lead(ctx, l) }
	l := newLeader(c, rest, nil)
	c.leader.Store(l)
	c.v.watch.add(c)
	c.lead(ctx, l)
	<-c.ended
	log.Debug("NBD export closed")
}

// handshake returns what the client sent after it.
func (c *conn) handshake(ctx context.Context) ([]byte, error) {
	h := &handshake{s: c.v.Server, conn: c.nc, in: bufio.NewReaderSize(c.nc, handshakeRoom), plain: c.v.plain}
	tcp := c.nc
	c.deadline(time.Now().Add(c.v.o.HandshakeTimeout))
	if err := h.run(ctx); err != nil {
		return nil, err
	}
	c.v.mu.Lock() // shutDown and end use nc
	c.nc = h.conn
	c.v.mu.Unlock()
	if sc, is := tcp.(syscall.Conn); is && !h.secure {
		c.raw, _ = sc.SyscallConn() // nil on error: reads go through nc
	}
	c.entry, c.size, c.structured, c.allocation = h.chosen, h.chosen.export.Size(), h.structured, h.allocation != nil
	c.deadline(time.Time{})
	return h.in.Peek(h.in.Buffered())
}

// deadline sets one unless the connection is being shut down, which has set its own.
func (c *conn) deadline(t time.Time) {
	c.v.mu.Lock()
	defer c.v.mu.Unlock()
	if !c.closing.Load() {
		c.nc.SetDeadline(t)
	}
}

// shutDown makes the leader stop reading. The service's lock is held.
func (c *conn) shutDown() {
	c.closing.Store(true)
	c.nc.SetReadDeadline(time.Unix(1, 0))
}

// end is called by the last leader when it stops.
func (c *conn) end(l *leader, err error) {
	c.v.watch.remove(c) // no successor from here on
	soft := errors.Is(err, errDisconnect) || errors.Is(err, os.ErrDeadlineExceeded)
	if !soft {
		c.cancel() // nobody is there to be answered
		if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, syscall.ECONNRESET) {
			c.v.o.Log.Warn("NBD connection closed", "export", c.entry.name, "error", err)
		}
	}
	c.nc.SetWriteDeadline(time.Now().Add(c.v.o.Grace)) // a client that left may not be reading any more
	l.flush()                                          // an error closed the connection
	c.ops.Wait()
	c.nc.Close()
	close(c.ended)
}

// write sends replies, whole.
func (c *conn) write(parts ...[]byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	var err error
	if len(parts) == 1 {
		_, err = c.nc.Write(parts[0])
	} else {
		b := net.Buffers(parts)
		_, err = b.WriteTo(c.nc)
	}
	if err != nil {
		c.nc.Close() // half a reply may be out; this also wakes the leader
	}
	return err
}

// send queues a small reply. Whoever finds nobody sending sends them all.
func (c *conn) send(b []byte) {
	c.pendMu.Lock()
	c.pend = append(c.pend, b...)
	if c.pending {
		c.pendMu.Unlock()
		return
	}
	c.pending = true
	for len(c.pend) > 0 {
		batch := c.pend
		c.pend = c.spare[:0]
		c.pendMu.Unlock()
		err := c.write(batch)
		c.pendMu.Lock()
		c.spare = batch
		if err != nil {
			c.pend = c.pend[:0]
		}
	}
	c.pending = false
	c.pendMu.Unlock()
}

// slowOp and fastOp are when requests of a kind cease to be worked on by the leader, and when they
// are again.
const (
	slowOp = 60 * time.Microsecond
	fastOp = 20 * time.Microsecond
	sample = 8 // one request in so many is timed
)

// pace tells whether requests of a kind are slow: whether they wait for something.
type pace struct {
	n    atomic.Uint32
	mean atomic.Int64 // ns
	slow atomic.Bool
}

// begin returns the time, or zero for a request that isn't timed.
func (p *pace) begin() time.Time {
	if p.n.Add(1)%sample != 0 {
		return time.Time{}
	}
	return time.Now()
}

func (p *pace) end(t time.Time) {
	if t.IsZero() {
		return
	}
	// Concurrent updates may lose one; that does no harm. One odd value is bounded.
	d := min(time.Since(t), 4*slowOp)
	m := p.mean.Load()
	m += (int64(d) - m) / 8
	p.mean.Store(m)
	switch {
	case m > int64(slowOp):
		p.slow.Store(true)
	case m < int64(fastOp):
		p.slow.Store(false)
	}
}
