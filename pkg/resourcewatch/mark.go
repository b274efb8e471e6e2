package resourcewatch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/farshore/farshore/pkg/events"
)

// Why a barrier's request is refused.
var (
	// ErrStaleToken is a hold whose token isn't newer than every one seen.
	ErrStaleToken = errors.New("the hold's token is stale")
	// ErrNotHeld is a mark whose hold has ended.
	ErrNotHeld = errors.New("the stream is not held for this token")
	// ErrNotRecording is a mark while no stream is recorded into.
	ErrNotRecording = errors.New("objects are not recorded at the moment")
	// ErrUnprovable is a mark whose revision a kind can't be cut at: it was listed anew meanwhile. The next barrier can.
	ErrUnprovable = errors.New("the revision can't be proven: a kind was listed anew in between, and what it held at the revision is not known")
)

// Marked is a mark that was appended.
type Marked struct {
	Hold     time.Duration // how long the stream was held: from the first change withheld, or the hold where none was
	Revision string        // proven: every change up to it lies before the mark; "" where none is proven yet
	// Stored waits until the mark is stored and returns its sequence.
	Stored func(context.Context) (uint64, error)
}

// markRequest asks the tenure for a mark.
type markRequest struct {
	token    events.Token
	revision string  // "": at once
	feeds    []*feed // that are proven to have received everything up to revision
	reply    chan markReply
}

type markReply struct {
	seq      uint64
	hold     time.Duration
	revision string
	err      error
}

// Hold withholds every change that is received from now on from the stream, until Mark, Release, a newer hold, or until limit
// has passed; it never waits. What was received before may still be appended: see the gate.
func (w *Watcher) Hold(t events.Token, limit time.Duration) error { return w.gate.hold(t, limit) }

// Revision reads the API server's current revision, from the storage, while the token's hold is closed.
// Mark then appends every change up to it and nothing beyond.
func (w *Watcher) Revision(ctx context.Context, t events.Token) (string, error) {
	if !w.gate.holds(t) {
		return "", fmt.Errorf("%w: %d/%d", ErrNotHeld, t.Epoch, t.Barrier)
	}
	at := time.Now()
	revision, err := w.newest(ctx)
	if err != nil {
		return "", err
	}
	w.dates.add(revision, at)
	return revision, w.gate.ask(t, revision)
}

// Mark appends the token's Mark and opens. Where Revision was asked, it first appends every change up to that revision,
// and waits until each kind is proven to have reached it; else it marks at once with the revision proven so far.
// However it ends, the hold has ended.
func (w *Watcher) Mark(ctx context.Context, t events.Token) (Marked, error) {
	revision, err := w.gate.mark(t)
	if err != nil {
		return Marked{}, err
	}
	defer w.gate.release(t)
	tenure := w.tenure()
	if tenure == nil {
		return Marked{}, ErrNotRecording
	}
	m := &markRequest{token: t, revision: revision, reply: make(chan markReply, 1)}
	if revision != "" {
		if m.feeds, err = w.prove(ctx, revision); err != nil {
			return Marked{}, err
		}
	}
	select {
	case tenure.marks <- m:
	case <-tenure.ended:
		return Marked{}, ErrNotRecording
	case <-ctx.Done():
		return Marked{}, fmt.Errorf("append mark: %w", ctx.Err())
	}
	select {
	case r := <-m.reply:
		if r.err != nil {
			return Marked{}, fmt.Errorf("append mark: %w", r.err)
		}
		return Marked{Hold: r.hold, Revision: r.revision, Stored: func(ctx context.Context) (uint64, error) {
			return r.seq, tenure.sink.WaitStored(ctx, r.seq)
		}}, nil
	case <-tenure.ended:
		return Marked{}, ErrNotRecording
	case <-ctx.Done():
		return Marked{}, fmt.Errorf("append mark: %w", ctx.Err())
	}
}

// Release opens if t holds.
func (w *Watcher) Release(t events.Token) { w.gate.release(t) }

// Ready tells whether the stream may vote: it holds everything that memory lacked when the tenure began.
func (w *Watcher) Ready() (bool, events.Progress) {
	t := w.tenure()
	return t != nil && t.ready.Load(), events.Progress{}
}

// dates tell when revisions were read at the API server.
type dates struct {
	mu   sync.Mutex
	read []date // oldest first
}

type date struct {
	revision string
	at       time.Time
}

const maxDates = 64

func (d *dates) add(revision string, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.read = append(d.read, date{revision, at}); len(d.read) > maxDates {
		d.read = d.read[1:]
	}
}

// of returns when the newest revision was read that isn't newer than the one given; zero where none was.
func (d *dates) of(revision string) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := len(d.read) - 1; i >= 0; i-- {
		if reaches(revision, d.read[i].revision) {
			return d.read[i].at
		}
	}
	return time.Time{}
}
