// Package link is a network between two sites that a test can break and narrow: a TCP proxy whose open
// connections can be cut and new ones refused, and whose bandwidth can be limited.
package link

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// buffer is how much the proxy reads at a time, and asks the kernel to hold of a connection: what is on
// its way through a narrow link must not hide in buffers.
const buffer = 32 << 10

// Link is a TCP proxy to one address. It is up and without limit at first. Its methods may be called
// concurrently.
type Link struct {
	listener net.Listener
	target   string
	rate     atomic.Int64 // bytes per second in each direction; 0: no limit
	carried  atomic.Int64 // bytes, both directions

	mu    sync.Mutex
	up    bool
	conns map[net.Conn]bool
}

// New starts a proxy to target that ends with the test.
func New(t testing.TB, target string) *Link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &Link{listener: listener, target: target, up: true, conns: map[net.Conn]bool{}}
	go l.accept()
	t.Cleanup(func() { listener.Close(); l.Cut() })
	return l
}

// Address returns where the proxy listens.
func (l *Link) Address() string { return l.listener.Addr().String() }

// Cut breaks every connection, and those that are tried from now on.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up = false
	for c := range l.conns {
		c.Close()
	}
	clear(l.conns)
}

// Heal lets new connections through again.
func (l *Link) Heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up = true
}

// Limit sets how many bytes per second pass in each direction of each connection; 0 lifts the limit. It
// holds for open connections as well.
func (l *Link) Limit(rate int64) { l.rate.Store(rate) }

// Carried returns how many bytes have passed, both directions together, or were about to when the link was cut.
func (l *Link) Carried() int64 { return l.carried.Load() }

func (l *Link) accept() {
	for {
		a, err := l.listener.Accept()
		if err != nil {
			return // closed at the test's end
		}
		b, err := net.Dial("tcp", l.target)
		if err != nil || !l.keep(a, b) {
			a.Close()
			if b != nil {
				b.Close()
			}
			continue
		}
		go l.pump(a, b)
		go l.pump(b, a)
	}
}

func (l *Link) keep(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.up {
		return false
	}
	for _, c := range conns {
		l.conns[c] = true
	}
	return true
}

// pump copies until either side ends; that ends both.
func (l *Link) pump(to, from net.Conn) {
	defer func() {
		to.Close()
		from.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.conns, to)
		delete(l.conns, from)
	}()
	b := make([]byte, buffer)
	narrowed := false
	for {
		n, err := from.Read(b)
		if rate := l.rate.Load(); rate > 0 && n > 0 {
			if !narrowed { // a narrow link has small buffers; once is enough
				narrowed = true
				shrink(from, to)
			}
			<-time.After(time.Duration(n) * time.Second / time.Duration(rate))
		}
		if n > 0 {
			l.carried.Add(int64(n)) // before whoever gets it can ask
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func shrink(from, to net.Conn) {
	if c, ok := from.(*net.TCPConn); ok {
		_ = c.SetReadBuffer(buffer) // a wish
	}
	if c, ok := to.(*net.TCPConn); ok {
		_ = c.SetWriteBuffer(buffer)
	}
}
