package cdc

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// DefaultBudget is the budget of a recorder that was given none, in bytes.
const DefaultBudget = 64 << 20

// opCost is what an operation is charged beside its content, in bytes: what the pipeline keeps for
// it, so that operations without content are bounded as well.
const opCost = 64

// errExcused is the answer to who waits for bytes that aren't needed any more.
var errExcused = errors.New("the bytes aren't needed any more")

// Budget bounds the memory of a process's volumes: what recorders hold of mutations from the request
// to the moment the journal has stored them, and what is reserved in it by others. Of what isn't reserved
// half is guaranteed to the recorders in equal parts, the rest goes to whoever asks first; so a
// volume whose stream is stuck can't stop the others. Beside the budget a recorder that is busy holds a few
// frame buffers of constant size.
//
// A budget needs 16 KiB for each recorder at least. Its methods may be called concurrently.
type Budget struct {
	mu      sync.Mutex
	total   int64
	used    int64 // of total
	excess  int64 // of used: what the shares hold beyond their guarantees
	each    int64 // guaranteed to each recorder
	common  int64 // guaranteed to nobody
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

// Reservation is a part of a Budget for something else than a recorder, such as the payloads of
// requests. Its methods may be called concurrently.
type Reservation struct{ s *share }

// Reserve guarantees bytes of the budget to its caller, who may have more as long as nobody else needs
// it. A request for more than what is guaranteed may wait as long as streams are stuck, a smaller one never
// waits for anybody but other requests of the same reservation.
func (b *Budget) Reserve(bytes int64) *Reservation {
	return &Reservation{b.add(&share{b: b, fixed: bytes})}
}

// Acquire waits for n bytes, first come first served. It fails with ctx's error only.
func (r *Reservation) Acquire(ctx context.Context, n int64) error { return r.s.acquire(ctx, n) }

// Release gives n bytes back.
func (r *Reservation) Release(n int64) { r.s.release(n) }

// Close ends the reservation. Everything was released before.
func (r *Reservation) Close() { r.s.leave() }

// share is one recorder's part of a budget, or a reservation.
type share struct {
	b       *Budget
	fixed   int64 // guaranteed to a reservation; 0: a recorder's
	used    int64
	waiting []*credit // in the order they came
	err     error     // set: nothing is given any more
}

// credit is a wait for bytes.
type credit struct {
	n     int64
	ready chan struct{} // closed when given, when the share failed, or when excused
	state creditState
}

type creditState uint8

const (
	creditAsked creditState = iota
	creditGiven
	creditExcused
)

func (b *Budget) join() *share { return b.add(&share{b: b}) }

func (b *Budget) add(s *share) *share {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shares = append(b.shares, s)
	b.recount()
	return s
}

// leave takes a share that holds nothing out of the budget.
func (s *share) leave() {
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.shares, s)
	if i < 0 {
		return
	}
	b.shares = slices.Delete(b.shares, i, i+1)
	b.recount()
	b.give()
}

// recount works out what is guaranteed when shares have come or gone.
func (b *Budget) recount() {
	recorders, reserved := 0, int64(0)
	for _, s := range b.shares {
		reserved += s.fixed
		if s.fixed == 0 {
			recorders++
		}
	}
	b.each = max(0, b.total-reserved) / int64(2*max(1, recorders))
	b.common = max(0, b.total-reserved-b.each*int64(recorders))
	b.excess = 0
	for _, s := range b.shares {
		b.excess += max(0, s.used-s.guarantee())
	}
}

func (s *share) guarantee() int64 {
	if s.fixed > 0 {
		return s.fixed
	}
	return s.b.each
}

// most is how many bytes the share can always have at once, if it holds nothing.
func (s *share) most() int64 {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	return s.guarantee()
}

// take gives n bytes to s if there are as many.
func (b *Budget) take(s *share, n int64) bool {
	g := s.guarantee()
	more := max(0, s.used+n-g) - max(0, s.used-g)
	if b.used+n > b.total || more > 0 && b.excess+more > b.common {
		return false
	}
	s.used += n
	b.used += n
	b.excess += more
	return true
}

// tryAcquire takes n bytes without waiting, if that is this share's turn.
func (s *share) tryAcquire(n int64) (bool, error) {
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.err != nil {
		return false, s.err
	}
	return len(s.waiting) == 0 && b.take(s, n), nil
}

// acquire waits for n bytes. It fails with ctx's error or the share's, or with errExcused.
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
	switch {
	case w.state == creditGiven:
		return nil // even if ctx has ended: the caller finds out by itself
	case w.state == creditExcused:
		return errExcused
	case s.err != nil:
		return s.err
	}
	if i := slices.Index(s.waiting, w); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
		b.waiters--
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
	g := s.guarantee()
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
			w.state = creditGiven
			close(w.ready)
			progress = true
		}
		b.turn++
	}
}

// excuse ends every wait of the share with errExcused.
func (s *share) excuse() { s.dismiss(creditExcused) }

// fail lets nobody have anything any more; err is what they are told.
func (s *share) fail(err error) {
	s.b.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.b.mu.Unlock()
	s.dismiss(creditAsked)
}

func (s *share) dismiss(state creditState) {
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, w := range s.waiting {
		w.state = state
		close(w.ready)
	}
	b.waiters -= len(s.waiting)
	s.waiting = nil
	b.give()
}
