package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/replay"
)

// plan tells what the replay would do.
func (o *replayOptions) plan(ctx context.Context, from *sources, g *group.Group) (*replay.Plan, error) {
	plan, err := replay.DryRun(ctx, o.options(from, g))
	if err != nil {
		return nil, from.failed(err)
	}
	return plan, nil
}

// failed says what a replay failed with.
func (s *sources) failed(err error) error {
	var unfinished *replay.UnfinishedError
	var device *replay.DeviceError
	switch {
	case errors.Is(err, replay.ErrNotEmpty), errors.As(err, &unfinished):
		return daemon.Usagef("--into: %w", err)
	case errors.As(err, &device):
		return daemon.Usagef("--device: %w", err)
	case s.unopened != nil:
		return fmt.Errorf("replay: %w (the archive can't be used: %w)", err, s.unopened)
	}
	return fmt.Errorf("replay: %w", err)
}

// origin says what a replay begins from.
func origin(from replay.Origin, barrier uint64) string {
	switch from {
	case replay.Replicas:
		return fmt.Sprintf("the replicas at barrier %d", barrier)
	case replay.Base:
		return fmt.Sprintf("the base at barrier %d", barrier)
	case replay.Archived:
		return fmt.Sprintf("the archived point of barrier %d", barrier)
	}
	return "blank volumes"
}

func printReading(out io.Writer, p *replay.Plan) error {
	label := ""
	if p.Point.Label != "" {
		label = fmt.Sprintf(" %q", p.Point.Label)
	}
	what := "would recover"
	if p.Resumes {
		what = "would go on to recover"
	}
	fmt.Fprintf(out, "%s barrier %d (%s%s) of %s from %s\n", what, p.Point.Barrier, p.Point.Kind, label,
		p.Point.Time.UTC().Format(time.RFC3339Nano), origin(p.From, p.Base))
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	reading(w, "copied at the DR site", p.Copy, "")
	reading(w, "read from the archive", p.Archive, fmt.Sprintf(" in %s requests", human.Count(p.Requests)))
	reading(w, "read from the journal", p.Journal, "")
	if p.Time > 0 {
		fmt.Fprintf(w, "  in all\t\tabout %s\n", human.Duration(p.Time))
	}
	return w.Flush()
}

func reading(w io.Writer, what string, r replay.Reading, more string) {
	if r.Bytes == 0 {
		return
	}
	speed := "a sample was too small to tell how fast"
	if r.Rate > 0 {
		speed = fmt.Sprintf("about %s at %s/s", human.Duration(r.Time), human.Bytes(int64(r.Rate)))
	}
	fmt.Fprintf(w, "  %s\t%s%s\t%s\n", what, human.Bytes(int64(r.Bytes)), more, speed)
}
