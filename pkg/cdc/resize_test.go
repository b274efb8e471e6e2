package cdc_test

import (
	"context"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/events"
)

// grown replays a stream of a volume that grows: what reaches beyond the size that the stream told fails the
// test.
func (r *rig) grown(t *testing.T, size int64) []byte {
	t.Helper()
	image := make([]byte, size)
	for _, e := range r.journal.events(t) {
		switch e := e.(type) {
		case *events.Resize:
			if e.Old != int64(len(image)) {
				t.Fatalf("%+v of a volume of %d bytes", e, len(image))
			}
			image = append(image, make([]byte, e.New-e.Old)...)
		case *events.Frame:
			applyFrame(t, image, e)
		}
	}
	return image
}

// [I] A volume grows under load, also while the journal is dead and while nothing is recorded; the stream is told
// before it is written beyond its old end.
func TestResize(t *testing.T) {
	const size = 6<<20 + 512
	r := newRig(t, size, func(o *cdc.Options) {
		track(o)
		o.Budget = cdc.NewBudget(256 << 10)
		o.Patience = 50 * time.Millisecond
	}).run(t)
	ctx, end := context.WithCancel(context.Background())
	var load sync.WaitGroup
	for i := range 4 {
		load.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(i)))
			for ctx.Err() == nil {
				must(t, mutate(r.Recorder, rnd, r.Size()))
			}
		})
	}
	grow := func(to int64) {
		t.Helper()
		must(t, r.Resize(ctx, to))
		must(t, r.Resize(ctx, to)) // said twice
		if r.Size() != to {
			t.Fatalf("%d bytes behind a resize to %d", r.Size(), to)
		}
		must(t, r.Write(ctx, pattern(4096, 1), to-4096, false))
	}
	grow(9 << 20)
	r.journal.set(func() { r.journal.stuck = true })
	eventually(t, "tracking", func() bool { ready, _ := r.Ready(); return !ready })
	grow(17<<20 + 1024)
	grow(18 << 20)
	r.journal.set(func() { r.journal.stuck = false })
	r.awaitReady(t)
	grow(30 << 20)
	end()
	load.Wait()
	r.awaitReady(t)
	r.drain(t)
	if i := firstDifference(r.image(t), r.grown(t, size)); i >= 0 {
		t.Fatalf("the stream and the device differ from byte %d on", i)
	}
	for _, to := range []int64{29 << 20, 30<<20 + 100, -512} {
		wantIs(t, "resize", r.Resize(context.Background(), to), cdc.ErrRange)
	}
	must(t, r.stop())
	wantIs(t, "resize", r.Resize(context.Background(), 40<<20), syscall.EIO)
}

// A Record whose stream was opened with an old size begins with the growth.
func TestResizeWhileDetached(t *testing.T) {
	r := newRig(t, 1<<20, track)
	must(t, os.Truncate(r.path, 3<<20)) // as somebody does who extends the device first
	must(t, r.Resize(context.Background(), 3<<20))
	must(t, r.Write(context.Background(), pattern(4096, 1), 2<<20, false))
	r.tenure.Size = 1 << 20
	r.run(t)
	r.awaitReady(t)
	r.drain(t)
	if i := firstDifference(r.image(t), r.grown(t, 1<<20)); i >= 0 {
		t.Fatalf("the stream and the device differ from byte %d on", i)
	}
	if n := count[*events.Resize](r.journal.events(t)); n != 1 {
		t.Errorf("%d times resized", n)
	}
}
