package cdc_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/events"
)

// [I] The journal's order is the device's order, also for mutations that overlap, and with a pass
// running beside them.
func TestJournalEqualsDeviceUnderRandomLoad(t *testing.T) {
	const size = 4 << 20
	for _, compress := range []bool{false, true} {
		t.Run(fmt.Sprintf("compress=%v", compress), func(t *testing.T) {
			rnd := random(t)
			r := newRig(t, size, func(o *cdc.Options) {
				o.Compress = compress
				o.Budget = cdc.NewBudget(1 << 20) // scarce on purpose
				o.FrameBytes = 64 << 10
			})
			for off := int64(0); off < size; off += 64 << 10 { // what the pass has to find
				if rnd.IntN(2) == 0 {
					_, err := r.dev.Device.WriteAt(noise(rnd, 64<<10), off)
					must(t, err)
				}
			}
			r.pass(events.PassSeed)
			r.run(t)
			load := func(each int) {
				var load sync.WaitGroup
				for range 24 {
					own := rand.New(rand.NewPCG(rnd.Uint64(), rnd.Uint64()))
					load.Go(func() {
						for range each {
							must(t, mutate(r.Recorder, own, size))
						}
					})
				}
				load.Wait()
			}
			load(100)
			r.awaitReady(t)
			// Behind a whole pass it doesn't matter what was there before. It is looked at often: what is
			// wrong is soon overwritten.
			for range 12 {
				load(15)
				r.check(t, pattern(size, 0xee))
			}
			if n := count[*events.PassDone](r.journal.events(t)); n != 1 {
				t.Errorf("%d PassDone", n)
			}
		})
	}
}

// mutate does something to a few hot places, so that mutations overlap.
func mutate(r *cdc.Recorder, rnd *rand.Rand, size int64) error {
	ctx := context.Background()
	off, n := rnd.Int64N(size), int64(512*(1+rnd.IntN(24)))
	switch rnd.IntN(8) {
	case 0:
		n = rnd.Int64N(300 << 10)
	case 1, 2:
		off = rnd.Int64N(8) * 4096
	case 3:
		n = 1 + rnd.Int64N(9000)
	}
	if rnd.IntN(2) == 0 {
		off = off / 512 * 512
	}
	n = min(n, size-off)
	switch rnd.IntN(10) {
	case 0:
		return r.Trim(ctx, off, n, rnd.IntN(9) == 0)
	case 1:
		return r.Zero(ctx, off, n, cdc.ZeroOptions{NoHole: rnd.IntN(2) == 0})
	case 2:
		return r.Write(ctx, make([]byte, n), off, false)
	case 3:
		return r.Write(ctx, pattern(int(n), byte(rnd.Uint32())), off, false)
	}
	return r.Write(ctx, noise(rnd, int(n)), off, rnd.IntN(20) == 0)
}

// The order of a mutation's steps: device before journal, journal before acknowledgement; nothing before
// the gate.
func TestOrderOfSteps(t *testing.T) {
	r := newRig(t, 1<<20, nil)
	var mu sync.Mutex
	var steps []string
	step := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		steps = append(steps, s)
	}
	r.dev.before = func(call string, off, _ int64) error {
		step(fmt.Sprintf("%s %d", call, off>>10))
		return nil
	}
	ctx := deadline(t)
	must(t, r.Hold(events.Token{Epoch: 1, Barrier: 1}, 1<<40))
	acknowledged := make(chan error, 1)
	go func() {
		err := r.Write(ctx, pattern(4096, 1), 0, true)
		step("acknowledged")
		acknowledged <- err
	}()
	step("released")
	r.Release(events.Token{Epoch: 1, Barrier: 1})
	r.run(t)
	must(t, <-acknowledged)
	r.check(t, make([]byte, 1<<20))
	if want := []string{"released", "write 0", "flush 0", "acknowledged"}; !slices.Equal(steps, want) {
		t.Errorf("steps %q, want %q", steps, want)
	}
}

// A mutation that the pipeline has no buffer for is on the device, and not acknowledged before it is in
// the pipeline.
func TestAcknowledgementFollowsPipeline(t *testing.T) {
	r := newRig(t, 4<<20, nil)
	ctx := deadline(t)
	must(t, r.Attach(r.journal))
	acknowledged := make(chan int, 8)
	var writes sync.WaitGroup
	written := make(chan struct{}, 8)
	r.dev.before = func(string, int64, int64) error { written <- struct{}{}; return nil }
	for i := range 4 {
		writes.Go(func() {
			must(t, r.Write(ctx, noise(rand.New(rand.NewPCG(1, 2)), 256<<10), int64(i)*256<<10, false))
			acknowledged <- i
		})
	}
	for range 4 {
		<-written
	}
	for range 3 {
		<-acknowledged
	}
	select {
	case i := <-acknowledged:
		t.Fatalf("write %d was acknowledged without a place in the pipeline", i)
	default:
	}
	ctx, end := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.Work(ctx, r.journal) }()
	writes.Wait()
	r.check(t, make([]byte, 4<<20))
	end()
	must(t, <-ended)
}

func TestOutOfRangeTouchesNothing(t *testing.T) {
	r := newRig(t, 1<<20, nil).run(t)
	ctx := deadline(t)
	calls := 0
	r.dev.before = func(string, int64, int64) error { calls++; return nil }
	for _, e := range []struct{ off, n int64 }{{-1, 1}, {1 << 20, 1}, {1<<20 - 1, 2}, {1 << 62, 1 << 62}, {0, 1<<20 + 1}} {
		errs := []error{
			r.Zero(ctx, e.off, e.n, cdc.ZeroOptions{}), r.Trim(ctx, e.off, e.n, true),
		}
		if e.n < 1<<21 {
			_, err := r.ReadAt(make([]byte, e.n), e.off)
			errs = append(errs, err, r.Write(ctx, make([]byte, e.n), e.off, true))
		}
		for i, err := range errs {
			wantIs(t, fmt.Sprintf("%d at %d, call %d", e.n, e.off, i), err, cdc.ErrRange)
		}
	}
	r.drain(t)
	if calls != 0 || len(r.journal.events(t)) != 1 { // PassDone
		t.Errorf("%d calls reached the device, %d events the journal", calls, len(r.journal.events(t)))
	}
}
