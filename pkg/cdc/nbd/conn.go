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

// sendBuffer is what the system keeps of replies that a client has not taken yet, in bytes. It holds a large read, so
// that server and client don't wait for each other several times in each.
const sendBuffer = 2 << 20

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
	file    syscall.RawConn // nil if the export has none, or raw is nil
	leader  atomic.Pointer[leader]
	follow  func(*leader)  // starts a leader's successor
	slots   chan struct{}  // one token per request in flight
	ops     sync.WaitGroup // requests in flight
	cancel  context.CancelFunc
	ended   chan struct{}
	closing atomic.Bool // no further request is begun

	reads, writes, pieces pace

	writing sync.Mutex // who has it may write to nc

	pendMu  sync.Mutex
	pend    []byte // replies of requests in flight, to be written by who is writing them
	spare   []byte
	pending bool // somebody is writing them
}

func newConn(v *service, nc net.Conn) *conn {
	return &conn{
		v: v, nc: nc, slots: make(chan struct{}, maxInFlight), ended: make(chan struct{}),
		reads: pace{limit: slowOp}, writes: pace{limit: slowOp}, pieces: pace{limit: slowStore},
	}
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
	c.entry, c.size, c.structured, c.allocation = h.chosen, h.size, h.structured, h.allocation != nil
	if u, is := tcp.(*net.UnixConn); is {
		_ = u.SetWriteBuffer(sendBuffer) // it is faster with, and works without
	}
	if f, is := c.export.(filed); is && c.raw != nil {
		c.file = f.Raw()
	}
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
	return c.writeLocked(parts...)
}

// writeLocked is write by who has the lock.
func (c *conn) writeLocked(parts ...[]byte) error {
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
