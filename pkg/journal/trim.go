package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Least values of TrimOptions.
const (
	minMargin    = 60 * time.Second // and ten times the DR site's sync interval, which deploy/nats sets to 1 s
	trimInterval = 10 * time.Second
)

// sample is when the stream had reached a sequence.
type sample struct {
	at  time.Time
	seq uint64
}

// trim keeps the origin short: it removes what the DR site has stored, as its mirror's acknowledgement floor
// tells, and what is older than the margin. The margin is counted from this process's start on: a
// writer that restarts keeps more for a while, never less.
func (w *Writer) trim(ctx context.Context) {
	o := *w.options.Trim
	if o.Margin < minMargin {
		o.Margin = minMargin
	}
	if o.Every == 0 {
		o.Every = trimInterval
	}
	tick := time.NewTicker(o.Every)
	defer tick.Stop()
	var samples []sample
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		samples = append(samples, sample{time.Now(), w.Stored()})
		old := 0
		for old+1 < len(samples) && time.Since(samples[old+1].at) >= o.Margin {
			old++
		}
		samples = samples[old:]
		if time.Since(samples[0].at) < o.Margin {
			continue
		}
		if err := w.trimTo(ctx, samples[0].seq); err != nil && ctx.Err() == nil {
			w.log.Warn("the stream was not trimmed, trying again", "error", err)
		}
	}
}

func (w *Writer) trimTo(ctx context.Context, margin uint64) error {
	attempt, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	floor, err := w.site.mirrored(attempt, w.id)
	if err != nil {
		return err
	}
	return w.site.Purge(attempt, w.id.Name(), min(floor, margin)+1)
}

// mirrored returns the sequence up to which the DR site is known to have stored the stream: the
// acknowledgement floor of the newest mirror's consumer. It trails the truth, which is right for trimming.
func (s *Site) mirrored(ctx context.Context, id StreamID) (uint64, error) {
	floor := uint64(0)
	for incarnation := 1; ; incarnation++ {
		c, err := s.js.PushConsumer(ctx, id.Name(), consumerName(incarnation))
		if err != nil {
			if incarnation > 1 && errors.Is(err, jetstream.ErrConsumerNotFound) {
				return floor, nil
			}
			return 0, fmt.Errorf("read how far the DR site has stored %s: %w", id.Name(), err)
		}
		floor = c.CachedInfo().AckFloor.Stream
	}
}
