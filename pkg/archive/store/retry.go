package store

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// RetryOptions shape a Retry.
type RetryOptions struct {
	// Limit is how long an operation that fails is tried again; 0: until its context is done.
	Limit time.Duration
	// First is how long is waited after the first failure, twice as long after each further one up to Most, each shortened by a random
	// part of up to a half; 0: 200 ms and 15 s.
	First, Most time.Duration
	Log         *slog.Logger // told that the store is waited for, once half a minute, and that it is back; nil: silent
}

// Retry tries operations again that fail for a reason that passes: see Lasting. An attempt that failed may still take effect as long as the
// network holds it back, also after a later operation: a deleted object may come back, and a replaced one be as it was. Names that are
// put once and with one content are safe from that.
type Retry struct {
	s Store
	o RetryOptions

	mu     sync.Mutex
	since  time.Time // of the first failure that no success followed; zero: none
	logged time.Time
}

// NewRetry wraps a store.
func NewRetry(s Store, o RetryOptions) *Retry {
	if o.First == 0 {
		o.First = 200 * time.Millisecond
	}
	if o.Most == 0 {
		o.Most = 15 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Retry{s: s, o: o}
}

// String implements Store.
func (r *Retry) String() string { return r.s.String() }

// Put implements Store.
func (r *Retry) Put(ctx context.Context, name string, data []byte) error {
	return r.do(ctx, func() error { return r.s.Put(ctx, name, data) })
}

// Get implements Store.
func (r *Retry) Get(ctx context.Context, name string, off, length int64) (data []byte, err error) {
	err = r.do(ctx, func() (err error) {
		data, err = r.s.Get(ctx, name, off, length)
		return err
	})
	return data, err
}

// List implements Store. A listing that fails goes on where it was.
func (r *Retry) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		last, enough := "", false
		b := r.begin()
		for {
			var failure error
			for info, err := range r.s.List(ctx, prefix) {
				if err != nil {
					failure = err
					break
				}
				if info.Name <= last {
					continue
				}
				last, enough = info.Name, !yield(info, nil)
				if enough {
					return
				}
				b = r.begin() // it gets on
			}
			if failure == nil {
				r.succeeded()
				return
			}
			if failure = b.wait(ctx, failure); failure != nil {
				yield(Info{}, failure)
				return
			}
		}
	}
}

// Delete implements Store.
func (r *Retry) Delete(ctx context.Context, name string) error {
	return r.do(ctx, func() error { return r.s.Delete(ctx, name) })
}

func (r *Retry) do(ctx context.Context, operation func() error) error {
	b := r.begin()
	for {
		err := operation()
		if err == nil {
			r.succeeded()
			return nil
		}
		if err := b.wait(ctx, err); err != nil {
			return err
		}
	}
}

// backoff is what one operation knows of its failures.
type backoff struct {
	r     *Retry
	pause time.Duration // the next one, before chance
	since time.Time     // of the first failure
}

func (r *Retry) begin() backoff { return backoff{r: r, pause: r.o.First} }

// wait waits until an operation may be tried again after err; it returns the error with which the operation is to end instead.
func (b *backoff) wait(ctx context.Context, err error) error {
	if ctx.Err() != nil || Lasting(err) {
		return err
	}
	now := time.Now()
	if b.since.IsZero() {
		b.since = now
	}
	b.r.failed(now, err)
	pause := b.pause - rand.N(b.pause/2+1)
	b.pause = min(2*b.pause, b.r.o.Most)
	if waited := now.Sub(b.since); b.r.o.Limit > 0 && waited+pause > b.r.o.Limit {
		return fmt.Errorf("given up after %v: %w", waited.Round(time.Second), err)
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w, while waiting for the store to come back: %w", context.Cause(ctx), err)
	}
}

// quiet is how long nothing more is said of a store that stays away.
const quiet = 30 * time.Second

func (r *Retry) failed(now time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.since.IsZero() {
		r.since = now
	}
	if now.Sub(r.logged) < quiet {
		return
	}
	r.logged = now
	r.o.Log.Warn("waiting for the store", "store", r.s.String(), "for", now.Sub(r.since).Round(time.Second), "error", err)
}

func (r *Retry) succeeded() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.since.IsZero() {
		return
	}
	if !r.logged.Before(r.since) {
		r.o.Log.Info("the store is back", "store", r.s.String(), "away", time.Since(r.since).Round(time.Second))
	}
	r.since, r.logged = time.Time{}, time.Time{}
}
