package cdc_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/events"
)

func (r *rig) awaitReady(t *testing.T) {
	t.Helper()
	eventually(t, "ready", func() bool { ready, _ := r.Ready(); return ready })
}

// A seed of a volume that is mostly holes costs a few operations, whatever its size.
func TestSeedOfSparseVolume(t *testing.T) {
	const size = 5 << 40
	r := newRig(t, size, nil)
	for _, off := range []int64{3 << 30, 4<<40 + 123<<12} {
		_, err := r.dev.Device.WriteAt(pattern(1<<20, 9), off)
		must(t, err)
	}
	r.pass(events.PassSeed)
	r.run(t)
	r.awaitReady(t)
	r.drain(t)
	next, data := int64(0), int64(0)
	for _, e := range r.journal.events(t) {
		f, ok := e.(*events.Frame)
		if !ok {
			done := e.(*events.PassDone)
			if done.Pass != events.PassSeed || done.Bytes < 2<<20 || done.Bytes > 4<<20 || done.Regions == 0 {
				t.Errorf("%+v", done)
			}
			continue
		}
		for _, op := range f.Ops {
			if op.Offset != next {
				t.Fatalf("operation at %d, the pass is at %d", op.Offset, next)
			}
			next += op.Length
			if op.Kind == events.OpWrite {
				data += op.Length
			}
		}
	}
	if next != size || data != 2<<20 {
		t.Errorf("the pass came to %d with %d bytes of data", next, data)
	}
}

// Every region is sent, also where zeros are allocated and where the size is no multiple of a region.
func TestPassCoversEverything(t *testing.T) {
	const size = 1<<20 + 3*512
	r := newRig(t, size, func(o *cdc.Options) { o.FrameBytes = 32 << 10 })
	must(t, r.dev.Device.Zero(0, 200<<10, false))
	_, err := r.dev.Device.WriteAt(pattern(300<<10+512, 5), 150<<10)
	must(t, err)
	_, err = r.dev.Device.WriteAt(pattern(512, 6), size-512)
	must(t, err)
	r.pass(events.PassResync)
	r.run(t)
	r.awaitReady(t)
	r.check(t, pattern(size, 0xee))
}

// What becomes stale in a pass is sent in the same one, even behind it; it ends once.
func TestPassFollowsWhatBecomesStale(t *testing.T) {
	const size = 16 << 20
	r := newRig(t, size, func(o *cdc.Options) { o.FrameBytes = 64 << 10 })
	must(t, writeAll(r.dev.Device, pattern(size, 3)))
	asked := false
	r.dev.before = func(call string, off, _ int64) error {
		if call == "read" && off >= 9<<20 && !asked {
			asked = true
			must(t, r.Heal(1<<20, 1<<20))
			must(t, r.Heal(9<<20, 1<<20)) // in the region that is being sent
		}
		return nil
	}
	r.pass(events.PassSeed)
	r.run(t)
	r.awaitReady(t)
	r.check(t, pattern(size, 0xee))
	all := r.journal.events(t)
	if n := count[*events.PassDone](all); n != 1 {
		t.Errorf("%d PassDone", n)
	}
	if done := all[len(all)-1].(*events.PassDone); done.Pass != events.PassSeed || done.Bytes != size+8<<20 {
		t.Errorf("%+v", done)
	}
}

// A scrub sends hashes that agree with what a reader has at that position, and doesn't keep the volume from
// voting.
func TestScrub(t *testing.T) {
	r := newRig(t, 1<<20, nil).run(t)
	ctx := deadline(t)
	must(t, r.Write(ctx, pattern(300<<10, 4), 100<<10, false))
	number := r.Scrub()
	if ready, _ := r.Ready(); !ready {
		t.Error("a scrub keeps the volume from voting")
	}
	must(t, r.Write(ctx, pattern(300<<10, 5), 600<<10, false))
	eventually(t, "PassDone", func() bool { s, ok := r.Scrubbed(number); return ok && s.Seq != 0 })
	image := make([]byte, 1<<20)
	next := int64(0)
	for _, e := range r.journal.events(t) {
		switch e := e.(type) {
		case *events.Frame:
			applyFrame(t, image, e)
		case *events.RegionHash:
			if e.Offset != next || e.Hash != sha256.Sum256(image[e.Offset:e.Offset+e.Length]) {
				t.Errorf("hash of %d bytes at %d is wrong, or not the next one", e.Length, e.Offset)
			}
			next = e.Offset + e.Length
		}
	}
	if next != 1<<20 {
		t.Errorf("the scrub came to %d", next)
	}
}

func TestPassRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := blank(8 << 20)
		copy(d.b, bytes.Repeat([]byte{1}, 8<<20))
		l := openLog(t, filepath.Join(t.TempDir(), "log"), 8<<20, 64, nil)
		r := cdc.NewRecorder(cdc.Options{Device: d, Activity: l, PassBytesPerSecond: 1 << 20})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Record(ctx, newMemJournal(), cdc.Tenure{}) }()
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if _, p := r.Ready(); p.Done < 3<<20 || p.Done > 5<<20 || p.Total != 8<<20 || p.Pass != events.PassSeed {
			t.Errorf("after half of the time: %+v", p)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if ready, _ := r.Ready(); !ready {
			t.Error("the pass takes longer than its rate wants")
		}
		cancel()
		must(t, <-ended)
	})
}

// Trims and zeroes of a whole volume are a few operations, and done in steps that the activity log takes.
func TestWholeVolumeOperations(t *testing.T) {
	const size = 40<<30 + 512
	r := newRig(t, size, nil).run(t)
	ctx := deadline(t)
	must(t, r.Write(ctx, pattern(1<<20, 1), 10<<30, false))
	must(t, r.Trim(ctx, 0, size, false))
	must(t, r.Write(ctx, pattern(1<<20, 1), 20<<30, false))
	must(t, r.Zero(ctx, 1024, size-1024, cdc.ZeroOptions{}))
	r.drain(t)
	reached := map[events.OpKind]int64{events.OpZero: 1024}
	for _, e := range r.journal.events(t) {
		f, ok := e.(*events.Frame)
		if !ok {
			continue
		}
		for _, op := range f.Ops {
			if op.Kind != events.OpWrite && op.Offset == reached[op.Kind] {
				reached[op.Kind] += op.Length
			}
		}
	}
	if reached[events.OpTrim] != size || reached[events.OpZero] != size {
		t.Errorf("operations reach %v", reached)
	}
	p := make([]byte, 4096)
	for _, off := range []int64{10 << 30, 20 << 30} {
		_, err := r.ReadAt(p, off)
		must(t, err)
		if !bytes.Equal(p, make([]byte, 4096)) {
			t.Errorf("not zero at %d", off)
		}
	}
}

// A pass whose frames aren't stored stops, and leaves room for what fronts write.
func TestPassLeavesRoom(t *testing.T) {
	const size = 64 << 20
	budget := cdc.NewBudget(16 << 20)
	r := newRig(t, size, func(o *cdc.Options) { o.Budget = budget })
	must(t, writeAll(r.dev.Device, pattern(size, 3)))
	r.journal.lazy = true
	r.pass(events.PassSeed)
	r.run(t)
	eventually(t, "pass waits", func() bool { _, p := r.Ready(); return p.Done >= 4<<20 })
	ctx := deadline(t)
	for i := range int64(1024) {
		must(t, r.Write(ctx, pattern(4096, 9), size-i*4096-4096, false))
	}
	if used := budget.Used(); used > 10<<20 {
		t.Errorf("%d bytes are held", used)
	}
	if d := r.Heartbeat(); d.DebtBytes != 4<<20 {
		t.Errorf("debt of %d bytes", d.DebtBytes)
	}
	r.journal.set(func() { r.journal.lazy = false })
	r.awaitReady(t)
	r.check(t, pattern(size, 0xee))
}

// A hole that is written to just after it was found isn't sent as a hole.
func TestPassLooksAtHolesUnderTheirLock(t *testing.T) {
	r := newRig(t, 4<<20, nil)
	first := true
	r.dev.asked = func() {
		if first {
			first = false
			must(t, r.Write(context.Background(), pattern(4096, 1), 2<<20, false))
		}
	}
	r.pass(events.PassSeed)
	r.run(t)
	r.awaitReady(t)
	r.check(t, pattern(4<<20, 0xee))
}

// A write can't come between reading a region and appending it.
func TestPassLocksWhatItReads(t *testing.T) {
	r := newRig(t, 1<<20, nil)
	must(t, writeAll(r.dev.Device, pattern(1<<20, 1)))
	written := make(chan error, 1)
	first := true
	r.dev.read = func() {
		if !first {
			return
		}
		first = false
		go func() { written <- r.Write(context.Background(), pattern(4096, 2), 4096, false) }()
		select {
		case err := <-written:
			t.Error("a write went into a region that was being passed")
			written <- err
		case <-soon(t).Done():
		}
	}
	r.pass(events.PassSeed)
	r.run(t)
	r.awaitReady(t)
	must(t, <-written)
	r.check(t, pattern(1<<20, 0xee))
}
