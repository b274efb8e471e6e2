package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Least values of TrimOptions.
const (
	minMargin    = 60 * time.Second // and ten times the DR site's sync interval, which deploy/nats sets to 1 s
	trimInterval = 10 * time.Second
)

// deleteEvery is how often older generations are looked for that nobody needs any more.
const deleteEvery = 5 * time.Minute

// history remembers when the stream had reached which sequence, as far back as the margin needs.
type history struct {
	margin  time.Duration
	samples []sample // oldest first
}

type sample struct {
	at  time.Time
	seq uint64
}

// note notes that the stream reaches seq now.
func (h *history) note(now time.Time, seq uint64) {
	h.samples = append(h.samples, sample{now, seq})
	h.samples = slices.Delete(h.samples, 0, max(0, h.older(now, h.margin)))
}

// older returns the index of the newest sample that is at least an age old; -1: none is.
func (h *history) older(now time.Time, age time.Duration) int {
	i := len(h.samples) - 1
	for i >= 0 && now.Sub(h.samples[i].at) < age {
		i--
	}
	return i
}

// stored returns the sequence up to which everything was stored at least an age ago, which is at most the margin; 0
// where that isn't known.
func (h *history) stored(now time.Time, age time.Duration) uint64 {
	if i := h.older(now, age); i >= 0 {
		return h.samples[i].seq
	}
	return 0
}

// trim keeps the origin short: it removes what the DR site has stored, as its mirror's acknowledgement floor
// tells, and what is older than the margin. The margin is counted from this process's start on: a
// writer that restarts keeps more for a while, never less. A stream that is short of room gives up all of the
// margin but the least one: what is new is worth more than what the DR site has.
func (w *Writer) trim(ctx context.Context) {
	o := *w.options.Trim
	if o.Every == 0 {
		o.Every = trimInterval
	}
	tick := time.NewTicker(o.Every)
	defer tick.Stop()
	h := history{margin: max(o.Margin, minMargin)}
	var deleted time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if time.Since(deleted) > deleteEvery {
			if err := w.deleteOlder(ctx); err != nil && ctx.Err() == nil {
				w.log.Warn("older generations were not deleted, trying again", "error", err)
			}
			deleted = time.Now()
		}
		now, margin := time.Now(), h.margin
		h.note(now, w.Stored())
		if w.short() {
			margin = minMargin
		}
		old := h.stored(now, margin)
		if old == 0 {
			continue
		}
		if err := w.trimTo(ctx, old); err != nil && ctx.Err() == nil {
			w.log.Warn("the stream was not trimmed, trying again", "error", err)
		}
	}
}

// trimTo removes what the DR site has stored, and never anything behind old.
func (w *Writer) trimTo(ctx context.Context, old uint64) error {
	attempt, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	floor, err := w.site.fed(attempt, w.id)
	if err != nil {
		return err
	}
	return w.site.Purge(attempt, w.id.Name(), min(floor, old)+1)
}

// deleteOlder deletes the streams of older generations once the DR site has a mirror of this one and none of
// them: its base lies in this one then. Until the DR site has told so, they stay.
func (w *Writer) deleteOlder(ctx context.Context) error {
	if w.id.Generation == 1 || w.options.Mirrored == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, comparePatience)
	defer cancel()
	existing, err := w.site.generations(ctx, w.id.Group, w.id.Part)
	if err != nil {
		return err
	}
	here := uint64(0)
	for _, n := range existing {
		if n >= w.id.Generation {
			continue
		}
		if here == 0 { // asked only where there is something to delete
			if here, err = w.options.Mirrored(ctx, w.id.Generation); err != nil || here == 0 {
				return nil // the DR site is away, or not that far
			}
		}
		if there, err := w.options.Mirrored(ctx, n); err != nil || there > 0 {
			continue
		}
		older := StreamID{w.id.Group, w.id.Part, n}
		if err := w.site.js.DeleteStream(ctx, older.Name()); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("delete stream %s: %w", older.Name(), err)
		}
		w.log.Info("deleted an older generation", "deleted", older.Name())
	}
	return nil
}
