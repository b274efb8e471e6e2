package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// retain trims the mirrors behind the retention, from time to time: first the base is brought to
// where the retention begins, then what lies before it is purged.
func (f *Follower) retain(ctx context.Context) error {
	for sleep(ctx, f.o.RetentionEvery) {
		err := f.retainOnce(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrLocked):
			f.log.Debug("a replay reads the base; the history is trimmed later")
		case err != nil:
			f.failed(ctx, "base", fmt.Errorf("history is not trimmed: %w", err))
		default:
			f.succeeded("base")
		}
	}
	return nil
}

func (f *Follower) retainOnce(ctx context.Context) error {
	cp := f.set.Checkpoint()
	keep := time.Duration(f.o.Group.Spec.Recovery.Retention)
	newest := f.newestPoint(&cp)
	if newest == nil {
		return nil
	}
	edge := newest.Time.Add(-keep)
	// The newest commit that is out of the retention: every point within it is behind.
	target, ok := f.timeline.last(func(c Commit) bool { return !c.Time.After(edge) && c.Barrier <= cp.Commit.Barrier })
	if !ok {
		return nil
	}
	if oldest, ok := f.timeline.oldest(); ok && target.Time.Sub(oldest.Time) < keep/20 {
		return nil // little to win
	}
	commit, err := f.commitAt(ctx, target.seq)
	if err != nil {
		return err
	}
	// The base stays open, and so locked, until the mirrors are trimmed: a replay begins either before, or
	// with what is left.
	set, err := Open(BaseDir(f.dir), f.setOptions().withoutDevices())
	if err != nil {
		return err
	}
	err = f.moveBase(ctx, set, commit)
	if err == nil {
		err = f.purge(ctx, set.Checkpoint(), target)
	}
	return errors.Join(err, set.Close())
}

func (f *Follower) commitAt(ctx context.Context, seq uint64) (*events.Commit, error) {
	f.mu.Lock()
	name := f.streams[journal.Control].Name
	f.mu.Unlock()
	r, err := f.o.Site.OpenReader(ctx, name, seq)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	m, err := r.Next(ctx)
	if err != nil {
		return nil, err
	}
	c, ok := m.Event.(*events.Commit)
	if !ok {
		return nil, &events.MessageError{Stream: name, Seq: seq, Err: errors.New("it was a commit before")}
	}
	return c, nil
}

// moveBase brings the base to a commit. The first base begins blank, with the whole history still here: it
// is applied as it is read. Later ones rely on what they hold, so they prepare first.
func (f *Follower) moveBase(ctx context.Context, set *Set, c *events.Commit) error {
	mirrors := NewMirrors(f.o.Site)
	defer mirrors.Close()
	cp := set.Checkpoint()
	switch {
	case cp.Commit.Barrier >= c.Token.Barrier && cp.Applying == nil:
		return nil
	case cp.Commit.Barrier == 0:
		f.log.Info("making the first base", "barrier", c.Token.Barrier)
		return set.Fill(ctx, mirrors, c)
	}
	return set.Advance(ctx, mirrors, c)
}

func (o Options) withoutDevices() Options {
	o.Devices = nil
	return o
}

// purge removes what the base holds from the mirrors.
func (f *Follower) purge(ctx context.Context, base Checkpoint, target place) error {
	for name, v := range base.Volumes {
		id := journal.StreamID{Group: f.group, Part: name, Generation: v.Generation}
		if err := f.o.Site.Purge(ctx, MirrorName(id), v.Seq+1); err != nil {
			return err
		}
	}
	f.mu.Lock()
	control := f.streams[journal.Control].Name
	f.mu.Unlock()
	if err := f.o.Site.Purge(ctx, control, target.seq); err != nil {
		return err
	}
	f.timeline.trimmed(target.Barrier)
	f.log.Info("trimmed history", "barrier", target.Barrier, "time", target.Time)
	return nil
}
