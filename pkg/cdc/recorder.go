package cdc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/farshore/farshore/pkg/events"
)

const (
	defaultLinger = 2 * time.Millisecond
	defaultRetry  = time.Second
)

// Recorder records the mutations of one device. It has three sides: the front's (ReadAt, Write, Zero,
// Trim, Flush, Segments), the barrier's (Hold, Mark, Release, Ready), and the owner's (Run, StartPass,
// Stored, Drain). Its methods may be called concurrently.
type Recorder struct {
	o     Options
	size  int64
	gate  gate
	share *share
	locks rangeLocks
	pipe  *pipeline
	pass  *pass
	count counters
}

// NewRecorder returns a recorder. Mutations wait until Run runs. A recorder that is told nothing
// else takes its device for equal to what the stream describes; StartPass tells it otherwise.
func NewRecorder(o Options) *Recorder {
	if o.Budget == nil {
		o.Budget = NewBudget(DefaultBudget)
	}
	if o.FrameBytes <= 0 || o.FrameBytes > events.MaxContent {
		o.FrameBytes = events.MaxContent
	}
	o.FrameBytes = max(o.FrameBytes, zeroUnit) / zeroUnit * zeroUnit
	if o.Linger <= 0 {
		o.Linger = defaultLinger
	}
	if o.RetryEvery <= 0 {
		o.RetryEvery = defaultRetry
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Recorder{o: o, size: o.Device.Size(), share: o.Budget.join()}
	r.pipe = newPipeline(o, r.share)
	r.pass = &pass{
		dev: o.Device, pipe: r.pipe, locks: &r.locks, share: r.share,
		rate: o.PassBytesPerSecond, retry: o.RetryEvery, log: o.Log, wake: make(chan struct{}, 1),
	}
	return r
}

// Run moves frames to the journal and runs passes until ctx ends (it returns nil then) or the
// journal refuses for good, as for a fenced writer (it returns that error). Afterwards every
// mutation and flush answers an error that is EIO, and what wasn't appended yet is dropped: see
// Drain. Run may be called once.
func (r *Recorder) Run(ctx context.Context) error {
	unobserve, err := r.observe(r.o.Meter)
	if err != nil {
		r.stop(err)
		r.pipe.discard()
		return err
	}
	defer unobserve()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { r.stop(nil) })()

	var work sync.WaitGroup
	var first error
	var once sync.Once
	for _, f := range []func(context.Context) error{r.pipe.build, r.pipe.send, r.pass.run} {
		work.Go(func() {
			if err := f(ctx); err != nil && !errors.Is(err, ErrStopped) {
				once.Do(func() {
					first = err
					r.stop(err)
				})
				cancel()
			}
		})
	}
	work.Wait()
	r.stop(nil)
	r.pipe.discard()
	return first
}

// stop lets nothing in any more, because of cause; nil: because Run was told to end.
func (r *Recorder) stop(cause error) {
	err := ErrStopped
	if cause != nil {
		err = fmt.Errorf("%w: %w", ErrStopped, cause)
	}
	r.pipe.stop(err)
}

// Drain waits until everything that was acknowledged before the call is stored in the journal. Close
// the fronts before, and end Run after it.
func (r *Recorder) Drain(ctx context.Context) error {
	it, err := r.pipe.put(nil, 0)
	if err != nil {
		return fmt.Errorf("drain volume: %w", err)
	}
	if _, err := r.pipe.wait(ctx, it); err != nil {
		return fmt.Errorf("drain volume: %w", err)
	}
	return nil
}

// Stored tells the recorder that the stream has acknowledged everything up to seq; the bytes of that
// go back to the budget. It doesn't block.
func (r *Recorder) Stored(seq uint64) { r.pipe.storedTo(seq) }

// StartPass begins a region pass over the whole volume, which ends with PassDone in the stream. A
// pass of data (seed, resync) begins again where one runs already; a scrub waits for its end.
func (r *Recorder) StartPass(kind events.PassKind) { r.pass.start(kind) }

// Ready tells whether the volume may vote on barriers: no pass of data is open, no range of the
// volume is suspect, and the recorder hasn't failed. The progress is that of the pass that runs.
func (r *Recorder) Ready() (bool, events.Progress) {
	return !r.pipe.failed.Load() && r.pass.ready(), r.pass.progress()
}

// Heartbeat tells the capture debt and the progress of a pass.
func (r *Recorder) Heartbeat() *events.Heartbeat {
	bytes, since := r.pipe.debt()
	return &events.Heartbeat{DebtBytes: bytes, DebtAge: max(0, age(since)), Progress: r.pass.progress()}
}

// Size is the volume's size in bytes.
func (r *Recorder) Size() int64 { return r.size }

// BlockSize is the unit in bytes that writes are atomic in.
func (r *Recorder) BlockSize() int64 { return r.o.Device.BlockSize() }

// ReadAt fills p from off, or fails. It goes on when mutations have to wait.
func (r *Recorder) ReadAt(p []byte, off int64) (int, error) {
	if err := inRange(r.size, off, int64(len(p))); err != nil {
		return 0, err
	}
	n, err := r.o.Device.ReadAt(p, off)
	if err != nil {
		return n, fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
	}
	return n, nil
}

// Segments tells what the range consists of: in order, without gaps, all of it.
func (r *Recorder) Segments(off, length int64) ([]Segment, error) {
	if err := inRange(r.size, off, length); err != nil {
		return nil, err
	}
	return r.o.Device.Segments(off, length)
}

// Write stores p at off. When it returns nil the bytes are on the device (durable with fua) and on
// their way to the journal; behind an error the range may hold old bytes, new ones or some of each,
// and the journal is going to say the same. A write that is larger than a frame isn't atomic. It
// waits while admission is closed and while the budget is used up, as long as ctx lives.
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

// piece is how much of a mutation is done at once: what a frame holds and what the budget always
// has for a recorder. Its end is aligned, unless it is the mutation's.
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
	n := int64(len(p))
	credit := n + opCost
	lock, err := r.begin(ctx, off, n, credit)
	if err != nil {
		return err
	}
	defer r.locks.unlock(lock)
	op := events.Op{Kind: events.OpWrite, Offset: off, Length: n}
	if _, err := r.o.Device.WriteAt(p, off); err != nil {
		return r.readBack(op, credit, err)
	}
	if dropped() {
		r.share.release(credit)
		return nil
	}
	return r.pipe.append(op, p, credit, true)
}

// readBack appends what the device holds where a write failed, and returns the write's error. Where
// the device can't tell, the range is suspect.
func (r *Recorder) readBack(op events.Op, credit int64, cause error) error {
	buf := make([]byte, op.Length)
	if _, err := r.o.Device.ReadAt(buf, op.Offset); err != nil {
		r.share.release(credit)
		r.o.Log.Error("write failed and can't be read back; the volume takes no part in barriers until its range was read",
			"offset", op.Offset, "bytes", op.Length, "error", errors.Join(cause, err))
		r.pass.suspect(op.Offset, op.Length)
		return cause
	}
	return errors.Join(cause, r.pipe.append(op, buf, credit, true))
}

// Zero makes the range read as zero. Its cost doesn't depend on the length where the device zeroes by
// itself. Guarantees as Write.
func (r *Recorder) Zero(ctx context.Context, off, length int64, o ZeroOptions) error {
	zero := func() error { return r.o.Device.Zero(off, length, !o.NoHole) }
	if o.Fast {
		zero = func() error { return zeroFast(r.o.Device, off, length, !o.NoHole) }
	}
	return r.clear(ctx, events.OpZero, off, length, o.FUA, zero)
}

// Trim deallocates the range; it reads as zero afterwards. Cost and guarantees as Zero.
func (r *Recorder) Trim(ctx context.Context, off, length int64, fua bool) error {
	return r.clear(ctx, events.OpTrim, off, length, fua, func() error { return r.o.Device.Trim(off, length) })
}

func (r *Recorder) clear(ctx context.Context, kind events.OpKind, off, length int64, fua bool, change func() error) error {
	if err := r.admit(ctx, off, length); err != nil {
		return err
	}
	if length == 0 {
		return r.durable(fua)
	}
	if err := r.change(ctx, events.Op{Kind: kind, Offset: off, Length: length}, change); err != nil {
		return fmt.Errorf("zero %d bytes at %d: %w", length, off, err)
	}
	r.count.operations.Add(1)
	return r.durable(fua)
}

func (r *Recorder) change(ctx context.Context, op events.Op, change func() error) error {
	lock, err := r.begin(ctx, op.Offset, op.Length, opCost)
	if err != nil {
		return err
	}
	defer r.locks.unlock(lock)
	if err := change(); err != nil {
		r.share.release(opCost)
		if !errors.Is(err, ErrNotFast) { // which changed nothing
			r.pass.suspect(op.Offset, op.Length)
		}
		return err
	}
	return r.pipe.append(op, nil, opCost, true)
}

// admit is the first step of a mutation.
func (r *Recorder) admit(ctx context.Context, off, length int64) error {
	if err := inRange(r.size, off, length); err != nil {
		return err
	}
	if err := r.pipe.failure(); err != nil {
		return err
	}
	return r.gate.admit(ctx)
}

// begin takes credit and the range's lock. The credit is the caller's if there is no error.
func (r *Recorder) begin(ctx context.Context, off, length, credit int64) (*rangeLock, error) {
	if err := r.share.acquire(ctx, credit); err != nil {
		return nil, err
	}
	lock, err := r.locks.lock(ctx, off, length)
	if err == nil {
		if err = r.pipe.failure(); err == nil {
			return lock, nil
		}
		r.locks.unlock(lock)
	}
	r.share.release(credit)
	return nil, err
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
	if err := r.o.Device.Flush(); err != nil {
		r.o.Log.Error("flush failed; the volume takes no part in barriers until all of it was read again", "error", err)
		r.pass.suspectAll()
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// Hold closes admission for t: a mutation that arrives after it returned neither touches the device nor
// enters the stream before the mark. It doesn't wait for mutations admitted before. Admission opens
// by itself after limit, and t is refused from then on. A newer token takes an older one's hold over;
// ErrStaleToken refuses a token older than the newest seen, or one whose hold has ended.
func (r *Recorder) Hold(t events.Token, limit time.Duration) error {
	if err := r.pipe.failure(); err != nil {
		return err
	}
	return r.gate.hold(t, limit)
}

// Mark puts t's mark into the stream, behind everything acknowledged so far, and opens admission; it
// waits for neither the journal nor the budget. ErrNotHeld says that admission isn't closed for t,
// ErrNotReady that the volume may not vote now: admission is opened then, too.
func (r *Recorder) Mark(ctx context.Context, t events.Token) (Marked, error) {
	var m Marked
	err := r.gate.mark(t, func(hold time.Duration) error {
		if !r.pass.ready() {
			return ErrNotReady
		}
		it, err := r.pipe.mark(ctx, &events.Mark{Token: t, Hold: hold})
		if err != nil {
			return err
		}
		m.Hold = hold
		m.Stored = func(ctx context.Context) (uint64, error) { return r.pipe.wait(ctx, it) }
		return nil
	})
	if err != nil {
		return Marked{}, fmt.Errorf("mark volume: %w", err)
	}
	return m, nil
}

// Release opens admission if t holds it. Afterwards t is refused.
func (r *Recorder) Release(t events.Token) { r.gate.release(t) }

func inRange(size, off, length int64) error {
	if off < 0 || length < 0 || off > size || length > size-off {
		return fmt.Errorf("%w: %d bytes at %d, size %d", ErrRange, length, off, size)
	}
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
