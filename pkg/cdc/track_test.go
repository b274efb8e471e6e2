package cdc_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/cdc/activity"
	"github.com/farshore/farshore/pkg/events"
)

func track(o *cdc.Options) { o.WhenBusGone = cdc.Track }

// [I] With Track the application doesn't stall, whatever the journal does: it takes nothing, or takes and
// doesn't store. When it is back, what was written meanwhile is sent, and the stream tells what the device holds.
func TestTrackingAndHealing(t *testing.T) {
	const size = 256 << 20
	for name, c := range map[string]struct {
		dead, alive func(j *memJournal)
		off         func(i int64) int64
	}{
		"takes nothing": {
			func(j *memJournal) { j.stuck = true }, func(j *memJournal) { j.stuck = false },
			func(i int64) int64 { return i * 64 << 10 },
		},
		"takes nothing, and writes are wide": {
			func(j *memJournal) { j.stuck = true }, func(j *memJournal) { j.stuck = false },
			func(i int64) int64 { return i * activity.RegionSize % size },
		},
		"stores nothing": {
			func(j *memJournal) { j.lazy = true }, func(j *memJournal) { j.lazy = false },
			func(i int64) int64 { return i * 64 << 10 },
		},
		"stores nothing, and the activity log is full": {
			func(j *memJournal) { j.lazy = true }, func(j *memJournal) { j.lazy = false },
			func(i int64) int64 { return i * activity.RegionSize % size },
		},
	} {
		t.Run(name, func(t *testing.T) {
			budget, hot := cdc.NewBudget(512<<10), 64
			if strings.Contains(name, "full") {
				hot = 8
			}
			r := newRig(t, size, func(o *cdc.Options) { track(o); o.Budget = budget; o.Activity = narrow(t, o, hot) })
			r.run(t)
			ctx := deadline(t)
			rnd := rand.New(rand.NewPCG(7, 7))
			must(t, r.Write(ctx, noise(rnd, 64<<10), 0, false))
			for outage := range 3 {
				r.journal.set(func() { c.dead(r.journal) })
				for i := range int64(40) {
					must(t, r.Write(ctx, noise(rnd, 16<<10), c.off(i+int64(outage)), false))
				}
				must(t, r.Flush(ctx))
				must(t, r.Hold(token(1, uint64(outage+1)), time.Minute))
				_, err := r.Mark(ctx, token(1, uint64(outage+1)))
				wantIs(t, "mark", err, cdc.ErrNotReady)
				wantIs(t, "drain", r.Drain(ctx), cdc.ErrDetached)
				if d := r.Heartbeat(); d.DebtBytes < 512<<10 || d.DebtAge <= 0 {
					t.Errorf("the debt is %+v", d)
				}
				if used := budget.Used(); used > budget.Total() {
					t.Errorf("%d of %d bytes are used", used, budget.Total())
				}
				r.journal.set(func() { c.alive(r.journal) })
				r.awaitReady(t)
				if d := r.Heartbeat(); outage == 0 && d.DebtBytes > 64<<10 {
					t.Errorf("a debt of %d bytes behind the pass", d.DebtBytes)
				}
			}
			r.check(t, make([]byte, size))
			eventually(t, "budget is free", func() bool { return budget.Used() == 0 })
			for i, e := range r.journal.events(t) {
				if done, ok := e.(*events.PassDone); ok && done.Pass != events.PassResync {
					t.Errorf("event %d is %+v", i, done)
				}
			}
		})
	}
}

// narrow is a log with few hot regions, in place of the one that a rig has.
func narrow(t *testing.T, o *cdc.Options, hot int) *activity.Log {
	t.Helper()
	l := openLog(t, t.TempDir()+"/narrow", o.Device.Size(), hot, o.Device.Flush)
	clean(t, l)
	t.Cleanup(func() { must(t, l.Close()) })
	return l
}

// A load of overlapping mutations goes through outages of the journal, one after the other.
func TestTrackingUnderLoad(t *testing.T) {
	const size = 16 << 20
	rnd := random(t)
	r := newRig(t, size, func(o *cdc.Options) { track(o); o.Budget = cdc.NewBudget(256 << 10); o.Patience = 4 * time.Millisecond }).run(t)
	ctx, end := context.WithCancel(context.Background())
	var load sync.WaitGroup
	var written atomic.Int64
	for range 8 {
		own := rand.New(rand.NewPCG(rnd.Uint64(), 1))
		load.Go(func() {
			for ctx.Err() == nil {
				must(t, mutate(r.Recorder, own, size))
				written.Add(1)
			}
		})
	}
	for range 12 {
		stuck := rnd.IntN(2) == 0
		r.journal.set(func() { r.journal.stuck, r.journal.lazy = stuck, !stuck })
		at := written.Load()
		eventually(t, "writes go on", func() bool { return written.Load() > at+300 })
		r.journal.set(func() { r.journal.stuck, r.journal.lazy = false, false })
		if rnd.IntN(3) == 0 {
			r.awaitReady(t)
		}
	}
	end()
	load.Wait()
	r.awaitReady(t)
	r.check(t, make([]byte, size))
}

// Before the first Record, and between two, Track lets mutations go on and Stall lets them wait. The next
// Record sends what an earlier one left, into a journal that knows nothing of it.
func TestDetached(t *testing.T) {
	const size = 64 << 20
	ctx := deadline(t)
	r := newRig(t, size, track)
	must(t, r.Write(ctx, pattern(4096, 1), 5<<20, true))
	must(t, r.Trim(ctx, 0, 4096, false))
	if ready, _ := r.Ready(); ready {
		t.Error("a detached recorder is ready")
	}
	errLost := fmt.Errorf("history was lost")
	first, ended := newMemJournal(), make(chan error, 1)
	go func() { ended <- r.Record(ctx, first, cdc.Tenure{}) }()
	r.awaitReady(t)
	if err := r.Record(ctx, newMemJournal(), cdc.Tenure{}); err == nil {
		t.Error("two Records at once")
	}
	first.set(func() { first.stuck = true })
	must(t, r.Write(ctx, pattern(4096, 2), 9<<20, false)) // appended and never stored
	must(t, r.Hold(token(1, 1), time.Minute))
	m, err := r.Mark(ctx, token(1, 1))
	must(t, err)
	first.set(func() { first.err = errLost })
	wantIs(t, "Record", <-ended, errLost)
	_, err = m.Stored(ctx)
	wantIs(t, "mark", err, errLost)
	must(t, r.Write(ctx, pattern(4096, 3), 13<<20, false))
	image := make([]byte, size)
	first.apply(t, image, -1)
	r.run(t)
	r.awaitReady(t)
	r.check(t, image)
	if stale := 4 * activity.RegionSize; count[*events.PassDone](r.journal.events(t)) != 1 || r.journal.bytes > int64(stale) {
		t.Errorf("%d bytes were sent again", r.journal.bytes)
	}

	r = newRig(t, size, nil)
	wantIs(t, "write", r.Write(soon(t), pattern(4096, 1), 0, false), context.DeadlineExceeded)
	waiting := make(chan error, 1)
	go func() { waiting <- r.Write(ctx, pattern(4096, 1), 0, false) }()
	r.run(t)
	must(t, <-waiting)
	must(t, r.stop())
	wantIs(t, "write", r.Write(ctx, pattern(4096, 1), 0, false), syscall.EIO)
}

// [I] 64 idle volumes and a few busy ones share a budget; the bus is dead. Nobody stalls, and no more than the
// budget is used.
func TestManyVolumesAndADeadBus(t *testing.T) {
	const size, idle, busy = 16 << 20, 64, 4
	budget := cdc.NewBudget(8 << 20)
	var rigs []*rig
	for range idle + busy {
		rigs = append(rigs, newRig(t, size, func(o *cdc.Options) { track(o); o.Budget = budget }).run(t))
	}
	for i, r := range rigs {
		r.journal.set(func() { r.journal.stuck, r.journal.lazy = i%2 == 0, i%2 == 1 })
	}
	ctx := deadline(t)
	var load sync.WaitGroup
	for i, r := range rigs[idle:] {
		load.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(i)))
			for off := int64(0); off < size; off += 64 << 10 {
				must(t, r.Write(ctx, noise(rnd, 64<<10), off, false))
				if used := budget.Used(); used > budget.Total() {
					t.Errorf("%d of %d bytes are used", used, budget.Total())
				}
			}
		})
	}
	load.Wait()
	for _, r := range rigs[:idle] { // what is guaranteed to the idle ones is there
		must(t, r.Write(ctx, pattern(4096, 1), 0, false))
	}
	for _, r := range rigs {
		r.journal.set(func() { r.journal.stuck, r.journal.lazy = false, false })
	}
	for _, r := range rigs {
		r.awaitReady(t)
		r.check(t, make([]byte, size))
	}
	eventually(t, "budget is free", func() bool { return budget.Used() == 0 })
}

// [I] An idle volume costs 256 KiB of memory at most, with what it needed while it was busy.
func TestIdleVolumesAreSmall(t *testing.T) {
	const volumes, size = 32, 16 << 20
	before := heap()
	var rigs []*rig
	for range volumes {
		r := newRig(t, size, func(o *cdc.Options) { o.ScrubBytesPerSecond = 1 << 20 })
		r.journal.discard = true
		rigs = append(rigs, r.run(t))
	}
	for _, r := range rigs {
		rnd := rand.New(rand.NewPCG(1, 1))
		for off := int64(0); off < 4<<20; off += 256 << 10 {
			must(t, r.Write(deadline(t), noise(rnd, 256<<10), off, false))
		}
		r.drain(t)
	}
	each := (heap() - before) / volumes
	t.Logf("%d bytes each", each)
	if each > 256<<10 {
		t.Errorf("an idle volume holds %d bytes", each)
	}
	runtime.KeepAlive(rigs)
}

func heap() int64 {
	for range 3 { // pools are given up in two collections
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// [I] A region that the journal was handed and has not stored stays in the activity log: a write that needs
// its room waits until it is stored, whatever was flushed.
func TestOnlyWhatIsStoredLeavesTheLog(t *testing.T) {
	const hot = activity.MaxRegions
	r := newRig(t, (hot+1)*activity.RegionSize, func(o *cdc.Options) { o.Activity = narrow(t, o, hot) })
	r.journal.lazy = true
	r.run(t)
	ctx := deadline(t)
	for i := range int64(hot) {
		must(t, r.Write(ctx, noise(rand.New(rand.NewPCG(1, uint64(i))), 4096), i*activity.RegionSize, false))
	}
	must(t, r.Flush(ctx))
	eventually(t, "the journal was handed everything", func() bool {
		r.journal.mu.Lock()
		defer r.journal.mu.Unlock()
		return r.journal.last > 0
	})
	done := make(chan error, 1)
	go func() { done <- r.Write(ctx, make([]byte, 4096), hot*activity.RegionSize, false) }()
	eventually(t, "the write waits for room", func() bool {
		select {
		case err := <-done:
			t.Fatalf("a region left the log that isn't stored (%v)", err)
		default:
		}
		return r.log.Waiting() == 1
	})
	r.journal.set(func() { r.journal.lazy = false })
	must(t, <-done)
}
