package barrier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

// takeOver learns what was before this coordinator and closes what its predecessors left open.
func (c *Coordinator) takeOver(ctx context.Context, id journal.StreamID, f *repair.Foundation) (err error) {
	before := c.history
	c.history, err = c.read(ctx, id.Name(), c.writer.Previous())
	if err != nil {
		c.history = before
		return err
	}
	if id.Generation > 1 && c.history.last.IsZero() {
		if err := c.inherit(ctx, id, before, f); err != nil {
			return err
		}
	}
	for _, end := range c.history.openHooks() {
		c.log.Warn("an earlier snapshotter left hooks open", "barrier", end.Token.Barrier, "hooks", end.Hooks)
		if err := c.append(ctx, end); err != nil {
			return err
		}
	}
	return c.dismiss(ctx)
}

// dismiss lets the volumes leave that the document doesn't list.
func (c *Coordinator) dismiss(ctx context.Context) (err error) {
	for _, state := range []events.MemberState{events.Joining, events.Joined} {
		for _, name := range c.history.roster.names(state) {
			s := c.history.roster.volumes[name]
			v, listed := c.volume(name)
			switch {
			case !listed:
				err = c.leave(ctx, name, s, "the group's document doesn't list it any more")
			case v.UID != s.uid:
				err = c.leave(ctx, name, s, "the name was given to another volume")
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// read follows the control stream from its first message up to the given one; with an error it returns what it
// got. Nobody can append anything behind the message before our epoch: that fences every other writer.
func (c *Coordinator) read(ctx context.Context, stream string, to uint64) (*history, error) {
	h := newHistory()
	if to == 0 {
		return h, nil
	}
	tail, err := c.o.Site.Tail(ctx, stream)
	if err != nil {
		return h, fmt.Errorf("read control stream: %w", err)
	}
	r, err := c.o.Site.OpenReader(ctx, stream, tail.First)
	if err != nil {
		return h, fmt.Errorf("read control stream: %w", err)
	}
	defer r.Close()
	for at := tail.First; at <= to; at++ {
		m, err := r.Next(ctx)
		if err == nil {
			err = h.follow(m.Event)
		}
		if err != nil {
			return h, fmt.Errorf("read control stream: %w", err)
		}
	}
	return h, nil
}

func (c *Coordinator) volume(name string) (Volume, bool) {
	i := slices.IndexFunc(c.listed, func(v Volume) bool { return v.Name == name })
	if i < 0 {
		return Volume{}, false
	}
	return c.listed[i], true
}

func (c *Coordinator) leave(ctx context.Context, name string, s seat, why string) error {
	s.state = events.Left
	c.log.Info("volume leaves", "volume", name, "reason", why)
	return c.append(ctx, c.history.roster.change(name, s, 0, why))
}

// admit lets listed volumes join whose tap was heard for the first time, and follows members to a
// newer generation of their stream.
func (c *Coordinator) admit(ctx context.Context) error {
	for _, v := range c.listed {
		h, present := c.presence.of(v.Name)
		if !present || h.Generation == 0 || h.Epoch == 0 {
			continue
		}
		if h.UID != v.UID {
			c.stranger(v, h.UID)
			continue
		}
		s, known := c.history.roster.volumes[v.Name]
		change, why := s, ""
		switch {
		case !known || s.state == events.Left || s.uid != v.UID:
			change, why = seat{uid: v.UID, generation: h.Generation, state: events.Joining}, "heard for the first time"
		case h.Generation > s.generation:
			change.generation, why = h.Generation, "a new generation of its stream began"
		default:
			continue
		}
		c.log.Info("roster changes", "volume", v.Name, "generation", change.generation, "reason", why)
		if err := c.append(ctx, c.history.roster.change(v.Name, change, 0, why)); err != nil {
			return err
		}
	}
	return nil
}

// stranger reports a tap that serves something else than the document says, once.
func (c *Coordinator) stranger(v Volume, uid string) {
	if c.strangers[v.Name] == uid {
		return
	}
	c.strangers[v.Name] = uid
	c.log.Error("tap serves another volume than the document names: compare its capturer's document with the snapshotter's",
		"volume", v.Name, "uid", v.UID, "tap", uid)
}

// lineup returns who takes part in the next barrier: every member, and the joining volumes that
// are ready. It is a *MissingError if a member can't vote: holding the others would be in vain.
func (c *Coordinator) lineup() ([]*vote, error) {
	var votes []*vote
	var absent []Absent
	for _, name := range c.history.roster.names(events.Joined) {
		h, err := c.check(name)
		if err != nil {
			absent = append(absent, Absent{name, err.Error()})
			continue
		}
		votes = append(votes, &vote{identity: h.identity, volume: name, member: true})
	}
	if len(absent) > 0 {
		return nil, missingError(absent)
	}
	for _, name := range c.history.roster.names(events.Joining) {
		if h, err := c.check(name); err == nil && !time.Now().Before(c.retry[name]) {
			votes = append(votes, &vote{identity: h.identity, volume: name})
		}
	}
	if len(votes) == 0 {
		return nil, ErrNoMembers
	}
	return votes, nil
}

// check tells why a volume of the roster can't vote now.
func (c *Coordinator) check(name string) (heard, error) {
	s := c.history.roster.volumes[name]
	h, present := c.presence.of(name)
	switch {
	case h.at.IsZero() && name == journal.Objects:
		return h, errors.New("no watcher of objects was heard yet: check that a capturer runs that reaches the API server")
	case h.at.IsZero():
		return h, errors.New("its tap was not heard yet")
	case !present:
		return h, fmt.Errorf("its tap was last heard %s ago", time.Since(h.at).Round(100*time.Millisecond))
	case h.UID != s.uid:
		return h, errors.New("its tap serves another volume")
	case h.Generation != s.generation:
		return h, fmt.Errorf("its tap writes generation %d, which is not the roster's %d", h.Generation, s.generation)
	case !h.Ready:
		return h, errors.New(notReady(name, h.Progress))
	}
	return h, nil
}

// joinRetry is how long a volume that failed to join is left alone, so that it costs the members no
// holds.
func (c *Coordinator) joinRetry() time.Duration {
	return min(max(10*c.o.Interval, 10*time.Millisecond), 5*time.Second)
}
