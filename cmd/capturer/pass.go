package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// lookBack is how many messages before our epoch are looked at. Heartbeats come every second, so an
// earlier writer's last one is among them unless it published thousands of messages a second.
const lookBack = 4096

// passNeeded tells which pass this start needs; each start needs one. What an earlier process had
// acknowledged and not sent isn't known: there is no activity log yet that would name the regions. So
// the whole volume is passed, and it votes on barriers only behind its PassDone.
//
// It is a seed as long as the stream has never had the whole volume. An earlier writer's heartbeats tell
// which pass it was in: while a seed is open, and where nothing tells, it is a seed again. Both
// kinds send everything; the difference is for those who watch.
func (t *tap) passNeeded(ctx context.Context) (events.PassKind, error) {
	previous := t.writer.Previous()
	if previous == 0 {
		return events.PassSeed, nil
	}
	name := t.writer.ID().Name()
	first, err := t.firstMessage(ctx, name)
	if err != nil {
		return 0, err
	}
	from := max(first, 1)
	if previous > lookBack {
		from = max(from, previous-lookBack)
	}
	if from > previous {
		return events.PassResync, nil // all of it was trimmed, which only happens to a stream long in use
	}
	kind, err := t.lastPass(ctx, name, from, previous)
	if err != nil {
		return 0, fmt.Errorf("read the end of stream %s: %w", name, err)
	}
	return kind, nil
}

func (t *tap) firstMessage(ctx context.Context, name string) (uint64, error) {
	tail, err := t.site.Tail(ctx, name)
	return tail.First, err
}

func (t *tap) lastPass(ctx context.Context, name string, from, to uint64) (events.PassKind, error) {
	reader, err := t.site.OpenReader(ctx, name, from)
	if err != nil {
		return 0, err
	}
	defer reader.Close()
	kind := events.PassSeed
	for {
		m, err := reader.Next(ctx)
		var gap *journal.GapError
		var damaged *events.MessageError
		if errors.As(err, &gap) || errors.As(err, &damaged) {
			return events.PassResync, nil // trimmed meanwhile, or not for this process to judge
		}
		if err != nil {
			return 0, err
		}
		switch e := m.Event.(type) {
		case *events.PassDone:
			kind = events.PassResync
		case *events.Heartbeat:
			if e.Progress.Pass == events.PassSeed {
				kind = events.PassSeed
			} else {
				kind = events.PassResync
			}
		}
		if m.Seq >= to {
			return kind, nil
		}
	}
}
