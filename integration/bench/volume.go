package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/barrier"
	"github.com/farshore/farshore/pkg/cdc/nbd"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// noise is random bytes to take content from; beyond its beginning by half, so that any offset there is good.
var noise = func() []byte {
	b := make([]byte, 16<<20)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}()

// content is n bytes that don't compress.
func content(r *rand.Rand, n int) []byte {
	at := r.IntN((len(noise)-n)/512) * 512
	return noise[at : at+n]
}

// writers write to a volume through NBD until they are stopped.
type writers struct {
	size    int64 // of the volume
	length  int   // of a write
	depth   int
	random  bool
	rate    float64 // bytes per second; 0: as fast as it goes
	written atomic.Int64
}

// run writes for a while.
func (w *writers) run(ctx context.Context, c *nbd.Client, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	begun := time.Now()
	var at atomic.Int64
	var first atomic.Pointer[error]
	var wg sync.WaitGroup
	for i := range w.depth {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), uint64(begun.UnixNano())))
			blocks := w.size / int64(w.length)
			for ctx.Err() == nil {
				n := at.Add(1) - 1
				if w.rate > 0 {
					due := begun.Add(time.Duration(float64(n*int64(w.length)) / w.rate * float64(time.Second)))
					select {
					case <-time.After(time.Until(due)):
					case <-ctx.Done():
						return
					}
				}
				block := n % blocks
				if w.random {
					block = r.Int64N(blocks)
				}
				// Without ctx: an operation that has begun is finished.
				if err := c.Write(context.WithoutCancel(ctx), content(r, w.length), block*int64(w.length)); err != nil {
					first.CompareAndSwap(nil, &err)
					cancel()
					return
				}
				w.written.Add(int64(w.length))
			}
		})
	}
	wg.Wait()
	if err := first.Load(); err != nil {
		return fmt.Errorf("write to the volume: %w", *err)
	}
	return nil
}

// mark makes a point behind everything that was acknowledged.
func (s *sites) mark(ctx context.Context) (*events.Commit, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		c, err := barrier.RequestMark(ctx, s.primary.Conn(), harness.Group, "bench", 5*time.Second)
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			return nil, errors.Join(ctx.Err(), err)
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// arrived waits until the DR site has stored all of a point.
func (s *sites) arrived(ctx context.Context, c *events.Commit) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for _, e := range c.Vector {
		id := journal.StreamID{Group: harness.Group, Part: e.Volume, Generation: e.Position.Generation}
		for {
			m, err := s.dr.Mirror(ctx, id)
			if ctx.Err() != nil {
				return errors.Join(ctx.Err(), err)
			}
			if err == nil && m.Last() >= e.Position.Seq {
				break
			}
			pause(ctx, 5*time.Millisecond)
		}
	}
	return nil
}

// appliedTo waits until the replicas have all of a point, durably.
func (s *sites) appliedTo(ctx context.Context, c *events.Commit) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		status, err := s.Status()
		if err == nil && status.Applied != nil && status.Applied.Barrier >= c.Token.Barrier {
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		pause(ctx, 10*time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
