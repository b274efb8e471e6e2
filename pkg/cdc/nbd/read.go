package nbd

import (
	"context"
	"encoding/binary"

	"github.com/farshore/farshore/pkg/cdc"
)

// workRead works on a read in flight.
func (c *conn) workRead(ctx context.Context, q request) {
	switch {
	case q.length <= maxInline:
		c.readSmall(ctx, q)
	case !c.structured || q.flags&cmdFlagDF != 0:
		c.readWhole(ctx, q)
	default:
		c.readPieces(ctx, q)
	}
}

func (c *conn) readSmall(ctx context.Context, q request) {
	b := c.room(ctx, q, c.dataHead()+int(q.length))
	if b == nil {
		return
	}
	defer c.v.mem.giveBack(b)
	t := c.reads.begin()
	reply := c.readReply(q, b.b[:c.dataHead()+int(q.length)])
	c.reads.end(t)
	c.send(reply)
}

// room borrows a buffer for the data of a read. Where it is nil the read is answered.
func (c *conn) room(ctx context.Context, q request, n int) *buffer {
	b, err := c.v.mem.borrow(ctx, outgoing, n)
	if err != nil {
		c.send(c.appendReply(nil, q, eShutdown))
		return nil
	}
	return b
}

// readWhole answers in one chunk. An error behind the first MaxOutgoing bytes ends the connection, since such a
// reply has no room for one.
func (c *conn) readWhole(ctx context.Context, q request) {
	off, end := int64(q.offset), int64(q.offset)+int64(q.length)
	head := c.appendDataHead(make([]byte, 0, maxReply), q, chunkDone, off, int(q.length))
	if c.resident(off, end-off) {
		c.v.metrics.count(q, ok)
		c.writeFile(head, off, end-off)
		return
	}
	n := min(end-off, MaxOutgoing)
	b := c.room(ctx, q, int(n))
	if b == nil {
		return
	}
	defer c.v.mem.giveBack(b)
	if _, err := c.export.ReadAt(b.b[:n], off); err != nil {
		c.send(c.appendReply(nil, q, readErrno(err)))
		return
	}
	c.v.metrics.count(q, ok)
	c.writing.Lock()
	defer c.writing.Unlock()
	err := c.writeLocked(head, b.b[:n])
	for off += n; off < end && err == nil; off += n {
		n = min(end-off, MaxOutgoing)
		if _, err = c.export.ReadAt(b.b[:n], off); err == nil {
			err = c.writeLocked(b.b[:n])
		} else {
			c.v.o.Log.Warn("read failed behind the beginning of its reply; the connection is closed",
				"export", c.entry.name, "offset", off, "error", err)
			c.nc.Close() // this also wakes the leader
		}
	}
}

// readPieces answers in chunks of data and holes.
func (c *conn) readPieces(ctx context.Context, q request) {
	off, end := int64(q.offset), int64(q.offset)+int64(q.length)
	var segments []cdc.Segment
	if q.length >= holesFrom {
		segments, _ = c.export.Segments(off, int64(q.length)) // without, it is all data
	}
	var b *buffer
	defer func() { c.v.mem.giveBack(b) }()
	head := make([]byte, 0, maxReply)
	for off < end {
		n, zero := piece(&segments, off, end)
		cached := !zero && c.resident(off, min(n, filePiece))
		switch {
		case cached:
			n = min(n, filePiece)
		case !zero:
			n = min(n, readPiece) // pieces that stay in the processor's cache are faster than one
			if b == nil {
				if b = c.room(ctx, q, int(min(int64(q.length), readPiece))); b == nil {
					return
				}
			}
		}
		flags := uint16(0)
		if off+n == end {
			flags = chunkDone
			c.v.metrics.count(q, ok)
		}
		var err error
		switch {
		case zero:
			head = appendChunk(head[:0], flags, chunkOffsetHole, q.cookie, 12)
			head = binary.BigEndian.AppendUint64(head, uint64(off))
			err = c.write(binary.BigEndian.AppendUint32(head, uint32(n)))
		case cached:
			head = c.appendDataHead(head[:0], q, flags, off, int(n))
			err = c.writeFile(head, off, n)
		default:
			if _, failed := c.export.ReadAt(b.b[:n], off); failed != nil {
				e := readErrno(failed)
				c.v.metrics.count(q, e)
				c.send(appendErrorOffsetChunk(head[:0], chunkDone, q.cookie, e, uint64(off)))
				return
			}
			head = c.appendDataHead(head[:0], q, flags, off, int(n))
			err = c.write(head, b.b[:n])
		}
		if err != nil {
			return
		}
		off += n
	}
}

// readErrno is errnoOf without what the protocol doesn't have for reads.
func readErrno(err error) errno {
	if e := errnoOf(err); e != eNotSup && e != ok {
		return e
	}
	return eIO
}

// piece tells how far what begins at off reaches, and whether it reads as zeros. It drops segments
// that are behind off.
func piece(segments *[]cdc.Segment, off, end int64) (n int64, zero bool) {
	s := *segments
	for len(s) > 0 && s[0].Offset+s[0].Length <= off {
		s = s[1:]
	}
	*segments = s
	if len(s) == 0 {
		return end - off, false
	}
	if s[0].Offset > off {
		return min(s[0].Offset, end) - off, false
	}
	return min(s[0].Offset+s[0].Length, end) - off, s[0].Zero
}

// status answers a block status request. It may describe less than was asked about.
func (c *conn) status(q request) []byte {
	off, end := int64(q.offset), int64(q.offset)+int64(q.length)
	limit := maxExtents
	if q.flags&cmdFlagReqOne != 0 {
		limit = 1
	}
	b := make([]byte, chunkHeaderSize+4, 256)
	extents, length, last := 0, uint32(0), uint32(0)
	for off < end && extents <= limit {
		stop := min(end, off+statusStep)
		segments, err := c.export.Segments(off, stop-off)
		if err != nil && extents == 0 {
			return c.appendReply(nil, q, readErrno(err))
		}
		for off < stop && extents <= limit {
			n, _ := piece(&segments, off, stop)
			state := uint32(0)
			if len(segments) > 0 && segments[0].Offset <= off {
				state = stateOf(segments[0])
			}
			off += n
			if extents > 0 && state == last {
				length += uint32(n)
				continue
			}
			if extents > 0 {
				b = binary.BigEndian.AppendUint32(b, length)
				b = binary.BigEndian.AppendUint32(b, last)
			}
			extents, length, last = extents+1, uint32(n), state
		}
	}
	if extents <= limit {
		b = binary.BigEndian.AppendUint32(b, length)
		b = binary.BigEndian.AppendUint32(b, last)
	}
	c.v.metrics.count(q, ok)
	appendChunk(b[:0], chunkDone, chunkBlockStatus, q.cookie, len(b)-chunkHeaderSize)
	binary.BigEndian.PutUint32(b[chunkHeaderSize:], allocationID)
	return b
}

func stateOf(s cdc.Segment) (state uint32) {
	if s.Hole {
		state |= stateHole
	}
	if s.Zero {
		state |= stateZero
	}
	return state
}
