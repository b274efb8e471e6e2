package cdc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/farshore/farshore/pkg/events"
)

// Record records the volume into a journal until ctx or Run ends (it returns nil then) or the journal refuses for
// good (it returns that error, and stops the recorder where Options.Final says so). It begins with a pass
// over what the activity log lists as stale, and does the same again whenever something becomes stale. The
// caller has opened the journal's stream, and has adopted it in the activity log.
//
// Before, between and after Records the recorder is detached: with Track mutations go on and make their
// regions stale, with Stall they wait. What isn't stored when Record ends is stale; see Drain. Only
// one Record runs at a time.
func (r *Recorder) Record(ctx context.Context, j Journal, t Tenure) error {
	if !r.session.TryLock() {
		return errors.New("record volume: it is being recorded already")
	}
	defer r.session.Unlock()
	if err := r.pipe.attach(j, t.Size); err != nil {
		if errors.Is(err, errEnded) {
			return nil
		}
		return fmt.Errorf("record volume: %w", err)
	}
	r.pass.attach(t)
	r.pipe.resume()
	r.pass.stir()
	err := r.work(ctx, j)
	if err != nil && r.o.Final != nil && r.o.Final(err) {
		r.Stop(err)
	}
	r.interrupted(r.pipe.detach(err))
	if errors.Is(err, errEnded) {
		return nil
	}
	return err
}

// work does what a Record needs until one part of it ends.
func (r *Recorder) work(ctx context.Context, j Journal) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var work sync.WaitGroup
	var first error
	var once sync.Once
	for _, f := range []func(context.Context) error{
		r.pipe.build,
		func(ctx context.Context) error { return r.pipe.send(ctx, j) },
		func(ctx context.Context) error { return r.pipe.watch(ctx, j) },
		r.pass.run, r.mind, r.awaitStop,
	} {
		work.Go(func() {
			if err := f(ctx); err != nil {
				once.Do(func() { first = err })
				cancel()
			}
		})
	}
	work.Wait()
	return first
}

func (r *Recorder) awaitStop(ctx context.Context) error {
	select {
	case <-r.stopped:
		return r.pipe.failure()
	case <-ctx.Done():
		return nil
	}
}

// interrupted makes stale what was dropped, bytes of fronts among it, and lets those go on who wait for credit.
func (r *Recorder) interrupted(bytes int64, since time.Time) {
	r.pass.owe(bytes, since)
	r.log.Dropped()
	r.pass.interrupted()
	r.share.excuse()
}

// mind notices when a mutation waits for a journal that stores nothing, and lets the recorder track then.
func (r *Recorder) mind(ctx context.Context) error {
	for wait(ctx, r.pipe.toMind) {
		if stuck, err := r.stuck(ctx); err != nil || !stuck {
			continue
		}
		if err := r.track(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// stuck watches the journal as long as something is on its way to it. It returns true when, for as long as
// the patience, nothing was stored and somebody waited for that.
func (r *Recorder) stuck(ctx context.Context) (bool, error) {
	const looks = 4 // within the patience
	last, still, told := uint64(0), 0, false
	for {
		settles, under := r.pipe.movement()
		waiting := r.waiters.Load() > 0 || under && r.log.Waiting() > 0
		if !under && !waiting {
			return false, nil
		}
		if settles != last || !waiting {
			last, still, told = settles, 0, false
		} else if still++; still > looks {
			if r.o.WhenBusGone == Track {
				return true, nil
			}
			if !told {
				told = true
				r.o.Log.Warn("the journal stores nothing; writes wait", "since", r.o.Patience)
			}
		}
		if err := sleep(ctx, r.o.Patience/looks); err != nil {
			return false, err
		}
	}
}

// track goes on without the journal until that has stored what it was handed and there is room for more, and
// then records anew.
func (r *Recorder) track(ctx context.Context) error {
	begun := time.Now()
	r.interrupted(r.pipe.off())
	r.o.Log.Warn("the journal stores nothing; writes go on, and their regions are sent when it is back")
	for r.pipe.handed() {
		if !wait(ctx, r.pipe.toMind) {
			return ctx.Err()
		}
	}
	room := min(int64(r.o.FrameBytes)+opCost, r.share.most())
	if err := r.share.acquire(ctx, room); err != nil {
		return err
	}
	r.share.release(room)
	r.pass.again()
	r.pipe.resume()
	r.pass.stir()
	r.o.Log.Info("the journal is back; what was written meanwhile is sent", "after", time.Since(begun), "bytes", r.log.StaleBytes())
	return nil
}

// Drain waits until everything that was recorded before the call is stored in the journal. What is stale
// then stays so: the next Record sends it. Close the fronts before, and end Record after it. ErrDetached tells
// that nothing is recorded now.
func (r *Recorder) Drain(ctx context.Context) error {
	it := &item{done: make(chan struct{})}
	_, err := r.pipe.put(it, 0)
	if err == nil {
		_, err = r.pipe.wait(ctx, it)
	}
	if errors.Is(err, errDropped) || errors.Is(err, ErrNotReady) {
		err = ErrDetached
	}
	if err != nil {
		return fmt.Errorf("drain volume: %w", err)
	}
	return nil
}

// Resize makes the volume larger: its device first, then the stream, and then it admits mutations behind the
// old end. What was added is sent, whatever the device holds there. A volume never becomes smaller:
// ErrRange.
func (r *Recorder) Resize(_ context.Context, size int64) error {
	r.growing.Lock()
	defer r.growing.Unlock()
	old := r.Size()
	if size == old {
		return nil
	}
	if size < old || size%sectorSize != 0 {
		return fmt.Errorf("%w: a volume of %d bytes can't be given %d", ErrRange, old, size)
	}
	if err := r.o.Device.Grow(size); err != nil {
		return fmt.Errorf("resize volume to %d bytes: %w", size, err)
	}
	if err := r.pipe.resize(size); err != nil {
		return fmt.Errorf("resize volume to %d bytes: %w", size, err)
	}
	if err := r.log.Grow(size, true); err != nil {
		return fmt.Errorf("resize volume to %d bytes: %w", size, err)
	}
	r.size.Store(size)
	r.pass.stir()
	r.o.Log.Info("volume has grown", "from", old, "to", size)
	return nil
}

// Heal sends a range again, since the replica is known to differ there.
func (r *Recorder) Heal(off, length int64) error {
	if err := inRange(r.Size(), off, length); err != nil {
		return err
	}
	r.pass.missed(off, length, false)
	if err := r.log.MarkStale(off, length); err != nil {
		return fmt.Errorf("heal %d bytes at %d: %w", length, off, err)
	}
	r.pass.stir()
	return nil
}

// Scrub begins to send the hashes of the whole volume, which end with PassDone, as fast as a pass may; it
// joins the scrub that was asked for and runs. It returns the scrub's number.
func (r *Recorder) Scrub() uint64 { return r.pass.askScrub() }

// Scrubbed tells how far the newest scrub that was asked for is; ok is false for any other number.
func (r *Recorder) Scrubbed(number uint64) (s Scrubbed, ok bool) { return r.pass.scrubbed(number) }

func newMark(ctx context.Context, m *events.Mark) *item {
	return &item{event: m, span: spanOf(ctx), done: make(chan struct{})}
}
