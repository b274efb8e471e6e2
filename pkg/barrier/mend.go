package barrier

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

// mender answers what the DR site asks of the control stream's writer.
type mender struct{ c *Coordinator }

func (m *mender) id(generation uint32) journal.StreamID {
	return journal.StreamID{Group: m.c.o.Group, Part: journal.Control, Generation: generation}
}

// Incarnate implements repair.Capture.
func (m *mender) Incarnate(ctx context.Context, generation uint32, n int, from uint64) error {
	return repair.Incarnate(ctx, m.c.o.Site, m.id(generation), n, from)
}

// Pause implements repair.Capture.
func (m *mender) Pause(ctx context.Context, generation uint32, until time.Time) error {
	return repair.Pause(ctx, m.c.o.Site, m.id(generation), until)
}

// Renew implements repair.Capture.
func (m *mender) Renew(_ context.Context, generation uint32, reason string) error {
	switch current := m.c.tenured.Load(); {
	case current == 0:
		return fmt.Errorf("%w: the control stream is being taken over", repair.ErrBusy)
	case current > generation:
		return nil
	}
	select {
	case m.c.renewal <- reason:
	default: // asked for already
	}
	return nil
}

var errNoVolume = fmt.Errorf("%w: the control stream has no volume", repair.ErrRefused)

// Heal implements repair.Capture.
func (m *mender) Heal(context.Context, []repair.Range) error { return errNoVolume }

// Scrub implements repair.Capture.
func (m *mender) Scrub(context.Context) (repair.Scrub, error) { return repair.Scrub{}, errNoVolume }

// Scrubbed implements repair.Capture.
func (m *mender) Scrubbed(context.Context, uint64) (repair.Scrub, error) {
	return repair.Scrub{}, errNoVolume
}

// inherit makes a generation whose first commit is still to come go on with what was before it: the roster of
// older generations, and numbers and times above all that the DR site knows of. What an earlier coordinator
// carried over and did not finish is carried over now.
func (c *Coordinator) inherit(ctx context.Context, id journal.StreamID, before *history, f *repair.Foundation) error {
	if before == nil {
		before = c.remains(ctx, id)
	}
	if f == nil {
		limited, cancel := context.WithTimeout(ctx, inheritLimit)
		defer cancel()
		var err error
		if f, err = c.found(limited); err != nil {
			c.log.Warn("the DR site does not tell what it knows of earlier barriers", "error", err)
			f = new(repair.Foundation)
		}
	}
	h := c.history
	h.barrier = max(h.barrier, before.barrier, f.Barrier)
	for _, t := range []time.Time{before.last, f.Time} {
		if t.After(h.last) {
			h.last = t
		}
	}
	h.roster.version = max(h.roster.version, before.roster.version, f.Roster)
	for name, p := range before.seqs {
		if _, known := h.seqs[name]; !known {
			h.seqs[name] = p
		}
	}
	for _, state := range []events.MemberState{events.Joined, events.Joining} {
		for _, name := range before.roster.names(state) {
			if _, known := h.roster.volumes[name]; known {
				continue
			}
			change := h.roster.change(name, before.roster.volumes[name], 0, "carried over from an earlier generation of the control stream")
			if err := c.append(ctx, change); err != nil {
				return err
			}
		}
	}
	return nil
}

// inheritLimit bounds the wait for the DR site where a generation has begun already.
const inheritLimit = 10 * time.Second

// remains reads what the primary still has of the generations before id: the newest that tells of a roster.
// It may end early, or nowhere; what is missing joins again.
func (c *Coordinator) remains(ctx context.Context, id journal.StreamID) *history {
	for n := id.Generation - 1; n > 0; n-- {
		older := journal.StreamID{Group: id.Group, Part: id.Part, Generation: n}
		tail, err := c.o.Site.Tail(ctx, older.Name())
		if err != nil {
			if !errors.Is(err, jetstream.ErrStreamNotFound) {
				c.log.Warn("an earlier generation of the control stream can't be read", "generation", n, "error", err)
			}
			continue
		}
		h, err := c.read(ctx, older.Name(), tail.Last)
		if err != nil {
			c.log.Warn("an earlier generation of the control stream can't be read to its end", "generation", n, "error", err)
		}
		if h.roster.version > 0 {
			return h
		}
	}
	return newHistory()
}
