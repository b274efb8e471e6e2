package cdc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farshore/farshore/pkg/cdc/activity"
	"github.com/farshore/farshore/pkg/events"
)

const (
	defaultLinger   = 2 * time.Millisecond
	defaultRetry    = time.Second
	defaultPatience = time.Second
)

// Recorder records the mutations of one device. It has three sides: the front's (ReadAt, Write, Zero,
// Trim, Flush, Segments), the barrier's (Hold, Mark, Release, Ready), and the owner's (Run, Record, Stop,
// Drain, Resize, Heal, Scrub). Its methods may be called concurrently.
type Recorder struct {
	o       Options
	log     *activity.Log
	size    atomic.Int64
	gate    gate
	share   *share
	locks   rangeLocks
	pipe    *pipeline
	pass    *pass
	count   counters
	waiters atomic.Int64  // mutations that wait for credit
	stopped chan struct{} // closed by Stop

	session sync.Mutex // held by Record
	growing sync.Mutex // held by Resize
}

// NewRecorder returns a recorder that is detached: it has no journal until Record is called.
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
	if o.Patience <= 0 {
		o.Patience = defaultPatience
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Recorder{o: o, log: o.Activity, share: o.Budget.join(), stopped: make(chan struct{})}
	r.size.Store(o.Device.Size())
	r.pipe = newPipeline(o, r.share)
	r.pass = newPass(r)
	return r
}

// Run is the device's side: it returns nil when ctx ends, or what Stop was told. Afterwards every mutation
// and flush answers an error that is EIO, and a Record that runs ends, too. Run may be called once.
func (r *Recorder) Run(ctx context.Context) error {
	unobserve, err := r.observe(r.o.Meter)
	if err != nil {
		r.Stop(err)
		return err
	}
	defer unobserve()
	select {
	case <-ctx.Done():
		r.Stop(nil)
	case <-r.stopped:
	}
	r.session.Lock() // until Record has ended
	defer r.session.Unlock()
	r.share.leave()
	if err := r.pipe.failure(); !errors.Is(err, errEnded) {
		return err
	}
	return nil
}

// Stop lets nothing in any more, because of cause; nil: because the process ends. It doesn't wait.
func (r *Recorder) Stop(cause error) {
	err := errEnded
	if cause != nil {
		err = fmt.Errorf("%w: %w", ErrStopped, cause)
	}
	if r.pipe.stop(err) {
		close(r.stopped)
	}
}

// errEnded is ErrStopped without any other cause.
var errEnded = fmt.Errorf("%w: the process ends", ErrStopped)

// Ready tells whether the volume may vote on barriers: it is recorded, nothing of it is stale, and no pass
// of data is open. The progress is that of the pass that runs.
func (r *Recorder) Ready() (bool, events.Progress) { return r.ready(), r.pass.progress() }

func (r *Recorder) ready() bool {
	return r.pipe.recording.Load() && !r.pipe.failed.Load() && !r.pass.open() && r.log.StaleBytes() == 0
}

// Heartbeat tells the capture debt and the progress of a pass. What was written while nothing was recorded
// counts as debt until the pass that sends it is done.
func (r *Recorder) Heartbeat() *events.Heartbeat {
	bytes, since := r.debt()
	return &events.Heartbeat{DebtBytes: bytes, DebtAge: max(0, age(since)), Progress: r.pass.progress()}
}

func (r *Recorder) debt() (bytes int64, since time.Time) {
	bytes, since = r.pipe.debt()
	missed, missedSince := r.pass.debt()
	if missed > 0 && (since.IsZero() || missedSince.Before(since)) {
		since = missedSince
	}
	return bytes + missed, since
}

// Size is the volume's size in bytes.
func (r *Recorder) Size() int64 { return r.size.Load() }

// BlockSize is the unit in bytes that writes are atomic in.
func (r *Recorder) BlockSize() int64 { return r.o.Device.BlockSize() }

// ReadAt fills p from off, or fails. It goes on when mutations have to wait.
func (r *Recorder) ReadAt(p []byte, off int64) (int, error) {
	if err := inRange(r.Size(), off, int64(len(p))); err != nil {
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
	if err := inRange(r.Size(), off, length); err != nil {
		return nil, err
	}
	return r.o.Device.Segments(off, length)
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
		round, _ := r.pipe.now()
		if err := r.pipe.failure(); err != nil {
			return err
		}
		if !r.ready() {
			return ErrNotReady
		}
		it := newMark(ctx, &events.Mark{Token: t, Hold: hold})
		journal, err := r.pipe.put(it, round)
		if errors.Is(err, errDropped) {
			return ErrNotReady
		}
		if err != nil {
			return err
		}
		m.Hold, m.Journal = hold, journal
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
