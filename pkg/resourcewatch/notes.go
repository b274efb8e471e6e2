package resourcewatch

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/pkg/events"
)

const (
	noting    = 8                      // notes written at once
	noteRetry = 500 * time.Millisecond // between two attempts
)

// notes remember what was sent, behind its being stored. Of several notes on one object only the newest is written, so they
// take no more memory than there are objects, however long the memory can't be written.
type notes struct {
	sink   Sink
	memory Memory
	log    *slog.Logger
	failed rarely

	mu       sync.Mutex
	pending  map[events.ObjectKey]note
	finished bool
	wake     chan struct{}
}

// note is what has to be remembered of an object.
type note struct {
	key  events.ObjectKey
	sent Sent // Revision is empty: forget it
	seq  uint64
}

func newNotes(sink Sink, memory Memory, log *slog.Logger) *notes {
	return &notes{sink: sink, memory: memory, log: log, pending: make(map[events.ObjectKey]note), wake: make(chan struct{}, 1)}
}

func (n *notes) note(k events.ObjectKey, s Sent)       { n.add(note{k, s, s.Seq}) }
func (n *notes) forget(k events.ObjectKey, seq uint64) { n.add(note{key: k, seq: seq}) }

func (n *notes) add(o note) {
	n.mu.Lock()
	n.pending[o.key] = o
	n.mu.Unlock()
	n.poke()
}

// finish has run return once everything is noted.
func (n *notes) finish() {
	n.mu.Lock()
	n.finished = true
	n.mu.Unlock()
	n.poke()
}

func (n *notes) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// run writes notes until everything is noted and finish was called, the sink has failed, or ctx ends.
func (n *notes) run(ctx context.Context) {
	for {
		n.mu.Lock()
		batch := make([]note, 0, len(n.pending))
		for _, o := range n.pending {
			batch = append(batch, o)
		}
		if len(batch) > 0 {
			n.pending = make(map[events.ObjectKey]note) // a large one isn't kept
		}
		finished := n.finished
		n.mu.Unlock()
		if len(batch) == 0 {
			if finished {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-n.wake:
			}
			continue
		}
		if !n.write(ctx, batch) {
			return
		}
	}
}

// write writes one note for each of several objects; it returns false if no more can be written.
func (n *notes) write(ctx context.Context, batch []note) bool {
	slices.SortFunc(batch, func(a, b note) int { return cmp.Compare(a.seq, b.seq) })
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(noting)
	stored := true
	for _, o := range batch {
		if n.sink.WaitStored(ctx, o.seq) != nil {
			stored = false
			break
		}
		group.Go(func() error { return n.one(gctx, o) })
	}
	return group.Wait() == nil && stored
}

// one writes a note, again and again until it succeeds or ctx ends.
func (n *notes) one(ctx context.Context, o note) error {
	for {
		var err error
		if o.sent.Revision == "" {
			err = n.memory.Forget(ctx, o.key)
		} else {
			err = n.memory.Note(ctx, o.key, o.sent)
		}
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			n.failed.warn(n.log, "remember what was sent failed", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(noteRetry):
		}
	}
}

// rarely logs a repeating warning at most every ten seconds.
type rarely struct {
	mu   sync.Mutex
	last time.Time
}

func (r *rarely) warn(log *slog.Logger, message string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.last) < 10*time.Second {
		return
	}
	r.last = time.Now()
	log.Warn(message, "error", err)
}
