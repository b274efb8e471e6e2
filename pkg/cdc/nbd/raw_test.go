package nbd

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// rawClient sends what a test wants, right or wrong.
type rawClient struct {
	net.Conn
	t testing.TB
}

// raw connects and reads the greeting.
func (s *served) raw(t testing.TB) *rawClient {
	t.Helper()
	nc, err := net.Dial("unix", s.path)
	must(t, err)
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	r := &rawClient{nc, t}
	r.take(18)
	return r
}

func (r *rawClient) take(n int) []byte {
	r.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		r.t.Fatalf("read %d bytes: %v", n, err)
	}
	return b
}

func (r *rawClient) put(parts ...any) {
	r.t.Helper()
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b = append(b, p...)
		case []byte:
			b = append(b, p...)
		default:
			b, _ = binary.Append(b, binary.BigEndian, p)
		}
	}
	if _, err := r.Write(b); err != nil {
		r.t.Fatalf("write: %v", err)
	}
}

func (r *rawClient) option(o option, parts ...any) {
	r.t.Helper()
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b = appendString(b, p)
		case []byte:
			b = append(b, p...)
		default:
			b, _ = binary.Append(b, binary.BigEndian, p)
		}
	}
	r.put(uint64(magicOption), o, uint32(len(b)), b)
}

func (r *rawClient) optReply() (option, optReply, []byte) {
	r.t.Helper()
	b := r.take(optReplyHeadSize)
	if binary.BigEndian.Uint64(b) != magicOptReply {
		r.t.Fatalf("option reply begins %x", b)
	}
	return option(binary.BigEndian.Uint32(b[8:])), optReply(binary.BigEndian.Uint32(b[12:])), r.take(int(binary.BigEndian.Uint32(b[16:])))
}

// open goes to the transmission phase, with simple replies.
func (r *rawClient) open(export string) {
	r.t.Helper()
	r.put(uint32(flagFixedNewstyle | flagNoZeroes))
	r.option(optGo, export, uint16(0))
	for {
		_, t, _ := r.optReply()
		if t == repAck {
			return
		}
		if t != repInfo {
			r.t.Fatalf("reply %#x", t)
		}
	}
}

func (r *rawClient) request(q request, payload ...byte) {
	r.t.Helper()
	r.put(appendRequest(nil, q), payload)
}

// simple reads a simple reply; it has n bytes of data if it is no error.
func (r *rawClient) simple(n int) (errno, uint64, []byte) {
	r.t.Helper()
	return r.simpleOf(func(uint64) int { return n })
}

// simpleOf is simple where the size of a reply depends on its request: replies may come in any order.
func (r *rawClient) simpleOf(size func(cookie uint64) int) (errno, uint64, []byte) {
	r.t.Helper()
	b := r.take(simpleReplySize)
	if binary.BigEndian.Uint32(b) != magicSimple {
		r.t.Fatalf("reply begins %x", b)
	}
	e, cookie := errno(binary.BigEndian.Uint32(b[4:])), binary.BigEndian.Uint64(b[8:])
	n := 0
	if e == ok {
		n = size(cookie)
	}
	return e, cookie, r.take(n)
}

// closed fails unless the server has closed the connection.
func (r *rawClient) closed() {
	r.t.Helper()
	var b [1]byte
	_, err := r.Read(b[:])
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		r.t.Fatalf("the connection is open: %v", err)
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		r.t.Fatal(err)
	}
}
