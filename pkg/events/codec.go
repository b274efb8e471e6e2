package events

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"reflect"
	"slices"
	"time"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

const (
	trailerSize  = 5  // a msgpack uint32: its code, then the CRC-32C
	envelopeSize = 64 // bytes of the largest header and the trailer, rounded up
	traceSize    = 25 // bytes of a trace context
	messageElems = 6  // version, kind, epoch, time, trace, body
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// body is what every event type of this package can do.
type body interface {
	Event
	check() error   // the limits that a type can't express; used in both directions
	size() int      // about how many bytes encode appends; at least that where it is large
	encode(*writer) // appends the body; check has passed
	decode(*reader) // reads the body; check follows
}

// newBody returns an empty event of kind k; nil where version 1 has no such kind.
func newBody(k Kind) body {
	switch k {
	case KindEpoch:
		return new(Epoch)
	case KindFrame:
		return new(Frame)
	case KindMark:
		return new(Mark)
	case KindRegionHash:
		return new(RegionHash)
	case KindPassDone:
		return new(PassDone)
	case KindResize:
		return new(Resize)
	case KindHeartbeat:
		return new(Heartbeat)
	case KindObject:
		return new(Object)
	case KindListed:
		return new(Listed)
	case KindMember:
		return new(Member)
	case KindCommit:
		return new(Commit)
	case KindHooksOpen:
		return new(HooksOpen)
	}
	return nil
}

// Append encodes h and e as one message behind dst and returns the extended slice. It refuses, with an
// error that wraps ErrMalformed, whatever Decode would refuse, and then returns dst as it was.
// The message shares no memory with e: a frame's payload is copied, once. Append may be called concurrently.
func Append(dst []byte, h Header, e Event) ([]byte, error) {
	b, ok := e.(body)
	if !ok || reflect.ValueOf(e).IsNil() {
		return dst, fmt.Errorf("encode event: %w: %T is no event", ErrMalformed, e)
	}
	if err := h.check(); err != nil {
		return dst, fmt.Errorf("encode %s: %w", b.Kind(), err)
	}
	if err := b.check(); err != nil {
		return dst, fmt.Errorf("encode %s: %w", b.Kind(), err)
	}
	start := len(dst)
	w := writers.Get().(*writer)
	w.buf = slices.Grow(dst, envelopeSize+b.size())
	w.array(messageElems)
	w.uint(Version)
	w.uint(uint64(b.Kind()))
	w.uint(h.Epoch)
	w.time(h.Time)
	w.bin(h.Trace)
	b.encode(w)
	out := w.buf
	w.buf = nil // the pool must not keep the caller's memory alive
	writers.Put(w)

	sum := crc32.Checksum(out[start:], castagnoli)
	out = append(out, msgpcode.Uint32)
	out = binary.BigEndian.AppendUint32(out, sum)
	if n := len(out) - start; n > MaxMessage {
		return dst, fmt.Errorf("encode %s: %w: message has %d bytes, more than %d", b.Kind(), ErrMalformed, n, MaxMessage)
	}
	return out, nil
}

// Decode reads one message: the one at sequence seq of stream, which only serve to name it in the error.
// The error is always a *MessageError. Frame.Payload and Object.Raw alias msg; nothing else does. Lists and byte
// strings without content come back as nil, times in UTC. Decode may be called concurrently.
func Decode(stream string, seq uint64, msg []byte) (Header, Event, error) {
	r := readers.Get().(*reader)
	defer r.release()
	h, k, err := r.open(msg)
	if err != nil {
		return Header{}, nil, &MessageError{stream, seq, err}
	}
	b := newBody(k)
	b.decode(r)
	if r.err == nil && r.off != len(r.b) {
		r.fail("message", fmt.Sprintf("%d bytes behind the event", len(r.b)-r.off))
	}
	if r.err == nil {
		r.err = b.check()
	}
	if r.err != nil {
		return Header{}, nil, &MessageError{stream, seq, fmt.Errorf("%s: %w", k, r.err)}
	}
	return h, b, nil
}

// DecodeHeader reads what every message carries and leaves its body alone: enough to measure lag. It verifies the
// checksum, so it costs a pass over msg but no memory beyond a trace context. The error is always a *MessageError.
func DecodeHeader(stream string, seq uint64, msg []byte) (Header, Kind, error) {
	r := readers.Get().(*reader)
	defer r.release()
	h, k, err := r.open(msg)
	if err != nil {
		return Header{}, 0, &MessageError{stream, seq, err}
	}
	return h, k, nil
}

// release gives r back without what it read, so that the pool keeps no message alive.
func (r *reader) release() {
	r.b, r.off, r.err = nil, 0, nil
	readers.Put(r)
}

// open verifies the message's checksum and version and reads its header. Behind it r stands at the body.
func (r *reader) open(msg []byte) (Header, Kind, error) {
	if err := verify(msg); err != nil {
		return Header{}, 0, err
	}
	r.b = msg[:len(msg)-trailerSize]
	elems := r.arrayLen("message")
	version := r.uint("version")
	switch {
	case r.err != nil:
		return Header{}, 0, r.err
	case version > Version:
		return Header{}, 0, fmt.Errorf("%w: version %d, newest known %d", ErrNewerVersion, version, Version)
	case version == 0:
		r.fail("version", "is 0")
	case elems != messageElems:
		r.fail("message", fmt.Sprintf("has %d values instead of %d", elems, messageElems))
	case len(msg) > MaxMessage:
		r.fail("message", fmt.Sprintf("has %d bytes, more than %d", len(msg), MaxMessage))
	}
	k := Kind(r.uint8("kind"))
	if r.err == nil && (k < KindEpoch || k > KindHooksOpen) {
		r.fail("kind", fmt.Sprintf("%d is unknown", k))
	}
	h := Header{Epoch: r.uint("epoch"), Time: r.time("time")}
	if t := r.bin("trace", traceSize); t != nil {
		h.Trace = slices.Clone(t)
	}
	if r.err == nil {
		r.err = h.check()
	}
	return h, k, r.err
}

func (h Header) check() error {
	if h.Epoch == 0 {
		return malformed("header: epoch is 0")
	}
	if len(h.Trace) != 0 && len(h.Trace) != traceSize {
		return malformed("header: trace has %d bytes instead of %d", len(h.Trace), traceSize)
	}
	return instant("header: time", h.Time)
}

var latest = time.Unix(0, math.MaxInt64)

// instant refuses a time that 63 bits of nanoseconds since 1970 can't hold, as the zero Time.
func instant(field string, t time.Time) error {
	if t.Unix() < 0 || t.After(latest) {
		return malformed("%s %s is not between 1970 and 2262", field, t)
	}
	return nil
}
