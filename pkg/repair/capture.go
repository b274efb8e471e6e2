package repair

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
)

// The verbs of Capture.
const (
	verbHeal      = "heal"
	verbIncarnate = "incarnate"
	verbPause     = "pause"
	verbRenew     = "renew"
	verbScrub     = "scrub"
	verbScrubbed  = "scrubbed"
)

// ServeCapture answers for the capturer of a volume until ctx ends; it returns nil then. The control
// stream's writer serves under journal.Control, and answers what concerns a stream and no device.
func ServeCapture(ctx context.Context, conn *nats.Conn, group, volume string, c Capture) error {
	return serve(ctx, conn, captureSubject(group, volume), func(ctx context.Context, q question) (any, error) {
		switch q.Verb {
		case verbHeal:
			return nil, c.Heal(ctx, q.Ranges)
		case verbIncarnate:
			return nil, c.Incarnate(ctx, q.Generation, int(q.Number), q.From)
		case verbPause:
			return nil, c.Pause(ctx, q.Generation, q.Until)
		case verbRenew:
			return nil, c.Renew(ctx, q.Generation, q.Reason)
		case verbScrub:
			return c.Scrub(ctx)
		case verbScrubbed:
			return c.Scrubbed(ctx, q.Number)
		}
		return nil, unknown(q)
	})
}

// CaptureOf returns the capturer of a volume as the DR site asks it, through conn.
func CaptureOf(conn *nats.Conn, group, volume string) Capture {
	return &capture{asker{conn, group, captureSubject(group, volume)}}
}

type capture struct{ asker }

func (c *capture) Heal(ctx context.Context, ranges []Range) error {
	return c.ask(ctx, question{Verb: verbHeal, Ranges: ranges}, nil)
}

func (c *capture) Incarnate(ctx context.Context, generation uint32, n int, from uint64) error {
	return c.ask(ctx, question{Verb: verbIncarnate, Generation: generation, Number: uint64(n), From: from}, nil)
}

func (c *capture) Pause(ctx context.Context, generation uint32, until time.Time) error {
	return c.ask(ctx, question{Verb: verbPause, Generation: generation, Until: until}, nil)
}

func (c *capture) Renew(ctx context.Context, generation uint32, reason string) error {
	return c.ask(ctx, question{Verb: verbRenew, Generation: generation, Reason: reason}, nil)
}

func (c *capture) Scrub(ctx context.Context) (s Scrub, err error) {
	err = c.ask(ctx, question{Verb: verbScrub}, &s)
	return s, err
}

func (c *capture) Scrubbed(ctx context.Context, number uint64) (s Scrub, err error) {
	err = c.ask(ctx, question{Verb: verbScrubbed, Number: number}, &s)
	return s, err
}
