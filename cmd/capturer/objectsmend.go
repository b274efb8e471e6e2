package main

import (
	"context"
	"fmt"
	"time"

	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

// watchMender is watching as the DR site asks it to mend the objects' history; it implements repair.Capture. Content of the store
// at the DR site proves itself, so there is nothing to scrub or to send again but all of it, in a new generation.
type watchMender watching

func (m *watchMender) id(generation uint32) journal.StreamID {
	return journal.StreamID{Group: (*watching)(m).group(), Part: journal.Objects, Generation: generation}
}

// Heal implements repair.Capture.
func (m *watchMender) Heal(context.Context, []repair.Range) error {
	return fmt.Errorf("%w: objects have no ranges", repair.ErrRefused)
}

// Incarnate implements repair.Capture.
func (m *watchMender) Incarnate(ctx context.Context, generation uint32, n int, from uint64) error {
	m.log.Warn("the mirror has a hole: its next incarnation begins there", "generation", generation, "incarnation", n, "from", from)
	return repair.Incarnate(ctx, m.site, m.id(generation), n, from)
}

// Pause implements repair.Capture.
func (m *watchMender) Pause(ctx context.Context, generation uint32, until time.Time) error {
	if until.IsZero() {
		m.log.Info("the mirror goes on", "generation", generation)
	} else {
		m.log.Warn("the mirror is paused: the DR site has no room", "generation", generation, "until", until)
	}
	return repair.Pause(ctx, m.site, m.id(generation), until)
}

// Renew implements repair.Capture.
func (m *watchMender) Renew(_ context.Context, generation uint32, reason string) error {
	m.tenure.mu.Lock()
	defer m.tenure.mu.Unlock()
	switch w := m.tenure.writer; {
	case w == nil:
		return fmt.Errorf("%w: nothing is recorded now", repair.ErrBusy)
	case w.ID().Generation > generation:
		return nil
	}
	m.tenure.renew(fmt.Errorf("%w: %s", errRenew, reason))
	return nil
}

// Scrub implements repair.Capture.
func (m *watchMender) Scrub(context.Context) (repair.Scrub, error) {
	return repair.Scrub{}, fmt.Errorf("%w: objects are not scrubbed", repair.ErrRefused)
}

// Scrubbed implements repair.Capture.
func (m *watchMender) Scrubbed(ctx context.Context, _ uint64) (repair.Scrub, error) {
	return m.Scrub(ctx)
}
