package journal

import (
	"context"
	"slices"
	"time"
)

// Least values of TrimOptions.
const (
	minMargin    = 60 * time.Second // and ten times the DR site's sync interval, which deploy/nats sets to 1 s
	trimInterval = 10 * time.Second
)

// history remembers when the stream had reached which sequence, as far back as the margin needs.
type history struct {
	margin  time.Duration
	samples []sample // oldest first
}

type sample struct {
	at  time.Time
	seq uint64
}

// older notes that the stream reaches seq now, and returns the sequence up to which everything was stored at
// least the margin ago; 0 where that isn't known.
func (h *history) older(now time.Time, seq uint64) uint64 {
	h.samples = append(h.samples, sample{now, seq})
	old := 0
	for old+1 < len(h.samples) && now.Sub(h.samples[old+1].at) >= h.margin {
		old++
	}
	h.samples = slices.Delete(h.samples, 0, old)
	if now.Sub(h.samples[0].at) < h.margin {
		return 0
	}
	return h.samples[0].seq
}

// trim keeps the origin short: it removes what the DR site has stored, as its mirror's acknowledgement floor
// tells, and what is older than the margin. The margin is counted from this process's start on: a
// writer that restarts keeps more for a while, never less.
func (w *Writer) trim(ctx context.Context) {
	o := *w.options.Trim
	if o.Every == 0 {
		o.Every = trimInterval
	}
	tick := time.NewTicker(o.Every)
	defer tick.Stop()
	h := history{margin: max(o.Margin, minMargin)}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		margin := h.older(time.Now(), w.Stored())
		if margin == 0 {
			continue
		}
		if err := w.trimTo(ctx, margin); err != nil && ctx.Err() == nil {
			w.log.Warn("the stream was not trimmed, trying again", "error", err)
		}
	}
}

// trimTo removes what the DR site has stored, and never anything behind margin.
func (w *Writer) trimTo(ctx context.Context, margin uint64) error {
	attempt, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	floor, err := w.site.fed(attempt, w.id)
	if err != nil {
		return err
	}
	return w.site.Purge(attempt, w.id.Name(), min(floor, margin)+1)
}
