package cdc_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/cdc/activity"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/repair"
)

// base is what a recovery site's replica holds.
type base struct {
	image []byte
	asked atomic.Int64 // calls
}

func (b *base) hashes(_ context.Context, off, length int64) (h [][32]byte, err error) {
	b.asked.Add(1)
	if off%repair.HashUnit != 0 || length > 16<<20 {
		return nil, fmt.Errorf("asked for %d bytes at %d", length, off)
	}
	for end := min(off+length, int64(len(b.image))); off < end; off += repair.HashUnit {
		h = append(h, sha256.Sum256(b.image[off:min(off+repair.HashUnit, end)]))
	}
	return h, nil
}

// newGeneration is a volume full of data, of which a base has all but the given units.
func newGeneration(t *testing.T, size int64, differ []int64, adjust func(*cdc.Options)) (*rig, *base) {
	t.Helper()
	r := newRig(t, size, adjust)
	b := &base{image: noise(rand.New(rand.NewPCG(1, 2)), int(size))}
	must(t, writeAll(r.dev.Device, b.image))
	for _, unit := range differ {
		_, err := r.dev.Device.WriteAt(pattern(512, 0xaa), unit*repair.HashUnit+1024)
		must(t, err)
	}
	r.pass(events.PassResync)
	r.tenure.Hashes = b.hashes
	return r, b
}

// sent is how many bytes of data the frames hold.
func sent(t *testing.T, j *memJournal) (n int64) {
	t.Helper()
	for _, e := range j.events(t) {
		if f, ok := e.(*events.Frame); ok {
			n += int64(f.Length)
		}
	}
	return n
}

// [I] Behind a lost history only those units are sent that differ from the base, and the stream on top of
// the base tells what the device holds.
func TestOnlyWhatDiffersIsSent(t *testing.T) {
	const size = 40<<20 + 100<<10
	differ := []int64{0, 3, 17, 64, 160}
	for _, frame := range []int{0, 64 << 10} {
		r, b := newGeneration(t, size, differ, func(o *cdc.Options) { o.FrameBytes = frame })
		r.run(t)
		r.awaitReady(t)
		r.check(t, b.image)
		if n, want := sent(t, r.journal), int64(len(differ)-1)*repair.HashUnit+100<<10; n != want {
			t.Errorf("%d bytes were sent, want %d", n, want)
		}
		if asked := b.asked.Load(); asked != 3 {
			t.Errorf("hashes were asked for %d times", asked)
		}
		all := r.journal.events(t)
		if done, ok := all[len(all)-1].(*events.PassDone); !ok || done.Pass != events.PassResync {
			t.Errorf("the last event is %+v", all[len(all)-1])
		}
	}
}

// Hashes that can't be had are asked for again. What the base doesn't have is sent, as is everything that is left
// when the base is gone.
func TestHashesThatAreMissing(t *testing.T) {
	const size = 40 << 20
	r, b := newGeneration(t, size, []int64{5}, nil)
	calls := 0
	r.tenure.Hashes = func(ctx context.Context, off, length int64) ([][32]byte, error) {
		if calls++; calls%2 == 1 {
			return nil, repair.ErrUnavailable
		}
		if calls > 2 {
			return nil, fmt.Errorf("the replica moved on: %w", repair.ErrGone)
		}
		return b.hashes(ctx, off, length)
	}
	r.run(t)
	r.awaitReady(t)
	r.check(t, b.image)
	if n := sent(t, r.journal); n != 24<<20+repair.HashUnit {
		t.Errorf("%d bytes were sent", n)
	}

	r, b = newGeneration(t, size, []int64{5}, nil)
	b.image = b.image[:30<<20] // the volume has grown since
	r.run(t)
	r.awaitReady(t)
	r.check(t, append(bytes.Clone(b.image), make([]byte, 10<<20)...))
	if n := sent(t, r.journal); n != 10<<20+repair.HashUnit {
		t.Errorf("%d bytes were sent", n)
	}
}

// [I] Comparing with a base goes wrong with nothing that can happen meanwhile: mutations that take back what
// differs, outages of the journal, mutations and flushes that the device fails, and heals of what the
// replica holds against all expectation.
func TestComparingBesideEverything(t *testing.T) {
	const size = 24 << 20
	rnd := random(t)
	for round := range 6 {
		r, b := newGeneration(t, size, []int64{1, 30, 31, 70, 90}, func(o *cdc.Options) {
			track(o)
			o.Budget, o.Patience, o.Activity = cdc.NewBudget(1<<20), 4*time.Millisecond, narrow(t, o, 3)
			o.PassBytesPerSecond = 64 << 20
		})
		faults := rand.New(rand.NewPCG(rnd.Uint64(), 1))
		var mu sync.Mutex
		var healthy atomic.Bool
		r.dev.before = func(call string, off, n int64) error {
			mu.Lock()
			defer mu.Unlock()
			if !healthy.Load() && call != "read" && faults.IntN(40) == 0 {
				return syscall.EIO
			}
			return nil
		}
		original := bytes.Clone(b.image)
		replica := bytes.Clone(b.image)
		r.run(t)
		var load sync.WaitGroup
		for range 4 {
			own := rand.New(rand.NewPCG(rnd.Uint64(), 1))
			load.Go(func() {
				for range 250 {
					off := own.Int64N(size/4096-4) * 4096
					n := 4096 * (1 + own.Int64N(4))
					p := noise(own, int(n))
					if own.IntN(2) == 0 {
						p = original[off : off+n]
					}
					if err := r.Write(context.Background(), p, off, own.IntN(20) == 0); err != nil {
						wantIs(t, "write", err, syscall.EIO)
					}
				}
			})
		}
		for range rnd.IntN(6) {
			stuck := rnd.IntN(2) == 0
			r.journal.set(func() { r.journal.stuck, r.journal.lazy = stuck, !stuck })
			<-time.After(time.Duration(rnd.IntN(20)) * time.Millisecond) // the outage itself
			r.journal.set(func() { r.journal.stuck, r.journal.lazy = false, false })
		}
		damaged := 20 << 20
		copy(replica[damaged:], pattern(1000, 1))
		must(t, r.Heal(int64(damaged), 1000))
		load.Wait()
		healthy.Store(true)
		r.awaitReady(t)
		r.drain(t)
		r.journal.apply(t, replica, -1)
		if i := firstDifference(replica, r.image(t)); i >= 0 {
			t.Fatalf("round %d: the base with the stream and the device differ from byte %d on", round, i)
		}
		t.Logf("%d bytes were sent", sent(t, r.journal))
		must(t, r.stop())
	}
}

// A region whose base content came back in a way that the stream doesn't know is sent, although it equals the
// base: what was taken back is in the stream.
func TestBaseContentThatCameBack(t *testing.T) {
	const size, at = 12 << 20, 9 << 20
	for name, back := range map[string]func(t *testing.T, r *rig, old []byte){
		"by a mutation that failed half-way": func(t *testing.T, r *rig, old []byte) {
			r.dev.before = func(call string, off, _ int64) error {
				if call == "write" && off == at {
					return syscall.EIO
				}
				return nil
			}
			wantIs(t, "write", r.Write(deadline(t), old[:1024], at, false), syscall.EIO)
		},
		"by one that the journal never got": func(t *testing.T, r *rig, old []byte) {
			r.journal.set(func() { r.journal.stuck = true })
			must(t, r.Write(deadline(t), pattern(512, 3), 0, false)) // is being handed over
			<-time.After(20 * time.Millisecond)                      // a moment for the pipeline: later is as good
			must(t, r.Write(deadline(t), old[:512], at, false))
			for ready := true; ready; { // until the recorder tracks
				must(t, r.Write(deadline(t), noise(rand.New(rand.NewPCG(1, 1)), 64<<10), 0, false))
				ready = r.Drain(soon(t)) != nil && !errors.Is(r.Drain(soon(t)), cdc.ErrDetached)
			}
			r.journal.set(func() { r.journal.stuck = false })
		},
		"by a flush that lost it": func(t *testing.T, r *rig, old []byte) {
			r.dev.before = func(call string, _, _ int64) error {
				if call == "flush" {
					_, err := r.dev.Device.WriteAt(old[:512], at)
					return errors.Join(syscall.EIO, err)
				}
				return nil
			}
			wantIs(t, "flush", r.Flush(deadline(t)), syscall.EIO)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, b := newGeneration(t, size, nil, func(o *cdc.Options) { track(o); o.Budget = cdc.NewBudget(512 << 10) })
			// The region in between equals the base: the pass comes to the last one in a run of its own,
			// and only when what took its content back is over.
			_, _, stale := r.log.NextStale(activity.RegionSize)
			if !stale {
				t.Fatal("nothing is stale")
			}
			r.log.Resent(activity.RegionSize, activity.RegionSize, 1)
			ask := make(chan struct{})
			r.tenure.Hashes = func(ctx context.Context, off, length int64) ([][32]byte, error) {
				select {
				case <-ask:
				case <-ctx.Done():
				}
				return b.hashes(ctx, off, length)
			}
			r.run(t)
			eventually(t, "recording", func() bool { return r.Drain(deadline(t)) == nil })
			must(t, r.Write(deadline(t), pattern(512, 1), at, false))
			r.drain(t)
			back(t, r, b.image[at:])
			r.dev.before = nil
			close(ask)
			r.awaitReady(t)
			r.check(t, b.image)
		})
	}
}

// A second Record must not be compared with the base of an earlier one.
func TestBaseIsForgotten(t *testing.T) {
	r, b := newGeneration(t, 8<<20, nil, track)
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Record(ctx, r.journal, r.tenure) }()
	r.awaitReady(t)
	must(t, r.Write(ctx, pattern(4096, 1), 0, false))
	r.drain(t)
	end()
	must(t, <-ended)
	must(t, r.Write(context.Background(), b.image[:4096], 0, false)) // takes it back
	r.tenure = cdc.Tenure{}
	r.run(t)
	r.awaitReady(t)
	r.check(t, b.image)
	if b.asked.Load() != 1 {
		t.Errorf("hashes were asked for %d times", b.asked.Load())
	}
}
