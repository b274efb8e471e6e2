package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
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
	keep := time.Duration(f.spec().Retention)
	newest := f.newestPoint(&cp)
	if newest == nil {
		return nil
	}
	edge := newest.Time.Add(-keep)
	// The newest commit that is out of the retention: every point within it is behind. The marks of the commit that the
	// archiver goes on from stay, too.
	// Mirrors that are full have to be trimmed all the same.
	needs, full := f.archiveNeeds(), f.full.Load()
	if full {
		needs = 0
	} else {
		f.trouble(group.ConditionJournal, "archive", "")
	}
	target, ok := f.timeline.last(func(c Commit) bool {
		return !c.Time.After(edge) && c.Barrier <= cp.Commit.Barrier && (needs == 0 || c.Barrier < needs)
	})
	if !ok {
		return nil
	}
	if oldest, ok := f.timeline.oldest(); ok && target.Time.Sub(oldest.Time) < keep/20 {
		return nil // little to win
	}
	unarchived := f.unarchived(target.Barrier)
	if err := f.trimTo(ctx, target); err != nil || unarchived == "" {
		return err
	}
	f.trouble(group.ConditionJournal, "archive", "the mirrors are full, and were trimmed behind the retention"+unarchived)
	return nil
}

// trimTo brings the base to a commit and purges what lies before it. ErrLocked: a replay reads the base.
func (f *Follower) trimTo(ctx context.Context, target place) error {
	commit, err := f.commitAt(ctx, target.at)
	if err != nil {
		return err
	}
	// The base stays open, and so locked, until the mirrors are trimmed: a replay begins either before, or
	// with what is left.
	set, err := Open(BaseDir(f.dir), Options{Group: f.group, Log: f.log})
	if err != nil {
		return err
	}
	err = f.moveBase(ctx, set, commit)
	if err == nil {
		err = f.purge(ctx, set.Checkpoint(), target)
	}
	err = errors.Join(err, set.Close())
	f.noteBase()
	return err
}

// noteBase looks where the base is. One that can't be read is said when it is to be moved.
func (f *Follower) noteBase() {
	cp, err := ReadCheckpoint(BaseDir(f.dir))
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.base = cp
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

// purge removes what the base holds from the mirrors: what lies before it, and the generations that it has left
// behind. The applier's own replicas are never before the base.
func (f *Follower) purge(ctx context.Context, base Checkpoint, target place) error {
	f.mu.Lock()
	var ids []journal.StreamID
	for id := range f.view.mirrors {
		ids = append(ids, id)
	}
	f.mu.Unlock()
	for _, id := range ids {
		at := events.Position{Generation: base.Volumes[id.Part].Generation, Seq: base.Volumes[id.Part].Seq + 1}
		if id.Part == journal.Control {
			at = target.at
		}
		var err error
		switch {
		case id.Generation == at.Generation:
			err = f.o.Site.TrimMirror(ctx, id, at.Seq)
		case id.Generation < at.Generation:
			f.log.Info("deleting the mirror of a generation that the base has left behind", "mirror", id.Name())
			err = f.o.Site.DeleteMirror(ctx, id)
		}
		if err != nil {
			return err
		}
	}
	f.timeline.trimmed(target.Barrier)
	f.log.Info("trimmed history", "barrier", target.Barrier, "time", target.Time)
	return nil
}
