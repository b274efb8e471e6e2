package events

import (
	"fmt"
	"io"
	"math"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// writer appends msgpack values to buf, each in its shortest form. Errors can't happen: the
// encoder's only source of them is the io.Writer below it, and that one appends.
type writer struct {
	buf []byte
	enc *msgpack.Encoder
}

var writers = sync.Pool{New: func() any {
	w := new(writer)
	w.enc = msgpack.NewEncoder(w)
	return w
}}

// Write implements io.Writer for the encoder.
func (w *writer) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	return len(p), nil
}

// WriteByte implements io.ByteWriter for the encoder, which spares it a slice for each byte.
func (w *writer) WriteByte(c byte) error {
	w.buf = append(w.buf, c)
	return nil
}

func (w *writer) uint(v uint64)       { _ = w.enc.EncodeUint(v) }
func (w *writer) int(v int64)         { _ = w.enc.EncodeUint(uint64(v)) } // checked to be at least 0
func (w *writer) time(t time.Time)    { w.int(t.UnixNano()) }
func (w *writer) bool(v bool)         { _ = w.enc.EncodeBool(v) }
func (w *writer) nil()                { _ = w.enc.EncodeNil() }
func (w *writer) array(n int)         { _ = w.enc.EncodeArrayLen(n) }
func (w *writer) str(s string)        { _ = w.enc.EncodeString(s) }
func (w *writer) bin(p []byte)        { _ = w.enc.EncodeBytesLen(len(p)); w.buf = append(w.buf, p...) }
func (w *writer) token(t Token)       { w.array(2); w.uint(t.Epoch); w.uint(t.Barrier) }
func (w *writer) position(p Position) { w.array(2); w.uint(uint64(p.Generation)); w.uint(p.Seq) }

func (w *writer) names(list []string) {
	w.array(len(list))
	for _, s := range list {
		w.str(s)
	}
}

// reader takes msgpack values from b. It is stricter than the library: a value of another type than
// the field's is refused (the library takes nil for 0, a negative number for a huge one and text for
// bytes), and no length is believed before b is known to hold that much. The first error stays and
// makes every later call return zero values, so callers look at it once.
type reader struct {
	b   []byte
	off int
	dec *msgpack.Decoder
	err error
}

var readers = sync.Pool{New: func() any {
	r := new(reader)
	r.dec = msgpack.NewDecoder(r)
	return r
}}

// Read implements io.Reader for the decoder.
func (r *reader) Read(p []byte) (int, error) {
	if r.off >= len(r.b) {
		return 0, io.EOF
	}
	n := copy(p, r.b[r.off:])
	r.off += n
	return n, nil
}

// ReadByte implements io.ByteReader for the decoder.
func (r *reader) ReadByte() (byte, error) {
	if r.off >= len(r.b) {
		return 0, io.EOF
	}
	c := r.b[r.off]
	r.off++
	return c, nil
}

// UnreadByte implements io.ByteScanner for the decoder.
func (r *reader) UnreadByte() error {
	if r.off == 0 {
		return io.ErrNoProgress
	}
	r.off--
	return nil
}

func (r *reader) fail(field, problem string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s at byte %d: %s", ErrMalformed, field, r.off, problem)
	}
}

// code returns the code of the next value without taking it.
func (r *reader) code(field string) (byte, bool) {
	if r.err != nil {
		return 0, false
	}
	if r.off >= len(r.b) {
		r.fail(field, "missing")
		return 0, false
	}
	return r.b[r.off], true
}

func (r *reader) uint(field string) uint64 {
	c, ok := r.code(field)
	if !ok {
		return 0
	}
	if c <= msgpcode.PosFixedNumHigh {
		r.off++
		return uint64(c)
	}
	if c < msgpcode.Uint8 || c > msgpcode.Uint64 {
		r.fail(field, "is no unsigned integer")
		return 0
	}
	v, err := r.dec.DecodeUint64()
	if err != nil {
		r.fail(field, "is cut short")
		return 0
	}
	return v
}

// atMost returns an unsigned integer that is not greater than limit.
func (r *reader) atMost(field string, limit uint64) uint64 {
	v := r.uint(field)
	if v > limit {
		r.fail(field, "is too large")
		return 0
	}
	return v
}

func (r *reader) int(field string) int64     { return int64(r.atMost(field, math.MaxInt64)) }
func (r *reader) uint32(field string) uint32 { return uint32(r.atMost(field, math.MaxUint32)) }
func (r *reader) uint8(field string) uint8   { return uint8(r.atMost(field, math.MaxUint8)) }
func (r *reader) time(field string) time.Time {
	return time.Unix(0, r.int(field)).UTC()
}

func (r *reader) duration(field string) time.Duration { return time.Duration(r.int(field)) }

func (r *reader) bool(field string) bool {
	c, ok := r.code(field)
	if !ok {
		return false
	}
	if c != msgpcode.True && c != msgpcode.False {
		r.fail(field, "is no boolean")
		return false
	}
	r.off++
	return c == msgpcode.True
}

// absent tells whether the next value is nil, and takes it if so.
func (r *reader) absent(field string) bool {
	c, ok := r.code(field)
	if ok && c == msgpcode.Nil {
		r.off++
		return true
	}
	return false
}

// array takes the head of an array of exactly n values.
func (r *reader) array(field string, n int) {
	if got := r.arrayLen(field); r.err == nil && got != n {
		r.fail(field, fmt.Sprintf("has %d values instead of %d", got, n))
	}
}

// list takes the head of an array of at most limit values, each of at least size bytes.
func (r *reader) list(field string, limit, size int) int {
	n := r.arrayLen(field)
	if r.err != nil {
		return 0
	}
	if n > limit {
		r.fail(field, fmt.Sprintf("has %d values, more than %d", n, limit))
		return 0
	}
	if n > (len(r.b)-r.off)/size {
		r.fail(field, fmt.Sprintf("has %d values, more than the message can hold", n))
		return 0
	}
	return n
}

func (r *reader) arrayLen(field string) int {
	c, ok := r.code(field)
	if !ok {
		return 0
	}
	if !msgpcode.IsFixedArray(c) && c != msgpcode.Array16 && c != msgpcode.Array32 {
		r.fail(field, "is no array")
		return 0
	}
	n, err := r.dec.DecodeArrayLen()
	if err != nil || n < 0 {
		r.fail(field, "is cut short")
		return 0
	}
	return n
}

// take returns the next n bytes of the message itself.
func (r *reader) take(field string, limit int) []byte {
	n, err := r.dec.DecodeBytesLen()
	if err != nil || n < 0 {
		r.fail(field, "is cut short")
		return nil
	}
	if n > limit {
		r.fail(field, fmt.Sprintf("has %d bytes, more than %d", n, limit))
		return nil
	}
	if n > len(r.b)-r.off {
		r.fail(field, fmt.Sprintf("has %d bytes, more than the message holds", n))
		return nil
	}
	p := r.b[r.off : r.off+n : r.off+n]
	r.off += n
	return p
}

func (r *reader) str(field string, limit int) string {
	c, ok := r.code(field)
	if !ok {
		return ""
	}
	if !msgpcode.IsFixedString(c) && (c < msgpcode.Str8 || c > msgpcode.Str32) {
		r.fail(field, "is no text")
		return ""
	}
	p := r.take(field, limit)
	if !utf8.Valid(p) {
		r.fail(field, "is no UTF-8")
		return ""
	}
	return string(p)
}

// bin returns bytes that alias the message; nil where there are none.
func (r *reader) bin(field string, limit int) []byte {
	c, ok := r.code(field)
	if !ok {
		return nil
	}
	if c < msgpcode.Bin8 || c > msgpcode.Bin32 {
		r.fail(field, "is no byte string")
		return nil
	}
	if p := r.take(field, limit); len(p) > 0 {
		return p
	}
	return nil
}

func (r *reader) name(field string) string { return r.str(field, MaxName) }

func (r *reader) names(field string) []string {
	n := r.list(field, MaxMembers, 1)
	if n == 0 {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = r.name(field)
	}
	return list
}

func (r *reader) token() Token {
	r.array("token", 2)
	return Token{Epoch: r.uint("token.epoch"), Barrier: r.uint("token.barrier")}
}

func (r *reader) position(field string) Position {
	r.array(field, 2)
	return Position{Generation: r.uint32(field), Seq: r.uint(field)}
}
