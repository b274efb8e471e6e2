package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
)

// call is a request in flight.
type call struct {
	cmd         command
	flags       uint16
	off, length int64
	data        []byte // what to send, or where to put what is received

	done     chan struct{} // closed when err is set
	filling  bool          // the receiver is using data; guarded by Client.mu
	given    bool          // given up: its reply is read past
	err      error
	segments []cdc.Segment
}

// do sends a request and waits for its reply.
func (c *Client) do(ctx context.Context, q *call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	q.done = make(chan struct{})
	select {
	case <-c.sending:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return c.failure()
	}
	cookie, err := c.register(q)
	if err != nil {
		c.sending <- struct{}{}
		return err
	}
	err = c.send(ctx, q, cookie)
	c.sending <- struct{}{}
	if err != nil {
		if !c.forget(cookie) {
			<-q.done
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	select {
	case <-q.done:
		return q.err
	case <-ctx.Done():
	}
	if c.forget(cookie) {
		return ctx.Err()
	}
	<-q.done // the reply is arriving
	return q.err
}

func (c *Client) register(q *call) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	c.cookie++
	c.calls[c.cookie] = q
	return c.cookie, nil
}

// forget drops a call. It is false if the receiver is using the call's memory or has answered.
func (c *Client) forget(cookie uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	q, ok := c.calls[cookie]
	if !ok || q.filling {
		return false
	}
	// The reply is still to come.
	c.calls[cookie] = &call{cmd: q.cmd, off: q.off, length: q.length, given: true, done: make(chan struct{})}
	return true
}

// send writes the request. Half a request can't be taken back: an error closes the connection.
func (c *Client) send(ctx context.Context, q *call, cookie uint64) error {
	c.head = appendRequest(c.head[:0], request{
		flags: q.flags, cmd: q.cmd, cookie: cookie, offset: uint64(q.off), length: uint32(q.length),
	})
	interrupted := make(chan struct{})
	stop := func() bool { return true }
	if ctx.Done() != nil {
		stop = context.AfterFunc(ctx, func() {
			c.conn.SetWriteDeadline(time.Unix(1, 0))
			close(interrupted)
		})
	}
	var err error
	if q.cmd == cmdWrite {
		parts := net.Buffers{c.head, q.data}
		_, err = parts.WriteTo(c.conn)
	} else {
		_, err = c.conn.Write(c.head)
	}
	if !stop() {
		<-interrupted
		c.conn.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		c.fail(fmt.Errorf("%w: send request: %w", ErrClosed, err))
		return c.failure()
	}
	return nil
}

// fail ends the connection for the first reason given.
func (c *Client) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	c.conn.Close()
}

func (c *Client) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// receive reads replies until the connection ends.
func (c *Client) receive() {
	var err error
	for err == nil {
		err = c.reply()
	}
	if errors.Is(err, io.EOF) {
		err = ErrClosed
	} else {
		err = fmt.Errorf("%w: %w", ErrClosed, err)
	}
	c.fail(err)
	err = c.failure()
	c.mu.Lock()
	for cookie, q := range c.calls {
		delete(c.calls, cookie)
		q.err = err
		close(q.done)
	}
	c.mu.Unlock()
	close(c.done)
}

// reply reads one simple reply or one chunk.
func (c *Client) reply() error {
	head, err := c.in.Peek(simpleReplySize)
	if err != nil {
		return err
	}
	switch binary.BigEndian.Uint32(head) {
	case magicSimple:
		e, cookie := errno(binary.BigEndian.Uint32(head[4:])), binary.BigEndian.Uint64(head[8:])
		c.in.Discard(simpleReplySize)
		return c.simple(cookie, e)
	case magicStructured:
		if head, err = c.in.Peek(chunkHeaderSize); err != nil {
			return err
		}
		k := chunk{
			flags:  binary.BigEndian.Uint16(head[4:]),
			kind:   binary.BigEndian.Uint16(head[6:]),
			cookie: binary.BigEndian.Uint64(head[8:]),
			length: binary.BigEndian.Uint32(head[16:]),
		}
		c.in.Discard(chunkHeaderSize)
		return c.chunk(k)
	}
	return fmt.Errorf("reply with magic %#x", binary.BigEndian.Uint32(head))
}

// take finds the call a reply is for and marks it as being filled.
func (c *Client) take(cookie uint64) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q, ok := c.calls[cookie]
	if !ok {
		return nil, fmt.Errorf("reply to request %d, which is not in flight", cookie)
	}
	q.filling = true
	return q, nil
}

func (c *Client) finish(cookie uint64, q *call) {
	c.mu.Lock()
	delete(c.calls, cookie)
	c.mu.Unlock()
	close(q.done)
}

func (c *Client) simple(cookie uint64, e errno) error {
	q, err := c.take(cookie)
	if err != nil {
		return err
	}
	switch {
	case e != ok:
		q.fail(e, "")
	case q.cmd == cmdRead && c.export.structured:
		return errors.New("simple reply to a read after structured replies were agreed on")
	case q.cmd == cmdRead && q.given:
		if _, err := c.in.Discard(int(q.length)); err != nil {
			return err
		}
	case q.cmd == cmdRead:
		if _, err := io.ReadFull(c.in, q.data); err != nil {
			return err
		}
	}
	c.finish(cookie, q)
	return nil
}

func (q *call) fail(e errno, message string) {
	if q.err == nil {
		q.err = &RequestError{Op: q.cmd.String(), Offset: q.off, Length: q.length, Errno: e.system(), Message: message}
	}
}
