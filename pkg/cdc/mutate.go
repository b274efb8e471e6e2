package cdc

import (
	"context"
	"errors"
	"fmt"

	"github.com/farshore/farshore/pkg/cdc/activity"
	"github.com/farshore/farshore/pkg/events"
)

// Write stores p at off. When it returns nil the bytes are on the device (durable with fua), and on
// their way to the journal or listed in the activity log; behind an error the range may hold old bytes, new
// ones or some of each, and the journal is going to say the same. A write that is larger than a frame
// isn't atomic. It waits while admission is closed and, as long as ctx lives, while the budget is used up
// or, with Stall, while nothing is recorded.
func (r *Recorder) Write(ctx context.Context, p []byte, off int64, fua bool) error {
	if err := r.admit(ctx, off, int64(len(p))); err != nil {
		return err
	}
	total := len(p)
	for len(p) > 0 {
		n := r.piece(off, int64(len(p)))
		if err := r.write(ctx, p[:n], off); err != nil {
			return fmt.Errorf("write %d bytes at %d: %w", n, off, err)
		}
		p, off = p[n:], off+n
	}
	r.count.bytes.Add(int64(total))
	r.count.operations.Add(1)
	return r.durable(fua)
}

// piece is how much of a write is done at once: what a frame holds and what the budget always has for a
// recorder. Its end is aligned, unless it is the mutation's.
func (r *Recorder) piece(off, length int64) int64 {
	if length <= zeroUnit {
		return length
	}
	most := min(int64(r.o.FrameBytes), max(sectorSize, r.share.most()-opCost))
	if length <= most {
		return length
	}
	if n := (off+most)/zeroUnit*zeroUnit - off; n > 0 {
		return n
	}
	return most
}

func (r *Recorder) write(ctx context.Context, p []byte, off int64) error {
	m, err := r.begin(ctx, off, int64(len(p)), int64(len(p))+opCost)
	if err != nil {
		return err
	}
	if _, err := r.o.Device.WriteAt(p, off); err != nil {
		m.failed(err)
		return err
	}
	return m.done(events.OpWrite, p)
}

// Zero makes the range read as zero. Its cost doesn't depend on the length where the device zeroes by
// itself, but for an entry in the activity log for each region. Guarantees as Write; a range of more than
// 128 MiB isn't zeroed at once.
func (r *Recorder) Zero(ctx context.Context, off, length int64, o ZeroOptions) error {
	zero := func(off, length int64) error { return r.o.Device.Zero(off, length, !o.NoHole) }
	if o.Fast {
		zero = func(off, length int64) error { return zeroFast(r.o.Device, off, length, !o.NoHole) }
	}
	return r.clear(ctx, events.OpZero, off, length, o.FUA, zero)
}

// Trim deallocates the range; it reads as zero afterwards. Cost and guarantees as Zero.
func (r *Recorder) Trim(ctx context.Context, off, length int64, fua bool) error {
	return r.clear(ctx, events.OpTrim, off, length, fua, r.o.Device.Trim)
}

// clearStep is how much is zeroed or trimmed at once, in bytes: what the activity log takes.
const clearStep = activity.MaxRegions * activity.RegionSize

func (r *Recorder) clear(ctx context.Context, kind events.OpKind, off, length int64, fua bool, change func(off, length int64) error) error {
	if err := r.admit(ctx, off, length); err != nil {
		return err
	}
	if length == 0 {
		return r.durable(fua)
	}
	for end := off + length; off < end; {
		n := min(end, off/clearStep*clearStep+clearStep) - off
		if err := r.change(ctx, kind, off, n, change); err != nil {
			return fmt.Errorf("zero %d bytes at %d: %w", n, off, err)
		}
		off += n
	}
	r.count.operations.Add(1)
	return r.durable(fua)
}

func (r *Recorder) change(ctx context.Context, kind events.OpKind, off, length int64, change func(off, length int64) error) error {
	m, err := r.begin(ctx, off, length, opCost)
	if err != nil {
		return err
	}
	if err := change(off, length); err != nil {
		m.failed(err)
		return err
	}
	return m.done(kind, nil)
}

// admit is the first step of a mutation.
func (r *Recorder) admit(ctx context.Context, off, length int64) error {
	if err := inRange(r.Size(), off, length); err != nil {
		return err
	}
	if err := r.pipe.failure(); err != nil {
		return err
	}
	return r.gate.admit(ctx)
}

// mutation is one that may touch the device: its range is locked and listed in the activity log.
type mutation struct {
	r           *Recorder
	off, length int64
	credit      int64 // 0: it isn't going to be recorded
	lock        *rangeLock
}

// begin takes credit, the range's lock, and a place in the activity log.
func (r *Recorder) begin(ctx context.Context, off, length, credit int64) (mutation, error) {
	m := mutation{r: r, off: off, length: length}
	var err error
	if m.credit, err = r.credit(ctx, credit); err != nil {
		return m, err
	}
	if m.lock, err = r.locks.lock(ctx, off, length); err == nil {
		if err = r.pipe.failure(); err == nil {
			if err = r.log.Begin(ctx, off, length); err == nil {
				return m, nil
			}
		}
		r.locks.unlock(m.lock)
	}
	r.share.release(m.credit)
	return m, err
}

// credit takes bytes of the budget. It takes none where nothing is recorded: with Track the mutation goes on
// without, with Stall it waits.
func (r *Recorder) credit(ctx context.Context, n int64) (int64, error) {
	for {
		if !r.pipe.recording.Load() {
			on := r.pipe.awaitOn()
			switch {
			case on == nil: // it was switched on just now, or failed
				if err := r.pipe.failure(); err != nil {
					return 0, err
				}
			case r.o.WhenBusGone == Track:
				return 0, nil
			default:
				select {
				case <-on:
				case <-ctx.Done():
					return 0, ctx.Err()
				}
				continue
			}
		}
		if ok, err := r.share.tryAcquire(n); ok || err != nil {
			return n, err
		}
		r.waiters.Add(1)
		signal(r.pipe.toMind)
		err := r.share.acquire(ctx, n)
		r.waiters.Add(-1)
		if !errors.Is(err, errExcused) {
			return n, err
		}
	}
}

// done appends the mutation, which the device has made, and ends it.
func (m *mutation) done(kind events.OpKind, p []byte) error {
	if m.credit == 0 {
		m.unsent()
		return nil
	}
	if kind == events.OpWrite && dropped() {
		m.unchanged()
		return nil
	}
	place, err := m.r.pipe.append(events.Op{Kind: kind, Offset: m.off, Length: m.length}, p, m.credit, 0)
	m.credit = 0
	if place == 0 {
		m.unsent()
		return err
	}
	m.r.pass.appended(m.off, m.length)
	m.r.log.End(m.off, m.length, place)
	m.r.locks.unlock(m.lock)
	return nil
}

// failed ends a mutation that the device has failed to make.
func (m *mutation) failed(cause error) {
	if errors.Is(cause, ErrNotFast) { // which changed nothing
		m.unchanged()
		return
	}
	m.r.o.Log.Error("the device failed a mutation; its regions are read again, and the volume takes no part in barriers until then",
		"offset", m.off, "bytes", m.length, "error", cause)
	m.unsent()
}

// unsent ends a mutation that isn't recorded: a pass is going to send its regions.
func (m *mutation) unsent() {
	m.r.pass.missed(m.off, m.length, true)
	m.r.log.End(m.off, m.length, 0)
	m.r.pass.stir()
	m.r.locks.unlock(m.lock)
	m.r.share.release(m.credit)
}

// unchanged ends a mutation that has changed nothing.
func (m *mutation) unchanged() {
	_, place := m.r.pipe.now()
	m.r.log.End(m.off, m.length, place)
	m.r.locks.unlock(m.lock)
	m.r.share.release(m.credit)
}

// Flush makes every mutation that was acknowledged before, through any front, durable on the device.
// It doesn't wait for the journal.
func (r *Recorder) Flush(context.Context) error {
	if err := r.pipe.failure(); err != nil {
		return err
	}
	return r.durable(true)
}

func (r *Recorder) durable(wanted bool) error {
	if !wanted {
		return nil
	}
	begun := r.log.FlushBegun()
	if err := r.o.Device.Flush(); err != nil {
		r.o.Log.Error("flush failed; what was written since the last one is read again, and the volume takes no part in barriers until then", "error", err)
		r.log.FlushFailed(begun)
		r.pass.interrupted()
		r.pass.stir()
		return fmt.Errorf("flush: %w", err)
	}
	r.log.Flushed(begun)
	return nil
}

// zeroFast zeroes a range by a device that can do so without writing, or answers ErrNotFast.
func zeroFast(d Device, off, length int64, mayPunch bool) error {
	if fast, ok := d.(interface {
		ZeroFast(off, length int64, mayPunch bool) error
	}); ok {
		return fast.ZeroFast(off, length, mayPunch)
	}
	return ErrNotFast
}
