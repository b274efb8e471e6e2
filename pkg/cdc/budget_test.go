package cdc

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestBudgetIsNeverExceeded(t *testing.T) {
	b := NewBudget(1 << 20)
	var load sync.WaitGroup
	for i := range 3 {
		s := b.join()
		for j := range 8 {
			rnd := rand.New(rand.NewPCG(uint64(i), uint64(j)))
			load.Go(func() {
				for range 300 {
					n := 1 + rnd.Int64N(s.most())
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rnd.IntN(200))*time.Microsecond)
					if err := s.acquire(ctx, n); err == nil {
						if used := b.Used(); used > b.Total() {
							t.Errorf("%d of %d bytes are used", used, b.Total())
						}
						s.release(n)
					}
					cancel()
				}
			})
		}
	}
	load.Wait()
	if b.used != 0 || b.excess != 0 || b.waiters != 0 {
		t.Errorf("afterwards %d used, %d beyond guarantees, %d waiting", b.used, b.excess, b.waiters)
	}
}

// A recorder that is stuck can't take what is guaranteed to another one.
func TestBudgetGuarantees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1 << 20)
		stuck, other := b.join(), b.join()
		full, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			for {
				if err := stuck.acquire(full, 4096); err != nil {
					ended <- err
					return
				}
			}
		}()
		synctest.Wait()
		if err := other.acquire(t.Context(), other.most()); err != nil {
			t.Fatal(err)
		}
		if b.Used() != b.Total() {
			t.Errorf("%d of %d bytes are used", b.Used(), b.Total())
		}
		// First come, first served: the small one waits behind the large one.
		var order []string
		var mu sync.Mutex
		ask := func(name string, n int64) {
			go func() {
				if err := other.acquire(t.Context(), n); err == nil {
					mu.Lock()
					order = append(order, name)
					mu.Unlock()
				}
			}()
			synctest.Wait()
		}
		ask("large", 100<<10)
		ask("small", 512)
		other.release(50 << 10)
		synctest.Wait()
		if len(order) != 0 {
			t.Errorf("%v were served before their turn", order)
		}
		other.release(60 << 10)
		synctest.Wait()
		if len(order) != 2 {
			t.Errorf("%v were served", order)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		other.fail(ErrStopped)
		if err := other.acquire(t.Context(), 1); !errors.Is(err, ErrStopped) {
			t.Errorf("a share that failed answers %v", err)
		}
	})
}

// A recorder that joins late has nothing guaranteed that others hold already.
func TestBudgetJoinedLate(t *testing.T) {
	b := NewBudget(1 << 20)
	first := b.join()
	if err := first.acquire(t.Context(), 1<<20); err != nil {
		t.Fatal(err)
	}
	second := b.join()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := second.acquire(ended, 4096); !errors.Is(err, context.Canceled) || b.Used() > b.Total() {
		t.Errorf("%v, and %d of %d bytes are used", err, b.Used(), b.Total())
	}
	first.release(1 << 20)
	if err := second.acquire(t.Context(), 4096); err != nil {
		t.Error(err)
	}
	second.release(4096)
	if b.used != 0 || b.excess != 0 {
		t.Errorf("afterwards %d used, %d beyond guarantees", b.used, b.excess)
	}
}

func TestRangeLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r rangeLocks
		var mu sync.Mutex
		var got []string
		lock := func(ctx context.Context, name string, off, n int64) func() {
			end := make(chan struct{})
			go func() {
				l, err := r.lock(ctx, off, n)
				if err != nil {
					return
				}
				mu.Lock()
				got = append(got, name)
				mu.Unlock()
				<-end
				r.unlock(l)
			}()
			synctest.Wait()
			return func() { close(end); synctest.Wait() }
		}
		expect := func(want ...string) {
			t.Helper()
			if len(got) != len(want) {
				t.Fatalf("locked %v, want %v", got, want)
			}
			for i := range want {
				if got[i] != want[i] {
					t.Fatalf("locked %v, want %v", got, want)
				}
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		a := lock(t.Context(), "a", 0, 100)
		b := lock(t.Context(), "b", 100, 100) // adjacent, not overlapping
		c := lock(ctx, "c", 50, 100)          // waits for a and b
		d := lock(t.Context(), "d", 140, 10)  // waits for b and c, so that c doesn't starve
		e := lock(t.Context(), "e", 300, 10)
		expect("a", "b", "e")
		a()
		expect("a", "b", "e")
		b()
		expect("a", "b", "e", "c")
		c()
		expect("a", "b", "e", "c", "d")
		f := lock(ctx, "f", 0, 1000)
		g := lock(t.Context(), "g", 500, 10) // waits for f, which waits for d and e
		expect("a", "b", "e", "c", "d")
		cancel()
		synctest.Wait()
		expect("a", "b", "e", "c", "d", "g")
		_ = f
		for _, unlock := range []func(){d, e, g} {
			unlock()
		}
		if r.first != nil || r.last != nil {
			t.Error("locks are left")
		}
	})
}

func TestRangeLocksExclude(t *testing.T) {
	var r rangeLocks
	const cells = 64
	var owner [cells]int // guarded by the locks: the race detector sees what overlaps
	var load sync.WaitGroup
	for i := range 16 {
		rnd := rand.New(rand.NewPCG(1, uint64(i)))
		load.Go(func() {
			for range 1000 {
				off := rnd.Int64N(cells)
				n := 1 + rnd.Int64N(min(8, cells-off))
				ctx, cancel := context.Background(), context.CancelFunc(func() {})
				if rnd.IntN(4) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rnd.IntN(20))*time.Microsecond)
				}
				if l, err := r.lock(ctx, off, n); err == nil {
					for c := off; c < off+n; c++ {
						owner[c]++
					}
					for c := off; c < off+n; c++ {
						if owner[c]--; owner[c] != 0 {
							t.Errorf("cell %d has %d owners", c, owner[c]+1)
						}
					}
					r.unlock(l)
				}
				cancel()
			}
		})
	}
	load.Wait()
	if r.first != nil {
		t.Error("locks are left")
	}
}
