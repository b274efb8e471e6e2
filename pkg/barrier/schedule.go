package barrier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// loop makes barriers: one each interval, labelled ones in between as they are asked for. A barrier that
// takes longer than the interval is followed by the next one at once.
//
// A coordinator whom taps refuse for a newer one waits to be fenced, which the next thing it
// appends does. If that doesn't happen the newer one's epoch is gone from the stream with
// what a power cut took; only a higher epoch helps then, and a new start brings one.
func (c *Coordinator) loop(ctx context.Context) error {
	next := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	if c.o.Interval < 0 {
		timer.Stop()
	}
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case reason := <-c.renewal:
			err = fmt.Errorf("%w: %s", errRenew, reason)
		case c.listed = <-c.listing:
			c.call()
			err = c.dismiss(ctx)
		case m := <-c.requests:
			err = c.serveMark(ctx, m)
		case <-timer.C:
			_, err = c.barrier(ctx, events.Crash, "")
			if next = next.Add(c.o.Interval); time.Until(next) < 0 {
				next = time.Now()
			}
			timer.Reset(time.Until(next))
		}
		if err := c.final(err); err != nil {
			return err
		}
	}
}

// final returns err if the coordinator can't go on behind it.
func (c *Coordinator) final(err error) error {
	var missing *MissingError
	if errors.Is(err, ErrSuperseded) {
		if c.superseded.IsZero() {
			c.superseded = time.Now()
		}
		if time.Since(c.superseded) > c.patience {
			return err
		}
		return nil
	}
	c.superseded = time.Time{}
	if errors.Is(err, ErrNoMembers) || errors.As(err, &missing) {
		return nil
	}
	return err
}

// serveMark makes a labelled barrier. Members that are missing only for the moment, because this
// coordinator has just begun to listen, for instance, get a little time. Where a newer
// coordinator is at work nothing is answered: it answers.
func (c *Coordinator) serveMark(ctx context.Context, m *nats.Msg) error {
	var r markRequest
	if err := json.Unmarshal(m.Data, &r); err != nil || CheckLabel(r.Label) != nil {
		c.reply(m, nil, ErrLabel)
		return nil
	}
	deadline := time.Now().Add(c.indulgence)
	for {
		commit, err := c.barrier(ctx, events.Labeled, r.Label)
		var missing *MissingError
		transient := errors.Is(err, ErrNoMembers) || errors.As(err, &missing)
		if transient && time.Now().Before(deadline) && pause(ctx, c.indulgence/4) {
			continue
		}
		if errors.Is(err, ErrSuperseded) || errors.Is(err, journal.ErrFenced) {
			return err
		}
		c.reply(m, commit, err)
		return err
	}
}

// call asks the taps of all that is listed to announce themselves now. A lost request costs the time until they do it
// unasked.
func (c *Coordinator) call() {
	for _, v := range c.listed {
		c.send(context.Background(), &vote{volume: v.Name}, verbAnnounce, events.Token{}, 0)
	}
}

// pause waits; it returns false where ctx ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// report is what was last said about barriers.
type report struct {
	failure string
	at      time.Time
}

// report tells about the end of a barrier: to the log when it changes, and to the control
// stream's heartbeats.
func (c *Coordinator) report(commit *events.Commit, err error) {
	var missing *MissingError
	switch {
	case err == nil:
		c.absent.Store(nil)
		if c.reported.failure != "" {
			c.log.Info("barriers are committed", "barrier", commit.Token.Barrier)
		}
		c.reported = report{}
		if commit.Type == events.Crash {
			c.log.Debug("barrier committed", "barrier", commit.Token.Barrier, "hold", commit.Hold)
		} else {
			c.log.Info("labelled barrier committed", "barrier", commit.Token.Barrier, "label", commit.Label, "time", commit.Time, "hold", commit.Hold)
		}
		return
	case errors.As(err, &missing):
		names := missing.Volumes()
		c.absent.Store(&names)
	case errors.Is(err, ErrNoMembers):
		c.absent.Store(nil)
	case !errors.Is(err, ErrSuperseded):
		return // ends the coordinator; its caller tells
	}
	what := err.Error()
	if missing != nil { // reasons change, as progress does
		what = "missing " + joined(missing.Volumes())
	}
	if what == c.reported.failure && time.Since(c.reported.at) < repeatLog {
		return
	}
	c.reported = report{what, time.Now()}
	if errors.Is(err, ErrNoMembers) {
		c.log.Info("no barrier yet", "reason", err)
		return
	}
	c.log.Warn("barrier failed", "error", err)
}

func joined(names []string) string {
	slices.Sort(names)
	out := ""
	for _, n := range names {
		out += n + " "
	}
	return out
}
