package nbd

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/farshore/farshore/pkg/cdc"
)

// chunk is the header of a structured reply's chunk.
type chunk struct {
	flags, kind uint16
	cookie      uint64
	length      uint32
}

// chunk reads a chunk's payload.
func (c *Client) chunk(k chunk) error {
	q, err := c.take(k.cookie)
	if err != nil {
		return err
	}
	if q.given || k.kind == chunkNone {
		if k.length > 2*MaxRequest {
			return fmt.Errorf("chunk of %d bytes", k.length)
		}
		_, err = c.in.Discard(int(k.length))
	} else {
		err = c.payload(q, k)
	}
	if err != nil {
		return err
	}
	if k.flags&chunkDone != 0 {
		c.finish(k.cookie, q)
		return nil
	}
	c.mu.Lock()
	q.filling = false
	c.mu.Unlock()
	return nil
}

func (c *Client) payload(q *call, k chunk) error {
	switch {
	case k.kind == chunkOffsetData && q.cmd == cmdRead:
		return c.data(q, k)
	case k.kind == chunkOffsetHole && q.cmd == cmdRead:
		return c.hole(q, k)
	case k.kind == chunkBlockStatus && q.cmd == cmdBlockStatus:
		return c.status(q, k)
	case k.kind&(1<<15) != 0:
		return c.refusal(q, k)
	}
	return fmt.Errorf("chunk of type %d in reply to a %s", k.kind, q.cmd)
}

// within finds the part of a read's memory that a chunk is for.
func (q *call) within(off uint64, length uint32) ([]byte, error) {
	at := int64(off) - q.off
	if at < 0 || at+int64(length) > int64(len(q.data)) {
		return nil, fmt.Errorf("chunk of %d bytes at %d is outside of its request", length, off)
	}
	return q.data[at : at+int64(length)], nil
}

func (c *Client) data(q *call, k chunk) error {
	if k.length < 8 {
		return fmt.Errorf("data chunk of %d bytes", k.length)
	}
	b, err := c.in.Peek(8)
	if err != nil {
		return err
	}
	p, err := q.within(binary.BigEndian.Uint64(b), k.length-8)
	if err != nil {
		return err
	}
	c.in.Discard(8)
	_, err = io.ReadFull(c.in, p)
	return err
}

func (c *Client) hole(q *call, k chunk) error {
	if k.length != 12 {
		return fmt.Errorf("hole chunk of %d bytes", k.length)
	}
	b, err := c.in.Peek(12)
	if err != nil {
		return err
	}
	p, err := q.within(binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:]))
	if err != nil {
		return err
	}
	clear(p)
	c.in.Discard(12)
	return nil
}

func (c *Client) status(q *call, k chunk) error {
	if k.length < 12 || (k.length-4)%8 != 0 || k.length > MaxRequest {
		return fmt.Errorf("block status chunk of %d bytes", k.length)
	}
	b := make([]byte, k.length)
	if _, err := io.ReadFull(c.in, b); err != nil {
		return err
	}
	if binary.BigEndian.Uint32(b) != c.export.context {
		return nil
	}
	off := q.off
	for b = b[4:]; len(b) > 0; b = b[8:] {
		length, state := int64(binary.BigEndian.Uint32(b)), binary.BigEndian.Uint32(b[4:])
		q.segments = append(q.segments, cdc.Segment{
			Offset: off, Length: length, Hole: state&stateHole != 0, Zero: state&stateZero != 0,
		})
		off += length
	}
	return nil
}

func (c *Client) refusal(q *call, k chunk) error {
	if k.length < 6 || k.length > maxName+64 {
		return fmt.Errorf("error chunk of %d bytes", k.length)
	}
	b := make([]byte, k.length)
	if _, err := io.ReadFull(c.in, b); err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	if 6+n > len(b) {
		return fmt.Errorf("error chunk of %d bytes with a message of %d", k.length, n)
	}
	q.fail(errno(binary.BigEndian.Uint32(b)), string(b[6:6+n]))
	return nil
}
