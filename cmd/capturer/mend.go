package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

// streamMender answers what the DR site asks of any stream that this process writes.
type streamMender struct {
	site   *journal.Site // the primary
	part   journal.StreamID
	tenure *tenure
	log    *slog.Logger
}

func (m *streamMender) id(generation uint32) journal.StreamID {
	id := m.part
	id.Generation = generation
	return id
}

// Incarnate implements repair.Capture.
func (m *streamMender) Incarnate(ctx context.Context, generation uint32, n int, from uint64) error {
	m.log.Warn("the mirror has a hole: its next incarnation begins there", "generation", generation, "incarnation", n, "from", from)
	return repair.Incarnate(ctx, m.site, m.id(generation), n, from)
}

// Pause implements repair.Capture.
func (m *streamMender) Pause(ctx context.Context, generation uint32, until time.Time) error {
	if until.IsZero() {
		m.log.Info("the mirror goes on", "generation", generation)
	} else {
		m.log.Warn("the mirror is paused: the DR site has no room", "generation", generation, "until", until)
	}
	return repair.Pause(ctx, m.site, m.id(generation), until)
}

// Renew implements repair.Capture.
func (m *streamMender) Renew(_ context.Context, generation uint32, reason string) error {
	m.tenure.mu.Lock()
	defer m.tenure.mu.Unlock()
	w := m.tenure.writer
	switch {
	case w == nil:
		return fmt.Errorf("%w: nothing is recorded now", repair.ErrBusy)
	case w.ID().Generation > generation:
		return nil
	}
	m.tenure.renew(fmt.Errorf("%w: %s", errRenew, reason))
	return nil
}

// mender is the tap as the DR site asks it to mend the volume's history; it implements repair.Capture.
type mender struct {
	streamMender
	recorder *cdc.Recorder
}

func newMender(t *tap) *mender {
	part := journal.StreamID{Group: t.env.Group.Metadata.Name, Part: t.volume.Name}
	return &mender{streamMender{t.tenure.site, part, &t.tenure, t.log}, t.recorder}
}

// Heal implements repair.Capture.
func (m *mender) Heal(_ context.Context, ranges []repair.Range) error {
	for _, r := range ranges {
		m.log.Warn("a range is sent again: the replica differs", "offset", r.Offset, "bytes", r.Length)
		err := m.recorder.Heal(r.Offset, r.Length)
		if errors.Is(err, cdc.ErrRange) {
			err = fmt.Errorf("%w: %w", repair.ErrRefused, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Scrub implements repair.Capture.
func (m *mender) Scrub(ctx context.Context) (repair.Scrub, error) {
	m.tenure.mu.Lock()
	recording := m.tenure.writer != nil
	m.tenure.mu.Unlock()
	if !recording {
		return repair.Scrub{}, fmt.Errorf("%w: nothing is recorded now", repair.ErrBusy)
	}
	return m.Scrubbed(ctx, m.recorder.Scrub())
}

// Scrubbed implements repair.Capture.
func (m *mender) Scrubbed(_ context.Context, number uint64) (repair.Scrub, error) {
	s, ok := m.recorder.Scrubbed(number)
	if !ok {
		return repair.Scrub{}, fmt.Errorf("%w: scrub %d is not the newest", repair.ErrGone, number)
	}
	answer := repair.Scrub{Number: s.Number, Done: s.Done, Total: s.Total, Seq: s.Seq}
	if w, ok := s.Journal.(*journal.Writer); ok {
		answer.Generation = w.ID().Generation
	}
	return answer, nil
}
