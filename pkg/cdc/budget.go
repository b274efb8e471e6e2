package cdc

import (
	"context"
	"sync"
)

// DefaultBudget is the budget of a recorder that was given none, in bytes.
const DefaultBudget = 64 << 20

// opCost is what an operation is charged beside its content, in bytes: what the pipeline keeps for
// it, so that operations without content are bounded as well.
const opCost = 64

// Budget bounds the memory of a process's recorders: what they hold of mutations from the request
// to the moment the journal has stored them. Half of it is guaranteed to the recorders in equal
// parts, the rest goes to whoever asks first; so a volume whose stream is stuck can't stop
// the others. Beside the budget a recorder holds a few frame buffers of constant size.
//
// A budget needs 16 KiB for each recorder at least. Its methods may be called concurrently.
type Budget struct {
	mu      sync.Mutex
	total   int64
	used    int64 // of total
	excess  int64 // of used: what the shares hold beyond their guarantees
	shares  []*share
	waiters int
	turn    int // share that is looked at first when bytes come back
}

// NewBudget returns a budget of the given number of bytes.
func NewBudget(bytes int64) *Budget { return &Budget{total: bytes} }

// Used is how many bytes are held, at most Total.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// Total is how many bytes there are.
func (b *Budget) Total() int64 { return b.total }

// share is one recorder's part of a budget.
type share struct {
	b       *Budget
	used    int64
	waiting []*credit // in the order they came
	err     error     // set: nothing is given any more
}

// credit is a wait for bytes.
type credit struct {
	n     int64
	ready chan struct{} // closed when given, or when the share failed
	given bool
}

func (b *Budget) join() *share {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &share{b: b}
	b.shares = append(b.shares, s)
	b.recount()
	return s
}

func (b *Budget) recount() {
	b.excess = 0
	for _, s := range b.shares {
		b.excess += max(0, s.used-b.guarantee())
	}
}

func (b *Budget) guarantee() int64 { return b.total / int64(2*max(1, len(b.shares))) }

// most is how many bytes the share can always have at once, if it holds nothing.
func (s *share) most() int64 {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	return s.b.guarantee()
}

// take gives n bytes to s if there are as many.
func (b *Budget) take(s *share, n int64) bool {
	g := b.guarantee()
	more := max(0, s.used+n-g) - max(0, s.used-g)
	if b.used+n > b.total || more > 0 && b.excess+more > b.total-g*int64(len(b.shares)) {
		return false
	}
	s.used += n
	b.used += n
	b.excess += more
	return true
}

// acquire waits for n bytes. It fails with ctx's error or the share's.
func (s *share) acquire(ctx context.Context, n int64) error {
	b := s.b
	b.mu.Lock()
	if s.err != nil {
		defer b.mu.Unlock()
		return s.err
	}
	if len(s.waiting) == 0 && b.take(s, n) {
		b.mu.Unlock()
		return nil
	}
	w := &credit{n: n, ready: make(chan struct{})}
	s.waiting = append(s.waiting, w)
	b.waiters++
	b.mu.Unlock()

	select {
	case <-w.ready:
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.given {
		return nil // even if ctx has ended: the caller finds out by itself
	}
	if s.err != nil {
		return s.err
	}
	for i, other := range s.waiting {
		if other == w {
			s.waiting = append(s.waiting[:i], s.waiting[i+1:]...)
			b.waiters--
			break
		}
	}
	b.give() // the waiters behind w may need less
	return ctx.Err()
}

// release gives n bytes back.
func (s *share) release(n int64) {
	if n == 0 {
		return
	}
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.guarantee()
	b.excess -= max(0, s.used-g) - max(0, s.used-n-g)
	s.used -= n
	b.used -= n
	b.give()
}

// give serves waiters: within a share in their order, over the shares in turns.
func (b *Budget) give() {
	for progress := b.waiters > 0; progress; {
		progress = false
		for i := range b.shares {
			s := b.shares[(b.turn+i)%len(b.shares)]
			if len(s.waiting) == 0 || !b.take(s, s.waiting[0].n) {
				continue
			}
			w := s.waiting[0]
			s.waiting = s.waiting[1:]
			b.waiters--
			w.given = true
			close(w.ready)
			progress = true
		}
		b.turn++
	}
}

// fail lets nobody have anything any more; err is what they are told.
func (s *share) fail(err error) {
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = err
	for _, w := range s.waiting {
		close(w.ready)
	}
	b.waiters -= len(s.waiting)
	s.waiting = nil
}
