package nbd

import (
	"context"
	"math/bits"
	"sync"
	"unsafe"

	"golang.org/x/sync/semaphore"
)

// Payloads is where the memory for payloads of requests comes from. Acquire waits for n bytes, first come
// first served, and fails only with ctx's error. A cdc.Reservation is one.
type Payloads interface {
	Acquire(ctx context.Context, n int64) error
	Release(n int64)
}

// The most that is asked of Payloads at once, in bytes: for the data of a write, and for that of a read. Requests
// that have more are worked on in pieces. As many must be had at some time, whatever requests wait for that
// were begun.
const (
	MaxIncoming = 128 << 10
	MaxOutgoing = 1 << 20
)

// direction is which way a payload goes.
type direction int

const (
	incoming direction = iota
	outgoing
)

// fixed is Payloads with a fixed limit.
type fixed struct{ *semaphore.Weighted }

func (f fixed) Acquire(ctx context.Context, n int64) error { return f.Weighted.Acquire(ctx, n) }
func (f fixed) Release(n int64)                            { f.Weighted.Release(n) }

// Buffers come in powers of two.
const (
	minClass = 12 // 4 KiB
	maxClass = 20 // MaxOutgoing
	page     = 4096
)

// buffer is memory that begins at a page, as direct I/O wants it.
type buffer struct {
	b     []byte // the whole class
	class int
	lent  direction
}

// memory hands out buffers. Payloads are bounded by a limit that all connections share, first
// come first served, so that a large request isn't starved by small ones.
type memory struct {
	limit [2]Payloads // by direction
	free  [maxClass + 1]sync.Pool
}

func newMemory(in, out Payloads) *memory { return &memory{limit: [2]Payloads{in, out}} }

func classOf(n int) int { return max(minClass, bits.Len(uint(n-1))) }

// get returns a buffer of at least n bytes, not counted against the limit.
func (m *memory) get(n int) *buffer {
	class := classOf(n)
	if b, ok := m.free[class].Get().(*buffer); ok {
		return b
	}
	size := 1 << class
	b := make([]byte, size)
	if off := uintptr(unsafe.Pointer(unsafe.SliceData(b))) % page; off != 0 { // the runtime aligns large ones
		b = make([]byte, size+page)
		off = uintptr(unsafe.Pointer(unsafe.SliceData(b))) % page
		b = b[page-off:][:size:size]
	}
	return &buffer{b: b, class: class}
}

func (m *memory) put(b *buffer) {
	if b != nil {
		m.free[b.class].Put(b)
	}
}

// borrow is get counted against a limit; it waits while the limit is reached.
func (m *memory) borrow(ctx context.Context, d direction, n int) (*buffer, error) {
	if err := m.limit[d].Acquire(ctx, 1<<classOf(n)); err != nil {
		return nil, err
	}
	b := m.get(n)
	b.lent = d
	return b, nil
}

// giveBack ends a loan.
func (m *memory) giveBack(b *buffer) {
	if b != nil {
		m.limit[b.lent].Release(int64(len(b.b)))
		m.put(b)
	}
}
