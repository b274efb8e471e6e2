package main

import (
	"context"
	"fmt"

	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

// watchMender is watching as the DR site asks it to mend the objects' history; it implements repair.Capture. Content of the store
// at the DR site proves itself, so there is nothing to scrub or to send again but all of it, in a new generation.
type watchMender struct{ streamMender }

func newWatchMender(w *watching) *watchMender {
	return &watchMender{streamMender{w.site, journal.StreamID{Group: w.group(), Part: journal.Objects}, &w.tenure, w.log}}
}

// Heal implements repair.Capture.
func (m *watchMender) Heal(context.Context, []repair.Range) error {
	return fmt.Errorf("%w: objects have no ranges", repair.ErrRefused)
}

// Scrub implements repair.Capture.
func (m *watchMender) Scrub(context.Context) (repair.Scrub, error) {
	return repair.Scrub{}, fmt.Errorf("%w: objects are not scrubbed", repair.ErrRefused)
}

// Scrubbed implements repair.Capture.
func (m *watchMender) Scrubbed(ctx context.Context, _ uint64) (repair.Scrub, error) {
	return m.Scrub(ctx)
}
