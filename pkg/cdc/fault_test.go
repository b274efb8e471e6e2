package cdc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
)

// workload is a fixed sequence of calls that uses everything.
func workload(ctx context.Context, r *cdc.Recorder) (failed int) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range int64(12) {
		errs := []error{
			r.Write(ctx, noise(rnd, 6000), i*5000, false),
			r.Write(ctx, noise(rnd, 50<<10), i*4096, i%5 == 0),
		}
		switch i % 4 {
		case 0:
			errs = append(errs, r.Trim(ctx, i*9000, 20000, false))
		case 1:
			errs = append(errs, r.Zero(ctx, i*7000, 10000, cdc.ZeroOptions{}))
		case 2:
			errs = append(errs, r.Flush(ctx))
		}
		for _, err := range errs {
			if err != nil {
				failed++
			}
		}
	}
	return failed
}

// [I] Whatever call of the device fails, and however often, the journal ends equal to the device, or the
// volume doesn't vote.
func TestFailingDevice(t *testing.T) {
	const size = 256 << 10
	total := faultRun(t, size, -1, 0)
	if total < 40 {
		t.Fatalf("the workload makes %d calls", total)
	}
	for n := range total {
		faultRun(t, size, n, 1)     // once
		faultRun(t, size, n, 3)     // and the calls that follow, such as reading back
		faultRun(t, size, n, 1<<30) // and everything from there on, until it is repaired
	}
}

// faultRun lets `many` calls fail from the nth on and returns how many calls there were.
func faultRun(t *testing.T, size int64, n, many int) int {
	t.Helper()
	r := newRig(t, size, func(o *cdc.Options) { o.FrameBytes = 32 << 10 })
	var calls, repaired atomic.Int64
	r.dev.before = func(string, int64, int64) error {
		call := int(calls.Add(1)) - 1
		if n >= 0 && call >= n && call < n+many && repaired.Load() == 0 {
			return syscall.EIO
		}
		return nil
	}
	r.run(t)
	ctx := deadline(t)
	failed := workload(ctx, r.Recorder)
	made := int(calls.Load())
	// A vote now would be about what is in the pipeline now.
	ready, _ := r.Ready()
	r.drain(t)
	if ready && differs(t, r) {
		t.Fatalf("call %d (and %d more) failed: the volume votes, and its journal differs from the device", n, many-1)
	}
	repaired.Store(1)
	eventually(t, fmt.Sprintf("ready after call %d failed", n), func() bool { ready, _ := r.Ready(); return ready })
	r.check(t, make([]byte, size))
	if n < 0 && failed > 0 {
		t.Fatalf("%d operations failed on a device that works", failed)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	return made
}

// differs tells whether replaying the journal doesn't give the device's content.
func differs(t *testing.T, r *rig) bool {
	t.Helper()
	image := make([]byte, r.Size())
	r.journal.apply(t, image, -1)
	return !bytes.Equal(image, r.image(t))
}

// A flush that fails may have lost what was acknowledged before it. All of the volume is read again, once a
// flush succeeds.
func TestFailedFlushLosesWrites(t *testing.T) {
	r := newRig(t, 1<<20, nil).run(t)
	ctx := deadline(t)
	must(t, r.Write(ctx, pattern(8192, 1), 4096, false))
	var broken atomic.Bool
	broken.Store(true)
	r.dev.before = func(call string, _, _ int64) error {
		if call == "flush" && broken.Load() {
			return errors.Join(syscall.EIO, r.dev.Device.Trim(4096, 4096)) // the page is lost
		}
		return nil
	}
	wantIs(t, "flush", r.Flush(ctx), syscall.EIO)
	if ready, _ := r.Ready(); ready {
		t.Error("the volume votes although nobody knows what it holds")
	}
	must(t, r.Hold(token(1, 1), time.Minute))
	_, err := r.Mark(ctx, token(1, 1))
	wantIs(t, "mark", err, cdc.ErrNotReady)
	broken.Store(false)
	eventually(t, "ready", func() bool { ready, _ := r.Ready(); return ready })
	r.check(t, make([]byte, 1<<20))
}

// A failed write's error reaches the application, as what it is.
func TestDeviceErrorsArePassedOn(t *testing.T) {
	r := newRig(t, 1<<20, nil).run(t)
	r.dev.before = func(call string, _, _ int64) error {
		switch call {
		case "write":
			return syscall.ENOSPC
		case "flush":
			return syscall.EDQUOT
		}
		return nil
	}
	ctx := deadline(t)
	wantIs(t, "write", r.Write(ctx, pattern(512, 1), 0, false), syscall.ENOSPC)
	wantIs(t, "flush", r.Flush(ctx), syscall.EDQUOT)
}

// [I] A fenced tap answers EIO: also who waits already, and nothing reaches the device any more.
func TestFencedAnswersEIO(t *testing.T) {
	errFenced := errors.New("fenced")
	r := newRig(t, 4<<20, func(o *cdc.Options) {
		o.Budget = cdc.NewBudget(64 << 10)
		o.Final = func(err error) bool { return errors.Is(err, errFenced) }
	})
	r.journal.stuck = true
	ended := make(chan error, 1)
	go func() { ended <- r.Record(deadline(t), r.journal, cdc.Tenure{}) }()
	r.awaitReady(t)
	ctx := deadline(t)
	// Fill the budget, so that the last one waits.
	waiting := make(chan error, 1)
	var acknowledged atomic.Int64
	go func() {
		for off := int64(0); ; off += 8192 {
			if err := r.Write(ctx, noise(rand.New(rand.NewPCG(1, 1)), 8192), off, false); err != nil {
				waiting <- err
				return
			}
			acknowledged.Add(1)
		}
	}()
	eventually(t, "budget used up", func() bool { return acknowledged.Load() >= 7 })
	must(t, r.Hold(token(1, 1), time.Minute))
	m, err := r.Mark(ctx, token(1, 1))
	must(t, err)
	r.journal.set(func() { r.journal.err = errFenced })
	wantIs(t, "Record", <-ended, errFenced)
	wantIs(t, "a write that waited", <-waiting, syscall.EIO)
	_, err = m.Stored(ctx)
	wantIs(t, "mark", err, errFenced)

	calls := 0
	r.dev.before = func(call string, _, _ int64) error {
		if call != "read" {
			calls++
		}
		return nil
	}
	for what, err := range map[string]error{
		"write": r.Write(ctx, pattern(512, 1), 0, false),
		"zero":  r.Zero(ctx, 0, 512, cdc.ZeroOptions{}),
		"trim":  r.Trim(ctx, 0, 512, false),
		"flush": r.Flush(ctx),
		"hold":  r.Hold(token(1, 2), time.Second),
		"drain": r.Drain(ctx),
	} {
		wantIs(t, what, err, syscall.EIO)
		wantIs(t, what, err, errFenced)
	}
	_, err = r.ReadAt(make([]byte, 512), 0)
	must(t, err)
	if ready, _ := r.Ready(); ready || calls != 0 {
		t.Errorf("ready %v, %d mutations reached the device", ready, calls)
	}
}

// With the journal gone writes use the budget up and then wait; reads, other volumes and marks go on, and
// a write that is given up leaves.
func TestDeadJournal(t *testing.T) {
	budget := cdc.NewBudget(512 << 10)
	with := func(o *cdc.Options) { o.Budget = budget }
	r, other := newRig(t, 8<<20, with), newRig(t, 1<<20, with).run(t)
	r.journal.stuck = true
	r.run(t)
	rnd := rand.New(rand.NewPCG(7, 7))
	ctx, giveUp := context.WithCancel(context.Background())
	blocked := make(chan error, 1)
	var written atomic.Int64
	go func() {
		for off := int64(0); ; off += 64 << 10 {
			if err := r.Write(ctx, noise(rnd, 64<<10), off, false); err != nil {
				blocked <- err
				return
			}
			written.Store(off + 64<<10)
		}
	}()
	eventually(t, "budget used up", func() bool { return written.Load() >= 256<<10 && budget.Used() > 300<<10 })
	if used := budget.Used(); used > budget.Total() {
		t.Errorf("%d of %d bytes are used", used, budget.Total())
	}
	// Trims have no content and are bounded as well.
	trims := 0
	for ; trims < 1<<20; trims++ {
		if err := r.Trim(soon(t), 7<<20+int64(trims%2)*4096, 512, false); err != nil {
			wantIs(t, "trim", err, context.DeadlineExceeded)
			break
		}
	}
	if trims == 1<<20 {
		t.Error("a million trims are kept without any credit")
	}
	_, err := r.ReadAt(make([]byte, 4096), 0)
	must(t, err)
	debt := r.Heartbeat()
	if debt.DebtBytes != written.Load() || debt.DebtAge <= 0 {
		t.Errorf("debt of %d bytes, %v old; %d bytes are acknowledged", debt.DebtBytes, debt.DebtAge, written.Load())
	}

	// The mark gets its place at once, and admission opens.
	long := deadline(t)
	must(t, r.Hold(token(1, 1), time.Minute))
	must(t, other.Hold(token(1, 1), time.Minute))
	m, err := r.Mark(long, token(1, 1))
	must(t, err)
	_, err = other.Mark(long, token(1, 1))
	must(t, err)
	must(t, other.Write(long, pattern(4096, 1), 0, true))
	_, err = m.Stored(soon(t))
	wantIs(t, "mark while the journal is gone", err, context.DeadlineExceeded)
	wantIs(t, "drain", r.Drain(soon(t)), context.DeadlineExceeded)

	giveUp()
	wantIs(t, "write that was given up", <-blocked, context.Canceled)
	at := written.Load()
	r.journal.set(func() { r.journal.stuck = false })
	seq, err := m.Stored(long)
	must(t, err)
	cut := make([]byte, 8<<20)
	r.journal.apply(t, cut, int(seq))
	if image := r.image(t); !bytes.Equal(cut[:at], image[:at]) {
		t.Error("the cut lacks what was acknowledged before the hold")
	}
	r.check(t, make([]byte, 8<<20))
	other.drain(t)
	eventually(t, "budget is free", func() bool { return budget.Used() == 0 })
	if d := r.Heartbeat(); d.DebtBytes != 0 || d.DebtAge != 0 {
		t.Errorf("debt %+v behind a drain", d)
	}
}

// What is appended keeps its credit until it is stored.
func TestCreditIsHeldUntilStored(t *testing.T) {
	budget := cdc.NewBudget(1 << 20)
	r := newRig(t, 1<<20, func(o *cdc.Options) { o.Budget = budget })
	r.journal.lazy = true
	r.run(t)
	ctx := deadline(t)
	must(t, r.Write(ctx, noise(rand.New(rand.NewPCG(1, 1)), 100<<10), 0, false))
	must(t, r.Hold(token(1, 1), time.Minute))
	m, err := r.Mark(ctx, token(1, 1))
	must(t, err)
	eventually(t, "mark appended", func() bool { r.journal.mu.Lock(); defer r.journal.mu.Unlock(); return r.journal.last == 3 }) // behind PassDone
	if used := budget.Used(); used < 100<<10 {
		t.Errorf("%d bytes are held", used)
	}
	r.journal.set(func() { r.journal.stored = r.journal.last })
	_, err = m.Stored(ctx)
	must(t, err)
	eventually(t, "credit is free", func() bool { return budget.Used() == 0 })
}

func TestStopAnswersEIO(t *testing.T) {
	r := newRig(t, 1<<20, nil).run(t)
	must(t, r.stop())
	wantIs(t, "write", r.Write(deadline(t), pattern(512, 1), 0, false), cdc.ErrStopped)
	wantIs(t, "write", r.Write(deadline(t), pattern(512, 1), 0, false), syscall.EIO)
}
