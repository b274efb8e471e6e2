package barrier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// storeGrace is how long a commit waits for the marks of joining volumes behind those of the members.
const storeGrace = 2 * time.Second

// barrier makes one barrier and accounts for how it ended. A *MissingError, ErrNoMembers and
// ErrSuperseded end the barrier only; any other error ends the coordinator.
func (c *Coordinator) barrier(ctx context.Context, kind events.BarrierKind, label string) (*events.Commit, error) {
	ctx, span := c.tracer.Start(ctx, "barrier", trace.WithAttributes(attribute.String("group", c.o.Group)))
	defer span.End()
	commit, objects, err := c.try(ctx, kind, label)
	var missing *MissingError
	switch {
	case err == nil:
		now := time.Now()
		var since time.Duration
		if !c.committedAt.IsZero() {
			since = now.Sub(c.committedAt)
		}
		c.committedAt = now
		c.metrics.committed(ctx, commit, since, objects)
	case errors.As(err, &missing):
		c.metrics.failed(ctx, resultMissing, missing.Members)
	case errors.Is(err, ErrNoMembers), ctx.Err() != nil:
	default:
		c.metrics.failed(ctx, resultFailed, nil)
	}
	c.report(commit, err)
	return commit, err
}

// try makes one barrier. objects is how long the objects' watcher was held for it.
func (c *Coordinator) try(ctx context.Context, kind events.BarrierKind, label string) (commit *events.Commit, objects time.Duration, err error) {
	if err := c.admit(ctx); err != nil {
		return nil, 0, err
	}
	votes, err := c.lineup()
	if err != nil {
		return nil, 0, err
	}
	// A number is used up by trying: it is never given to another cut.
	c.history.barrier = max(c.history.barrier, c.presence.newest().Barrier) + 1
	a := newAttempt(events.Token{Epoch: c.writer.Epoch(), Barrier: c.history.barrier}, votes)
	c.current.Store(a)
	defer c.current.Store(nil)

	cut, err := c.holdAll(ctx, a)
	if err == nil && kind != events.Crash {
		err = c.readRevision(ctx, a)
	}
	if err == nil {
		err = c.markAll(ctx, a)
	}
	if err != nil {
		c.release(a.token, a.sorted())
		return nil, 0, err
	}
	if v := a.votes[journal.Objects]; v != nil {
		objects = v.hold
	}
	commit, err = c.commit(ctx, a, &events.Commit{Token: a.token, Type: kind, Label: label, Time: c.history.instant(cut)})
	return commit, objects, err
}

// holdAll returns when every tap of the attempt has confirmed its hold, and the time of the cut.
func (c *Coordinator) holdAll(ctx context.Context, a *attempt) (cut time.Time, err error) {
	// The taps count the limit from when they hear of the hold, and open by themselves behind it:
	// the last part of it is for the mark to arrive.
	a.until = time.Now().Add(c.o.HoldLimit * 4 / 5)
	for _, v := range a.votes {
		c.send(ctx, v, verbHold, a.token, c.o.HoldLimit)
	}
	dropped, err := a.settle(ctx, held, a.until, c.o.HoldLimit/10)
	if err != nil {
		return time.Time{}, err
	}
	c.drop(a.token, dropped)
	if len(a.votes) == 0 {
		return time.Time{}, ErrNoMembers
	}
	return c.o.Now(), nil
}

// readRevision returns when the API server has told the revision that the objects' mark has to prove. It must be
// called when every tap of the attempt has confirmed its hold and before any is told to mark: both directions of
// the guarantee hang on it.
func (c *Coordinator) readRevision(ctx context.Context, a *attempt) error {
	v := a.votes[journal.Objects]
	if v == nil {
		return nil
	}
	until := a.until
	if late := time.Now().Add(c.o.HoldLimit / 10); !v.member && late.Before(until) && a.any(func(v *vote) bool { return v.member }) {
		until = late
	}
	c.send(ctx, v, verbRevision, a.token, time.Until(until))
	if err := a.collect(ctx, until, func() bool { return v.at == refused || v.reached(read) }); err != nil {
		return err
	}
	if !v.reached(read) {
		if v.at != refused {
			v.at, v.reason = refused, v.silence(read)
		}
		c.send(ctx, v, verbRelease, a.token, 0) // it is held still
		if !v.member {
			delete(a.votes, v.volume)
			c.drop(a.token, []*vote{v})
		}
	}
	if len(a.votes) == 0 {
		return ErrNoMembers
	}
	return a.missing(held)
}

// markAll returns when every member's mark is stored. It must not be called before every tap of the
// attempt has confirmed its hold: the whole guarantee hangs on it.
func (c *Coordinator) markAll(ctx context.Context, a *attempt) error {
	start := time.Now()
	for _, v := range a.votes {
		c.send(ctx, v, verbMark, a.token, c.o.VoteTimeout)
	}
	if err := a.members(ctx, opened, start.Add(c.openLimit())); err != nil {
		return err
	}
	dropped, err := a.settle(ctx, stored, start.Add(c.o.VoteTimeout), storeGrace)
	if err != nil {
		return err
	}
	c.drop(a.token, dropped)
	if len(a.votes) == 0 {
		return ErrNoMembers
	}
	if v := a.votes[journal.Objects]; v != nil && v.read != "" && !proves(v.proven, v.read) {
		return missingError([]Absent{{v.volume, fmt.Sprintf("its mark proves revision %q where %q was asked for", v.proven, v.read)}})
	}
	return c.checkVector(a)
}

// openLimit is how long a tap has to open its gate once it was told to mark: it opens at once. One that stays silent
// for longer than its hold could last won't vote any more, so there is no use in waiting out the time for it.
func (c *Coordinator) openLimit() time.Duration {
	return min(c.o.VoteTimeout, max(2*c.o.HoldLimit, time.Second))
}

// proves tells whether a proven revision is one that was asked for, or a later one.
func proves(proven, asked string) bool {
	order, err := resourceversion.CompareResourceVersion(proven, asked)
	return err == nil && order >= 0
}

// checkVector refuses a cut that lies before an earlier one: a stream that has lost its end.
func (c *Coordinator) checkVector(a *attempt) error {
	var behind []Absent
	for _, v := range a.votes {
		p := c.history.seqs[v.volume]
		if v.Generation < p.Generation || v.Generation == p.Generation && v.seq <= p.Seq {
			behind = append(behind, Absent{v.volume, fmt.Sprintf("its mark is message %d of generation %d, but message %d of generation %d is part of an earlier cut: the stream has lost history",
				v.seq, v.Generation, p.Seq, p.Generation)})
		}
	}
	if len(behind) > 0 {
		return missingError(behind)
	}
	return nil
}

// commit appends what makes the cut valid, and returns when it is stored.
func (c *Coordinator) commit(ctx context.Context, a *attempt, commit *events.Commit) (*events.Commit, error) {
	for _, v := range a.sorted() {
		if !v.member {
			s := c.history.roster.volumes[v.volume]
			s.state = events.Joined
			if err := c.append(ctx, c.history.roster.change(v.volume, s, v.seq, "its first pass is done")); err != nil {
				return nil, err
			}
		}
		at := events.Position{Generation: v.Generation, Seq: v.seq}
		if v.objects() {
			commit.Objects, commit.Revision = &at, v.proven
			continue
		}
		commit.Vector = append(commit.Vector, events.VectorEntry{Volume: v.volume, Position: at})
		commit.Hold = max(commit.Hold, v.hold)
	}
	commit.Roster = c.history.roster.version
	if err := c.append(ctx, commit); err != nil {
		return nil, err
	}
	if err := c.writer.WaitStored(ctx, c.appended); err != nil {
		return nil, fmt.Errorf("commit barrier %d: %w", a.token.Barrier, err)
	}
	return commit, nil
}

// append puts an event into the control stream and follows it.
func (c *Coordinator) append(ctx context.Context, e events.Event) error {
	seq, err := c.writer.Append(ctx, e)
	if err != nil {
		return fmt.Errorf("append to control stream: %w", err)
	}
	c.appended = seq
	return c.history.follow(e)
}

// drop lets joining volumes go that held a barrier up, and leaves them alone for a while.
func (c *Coordinator) drop(t events.Token, votes []*vote) {
	c.release(t, votes)
	for _, v := range votes {
		c.retry[v.volume] = time.Now().Add(c.joinRetry())
		c.log.Warn("volume could not join yet", "volume", v.volume, "barrier", t.Barrier, "reason", v.reason)
	}
}

func (c *Coordinator) release(t events.Token, votes []*vote) {
	for _, v := range votes {
		if v.at == "" || v.at == held || v.at == read {
			c.send(context.Background(), v, verbRelease, t, 0)
		}
	}
}

// send asks a tap. A request that can't be sent is as good as one that got lost.
func (c *Coordinator) send(ctx context.Context, v *vote, verb verb, t events.Token, limit time.Duration) {
	body, err := json.Marshal(request{identity: v.identity, Verb: verb, Token: t, Limit: limit})
	if err != nil {
		c.log.Error("request can't be encoded", "error", err)
		return
	}
	m := nats.NewMsg(tapSubject(c.o.Group, v.volume))
	m.Data = body
	if verb != verbRelease && verb != verbAnnounce {
		m.Reply = c.inbox
	}
	if verb == verbMark {
		propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(m.Header))
	}
	if err := c.conn.PublishMsg(m); err != nil {
		c.log.Debug("request was not sent", "volume", v.volume, "verb", verb, "error", err)
	}
}
