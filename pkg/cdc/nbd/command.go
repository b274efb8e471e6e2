package nbd

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
)

const (
	maxReply    = 64        // bytes of a reply without data
	readPiece   = 256 << 10 // bytes of a data chunk of a large read
	filePiece   = 1 << 20   // the same, sent from the page cache
	holesFrom   = 64 << 10  // bytes from which on a read looks for holes
	statusStep  = 256 << 20 // bytes asked about at once
	maxExtents  = 8192      // in one block status reply
	mutating    = 1<<cmdWrite | 1<<cmdTrim | 1<<cmdWriteZeroes
	withPayload = 1<<cmdRead | 1<<cmdWrite | 1<<cmdCache // bounded by MaxRequest
)

// knownFlags are the flags that a command may have. FUA means nothing to some, but is allowed.
var knownFlags = [commands]uint16{
	cmdRead:        cmdFlagFUA | cmdFlagDF,
	cmdWrite:       cmdFlagFUA,
	cmdFlush:       cmdFlagFUA,
	cmdTrim:        cmdFlagFUA,
	cmdCache:       cmdFlagFUA,
	cmdWriteZeroes: cmdFlagFUA | cmdFlagNoHole | cmdFlagFastZero,
	cmdBlockStatus: cmdFlagFUA | cmdFlagReqOne,
}

// check decides whether a request may reach the export.
func (c *conn) check(q request) errno {
	switch {
	case c.closing.Load():
		return eShutdown
	case q.cmd >= commands || q.flags&^knownFlags[q.cmd] != 0:
		return eInval
	case q.flags&cmdFlagDF != 0 && !c.structured, q.cmd == cmdBlockStatus && !c.allocation:
		return eInval
	case q.cmd == cmdFlush:
		if q.offset != 0 || q.length != 0 {
			return eInval
		}
		return ok
	case c.readOnly && mutating>>q.cmd&1 != 0:
		return ePerm
	case q.length == 0:
		return eInval
	case q.offset > uint64(c.size) || uint64(q.length) > uint64(c.size)-q.offset:
		if q.cmd == cmdWrite || q.cmd == cmdWriteZeroes {
			return eNoSpace
		}
		return eInval
	case withPayload>>q.cmd&1 != 0 && q.length > MaxRequest:
		if q.cmd == cmdCache {
			return eOverflow
		}
		return eInval
	}
	return ok
}

// inline tells whether the leader works on a request itself: one that is small and doesn't wait
// for the device.
func (c *conn) inline(q request) bool {
	if q.flags&cmdFlagFUA != 0 && q.cmd != cmdRead {
		return false
	}
	switch q.cmd {
	case cmdRead:
		return q.length <= maxInline && !c.reads.slow.Load()
	case cmdWrite:
		return q.length <= maxInline && !c.writes.slow.Load()
	case cmdTrim, cmdWriteZeroes:
		return true
	}
	return false
}

// perform does what a request asks for, if the reply has no payload.
func (c *conn) perform(ctx context.Context, q request, p []byte) errno {
	off, length, fua := int64(q.offset), int64(q.length), q.flags&cmdFlagFUA != 0
	var err error
	switch q.cmd {
	case cmdWrite:
		err = c.export.Write(ctx, p, off, fua)
	case cmdFlush:
		err = c.export.Flush(ctx)
	case cmdTrim:
		err = c.export.Trim(ctx, off, length, fua)
	case cmdWriteZeroes:
		err = c.export.Zero(ctx, off, length, cdc.ZeroOptions{
			NoHole: q.flags&cmdFlagNoHole != 0, Fast: q.flags&cmdFlagFastZero != 0, FUA: fua,
		})
	case cmdCache:
		err = c.cache(ctx, off, length)
	}
	e := errnoOf(err)
	if e == eNotSup && q.flags&cmdFlagFastZero == 0 {
		e = eIO // the protocol has ENOTSUP for fast zeroing only
	}
	return e
}

// cache reads a range, so that the system has it.
func (c *conn) cache(ctx context.Context, off, length int64) error {
	b, err := c.v.mem.borrow(ctx, outgoing, int(min(length, readPiece)))
	if err != nil {
		return err
	}
	defer c.v.mem.giveBack(b)
	for end := off + length; off < end; {
		n := min(end-off, int64(len(b.b)))
		if _, err := c.export.ReadAt(b.b[:n], off); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// appendReply appends a reply without data.
func (c *conn) appendReply(b []byte, q request, e errno) []byte {
	c.v.metrics.count(q, e)
	if c.structured && (q.cmd == cmdRead || q.cmd == cmdBlockStatus) {
		return appendErrorChunk(b, chunkDone, q.cookie, e)
	}
	return appendSimple(b, q.cookie, e)
}

// dataHead is how many bytes come before the data of a read.
func (c *conn) dataHead() int {
	if c.structured {
		return chunkHeaderSize + 8
	}
	return simpleReplySize
}

// readReply reads into b, which has room for dataHead and the data, and returns the reply in b.
func (c *conn) readReply(q request, b []byte) []byte {
	_, err := c.export.ReadAt(b[c.dataHead():], int64(q.offset))
	if err != nil {
		return c.appendReply(b[:0], q, readErrno(err))
	}
	c.v.metrics.count(q, ok)
	c.appendDataHead(b[:0], q, chunkDone, int64(q.offset), int(q.length))
	return b
}

func (c *conn) appendDataHead(b []byte, q request, flags uint16, off int64, length int) []byte {
	if !c.structured {
		return appendSimple(b, q.cookie, ok)
	}
	b = appendChunk(b, flags, chunkOffsetData, q.cookie, 8+length)
	return binary.BigEndian.AppendUint64(b, uint64(off))
}

// release ends a request in flight.
func (c *conn) release() {
	<-c.slots
	c.ops.Done()
}

// work works on a request in flight.
func (c *conn) work(ctx context.Context, q request, payload *buffer) {
	defer c.release()
	switch q.cmd {
	case cmdRead:
		c.workRead(ctx, q)
	case cmdBlockStatus:
		c.send(c.status(q))
	case cmdWrite:
		var t time.Time
		if q.flags&cmdFlagFUA == 0 {
			t = c.writes.begin()
		}
		e := c.perform(ctx, q, payload.b[:q.length])
		c.writes.end(t)
		c.v.mem.giveBack(payload)
		c.send(c.appendReply(make([]byte, 0, maxReply), q, e))
	default:
		c.send(c.appendReply(make([]byte, 0, maxReply), q, c.perform(ctx, q, nil)))
	}
}
