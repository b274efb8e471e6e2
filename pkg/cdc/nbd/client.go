package nbd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
)

// ErrClosed means that the connection to the server is gone. What became of requests that had no
// reply yet is unknown.
var ErrClosed = errors.New("connection to the NBD server is closed")

// RequestError is a server's refusal of one request. The connection goes on.
type RequestError struct {
	Op             string
	Offset, Length int64         // bytes
	Errno          syscall.Errno // also what Unwrap returns
	Message        string        // the server's words, if it sent any
}

// Error names the request and what the server said.
func (e *RequestError) Error() string {
	s := fmt.Sprintf("%s %d bytes at %d: %v", e.Op, e.Length, e.Offset, e.Errno)
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// Unwrap returns the error number.
func (e *RequestError) Unwrap() error { return e.Errno }

// Client is one connection to an NBD server. Its methods may be called concurrently, and calls
// are in flight concurrently. A call whose context ends returns at once with the context's error;
// what becomes of its request is then unknown. Where that leaves half a request sent, the
// connection is closed.
type Client struct {
	conn   net.Conn
	in     *bufio.Reader
	export exportInfo

	sending chan struct{} // holds one token; who has it may write to conn
	head    []byte        // of the request being sent

	mu     sync.Mutex
	calls  map[uint64]*call
	cookie uint64
	err    error         // why the connection ended
	done   chan struct{} // closed when the receiver has ended
}

// exportInfo is what the handshake tells about an export.
type exportInfo struct {
	size        int64
	flags       uint16
	structured  bool
	allocation  bool   // base:allocation was agreed on
	context     uint32 // its number
	minBlock    uint32
	preferred   uint32
	maxRequest  uint32
	description string
}

// Dial connects to the server at a network address ("unix" and a path, usually) and opens an
// export. The context bounds the dialling and the handshake.
func Dial(ctx context.Context, network, address, export string) (*Client, error) {
	return dial(ctx, network, address, export, nil)
}

// DialTLS is Dial for a server that wants TLS. The server's name is taken from the address unless
// the configuration has one.
func DialTLS(ctx context.Context, network, address, export string, config *tls.Config) (*Client, error) {
	config = config.Clone()
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("dial %s: %w", address, err)
		}
		config.ServerName = host
	}
	return dial(ctx, network, address, export, config)
}

func dial(ctx context.Context, network, address, export string, config *tls.Config) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("dial NBD server: %w", err)
	}
	c, err := newClient(ctx, conn, export, config)
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("open export %q at %s: %w", export, address, err)
	}
	return c, nil
}

// newClient does the handshake on conn.
func newClient(ctx context.Context, conn net.Conn, export string, config *tls.Config) (*Client, error) {
	past := time.Unix(1, 0)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(past) })
	h := &clientHandshake{conn: conn, in: bufio.NewReaderSize(conn, 64<<10)}
	info, err := h.run(ctx, export, config)
	if !stop() {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	c := &Client{
		conn: h.conn, in: h.in, export: info,
		sending: make(chan struct{}, 1),
		calls:   map[uint64]*call{},
		done:    make(chan struct{}),
	}
	c.sending <- struct{}{}
	go c.receive()
	return c, nil
}

// Size is the export's size in bytes.
func (c *Client) Size() int64 { return c.export.size }

// ReadOnly tells whether the export refuses mutations.
func (c *Client) ReadOnly() bool { return c.export.flags&flagReadOnly != 0 }

// Description is what the server says about the export, or empty.
func (c *Client) Description() string { return c.export.description }

// BlockSizes are the smallest and the preferred unit of requests and the largest request, in
// bytes. Larger reads and writes are split by the client.
func (c *Client) BlockSizes() (smallest, preferred, largest int64) {
	return int64(c.export.minBlock), int64(c.export.preferred), int64(c.export.maxRequest)
}

// ReadAt implements io.ReaderAt; see Read.
func (c *Client) ReadAt(p []byte, off int64) (int, error) {
	return c.each(p, off, func(p []byte, off int64) error {
		return c.do(context.Background(), &call{cmd: cmdRead, off: off, length: int64(len(p)), data: p})
	})
}

// Read fills p from off.
func (c *Client) Read(ctx context.Context, p []byte, off int64) error {
	_, err := c.each(p, off, func(p []byte, off int64) error {
		return c.do(ctx, &call{cmd: cmdRead, off: off, length: int64(len(p)), data: p})
	})
	return err
}

// WriteAt implements io.WriterAt; see Write.
func (c *Client) WriteAt(p []byte, off int64) (int, error) {
	return c.each(p, off, func(p []byte, off int64) error {
		return c.do(context.Background(), &call{cmd: cmdWrite, off: off, length: int64(len(p)), data: p})
	})
}

// Write stores p at off. It is durable after the next Flush.
func (c *Client) Write(ctx context.Context, p []byte, off int64) error {
	return c.write(ctx, p, off, 0)
}

// WriteFUA stores p at off, durably.
func (c *Client) WriteFUA(ctx context.Context, p []byte, off int64) error {
	if c.export.flags&flagSendFUA == 0 {
		if err := c.write(ctx, p, off, 0); err != nil {
			return err
		}
		return c.Flush(ctx)
	}
	return c.write(ctx, p, off, cmdFlagFUA)
}

func (c *Client) write(ctx context.Context, p []byte, off int64, flags uint16) error {
	_, err := c.each(p, off, func(p []byte, off int64) error {
		return c.do(ctx, &call{cmd: cmdWrite, flags: flags, off: off, length: int64(len(p)), data: p})
	})
	return err
}

// Flush makes every mutation durable that was acknowledged before it, to any client.
func (c *Client) Flush(ctx context.Context) error {
	if c.export.flags&flagSendFlush == 0 {
		return nil
	}
	return c.do(ctx, &call{cmd: cmdFlush})
}

// Trim gives a range up.
func (c *Client) Trim(ctx context.Context, off, length int64) error {
	return c.ranged(ctx, call{cmd: cmdTrim}, off, length)
}

// Zero makes a range read as zeros.
func (c *Client) Zero(ctx context.Context, off, length int64, o cdc.ZeroOptions) error {
	var flags uint16
	if o.NoHole {
		flags |= cmdFlagNoHole
	}
	if o.Fast {
		flags |= cmdFlagFastZero
	}
	if o.FUA {
		flags |= cmdFlagFUA
	}
	return c.ranged(ctx, call{cmd: cmdWriteZeroes, flags: flags}, off, length)
}

// Cache asks the server to have a range at hand for coming reads.
func (c *Client) Cache(ctx context.Context, off, length int64) error {
	return c.ranged(ctx, call{cmd: cmdCache}, off, length)
}

// Segments tells what a range holds. A server that doesn't know calls it data.
func (c *Client) Segments(ctx context.Context, off, length int64) ([]cdc.Segment, error) {
	if !c.export.allocation {
		return []cdc.Segment{{Offset: off, Length: length}}, nil
	}
	var all []cdc.Segment
	for length > 0 {
		q := &call{cmd: cmdBlockStatus, off: off, length: min(length, 1<<31)}
		if err := c.do(ctx, q); err != nil {
			return all, err
		}
		if len(q.segments) == 0 {
			return all, fmt.Errorf("block status at %d: the server described nothing", off)
		}
		for _, s := range q.segments {
			s.Length = min(s.Length, length)
			if s.Length <= 0 {
				break
			}
			all = append(all, s)
			off += s.Length
			length -= s.Length
		}
	}
	return all, nil
}

// Disconnect tells the server that the client is done, and closes the connection. Call it when
// no other call is in flight. It does not flush.
func (c *Client) Disconnect() error {
	select {
	case <-c.sending:
		c.conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, err := c.conn.Write(appendRequest(nil, request{cmd: cmdDisc}))
		c.sending <- struct{}{}
		if err == nil { // the server closes its side when it has read that
			c.conn.SetReadDeadline(time.Now().Add(time.Second))
			<-c.done
		}
	default:
	}
	return c.Close()
}

// Close closes the connection at once. Calls in flight fail with ErrClosed.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	<-c.done
	return nil
}

// each splits p into requests the server takes.
func (c *Client) each(p []byte, off int64, do func(p []byte, off int64) error) (n int, err error) {
	for n < len(p) {
		part := p[n:min(len(p), n+int(c.export.maxRequest))]
		if err := do(part, off+int64(n)); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// ranged splits a request without payload into lengths that the protocol can express.
func (c *Client) ranged(ctx context.Context, proto call, off, length int64) error {
	for length > 0 {
		q := proto
		q.off, q.length = off, min(length, 1<<31)
		if err := c.do(ctx, &q); err != nil {
			return err
		}
		off, length = off+q.length, length-q.length
	}
	return nil
}
