package events

import (
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"sync"

	"github.com/klauspost/compress/s2"
)

// scratch holds buffers that S2 compresses into: it wants room for the worst case, and what
// it makes of that is usually much smaller and lives as long as the frame.
var scratch = sync.Pool{New: func() any {
	b := make([]byte, s2.MaxEncodedLen(MaxContent))
	return &b
}}

// NewFrame makes a frame of ops, whose writes hold content, one behind the other. It compresses the content as
// told and keeps it uncompressed where that doesn't make it smaller; which it was is in Frame.Compression. The frame
// keeps ops, and content too where it stays uncompressed: the caller must not change them while it uses the frame. What
// breaks a limit is refused with an error that wraps ErrMalformed.
func NewFrame(ops []Op, content []byte, c Compression) (*Frame, error) {
	f := &Frame{Ops: ops, Length: len(content), Payload: content}
	if err := within("compression", c, Uncompressed, S2); err != nil {
		return nil, fmt.Errorf("make frame: %w", err)
	}
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("make frame: %w", err)
	}
	f.CRC = crc32.Checksum(content, castagnoli)
	if c == S2 && len(content) > 0 {
		buf := scratch.Get().(*[]byte)
		if out := s2.Encode(*buf, content); len(out) < len(content) {
			f.Compression = S2
			f.Payload = slices.Clone(out)
		}
		scratch.Put(buf)
	}
	return f, nil
}

// Content returns the content of the frame's writes in order, concatenated: Length bytes that have the frame's CRC.
// A compressed payload is decompressed into buf where its capacity suffices, else into new memory; an uncompressed one is returned as it is,
// so the result may share memory with buf or with Payload. The error wraps ErrChecksum or ErrMalformed.
func (f *Frame) Content(buf []byte) ([]byte, error) {
	if err := f.checkPayload(); err != nil {
		return nil, fmt.Errorf("read frame: %w", err)
	}
	content := f.Payload
	if f.Compression == S2 {
		var err error
		if content, err = s2.Decode(buf[:cap(buf)], f.Payload); err != nil {
			return nil, fmt.Errorf("read frame: %w: decompress: %w", ErrMalformed, err)
		}
	}
	if sum := crc32.Checksum(content, castagnoli); sum != f.CRC {
		return nil, fmt.Errorf("read frame: %w: content has %08x, not %08x", ErrChecksum, sum, f.CRC)
	}
	return content, nil
}

func (f *Frame) check() error {
	if n := len(f.Ops); n == 0 || n > MaxOps {
		return malformed("frame has %d operations, not between 1 and %d", n, MaxOps)
	}
	left := int64(f.Length)
	for i := range f.Ops {
		op := &f.Ops[i]
		if op.Kind < OpWrite || op.Kind > OpTrim {
			return malformed("operation %d: kind %d is unknown", i, op.Kind)
		}
		if op.Offset < 0 || op.Length < 1 || op.Offset > math.MaxInt64-op.Length {
			return malformed("operation %d: offset %d with length %d is no range", i, op.Offset, op.Length)
		}
		if op.Kind != OpWrite {
			continue
		}
		if left -= op.Length; left < 0 {
			return malformed("operation %d: writes more than the frame's %d bytes", i, f.Length)
		}
	}
	if left != 0 {
		return malformed("writes of %d bytes in a frame of %d", int64(f.Length)-left, f.Length)
	}
	return f.checkPayload()
}

// checkPayload refuses a payload that isn't Length bytes of content, as far as can be told without decompressing it.
func (f *Frame) checkPayload() error {
	if f.Length < 0 || f.Length > MaxContent {
		return malformed("frame has %d bytes of content, not between 0 and %d", f.Length, MaxContent)
	}
	switch f.Compression {
	case Uncompressed:
		if len(f.Payload) != f.Length {
			return malformed("payload has %d bytes for %d of content", len(f.Payload), f.Length)
		}
	case S2:
		if len(f.Payload) >= f.Length {
			return malformed("compressed payload has %d bytes for %d of content", len(f.Payload), f.Length)
		}
		if n, err := s2.DecodedLen(f.Payload); err != nil || n != f.Length {
			return malformed("payload decompresses to %d bytes instead of %d", n, f.Length)
		}
	default:
		return malformed("compression %d is unknown", f.Compression)
	}
	return nil
}

// An operation takes at most a head, a kind and two numbers of nine bytes each.
func (f *Frame) size() int { return len(f.Payload) + len(f.Ops)*20 + 32 }

func (f *Frame) encode(w *writer) {
	w.array(5)
	w.array(len(f.Ops))
	for i := range f.Ops {
		op := &f.Ops[i]
		w.array(3)
		w.uint(uint64(op.Kind))
		w.int(op.Offset)
		w.int(op.Length)
	}
	w.uint(uint64(f.Length))
	w.uint(uint64(f.CRC))
	w.uint(uint64(f.Compression))
	w.bin(f.Payload)
}

func (f *Frame) decode(r *reader) {
	r.array("frame", 5)
	n := r.list("operations", MaxOps, 4)
	if n > 0 {
		f.Ops = make([]Op, n)
	}
	for i := range f.Ops {
		op := &f.Ops[i]
		r.array("operation", 3)
		op.Kind = OpKind(r.uint8("operation.kind"))
		op.Offset = r.int("operation.offset")
		op.Length = r.int("operation.length")
		if r.err != nil {
			return
		}
	}
	f.Length = int(r.atMost("length", MaxContent))
	f.CRC = r.uint32("crc")
	f.Compression = Compression(r.uint8("compression"))
	f.Payload = r.bin("payload", MaxContent)
}
