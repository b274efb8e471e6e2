package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica/objects"
)

// step is one volume's part of an Advance, or that of the objects.
type step struct {
	v     *volume
	entry events.VectorEntry
	from  Volume // where the path begins: the volume's position, or a blank one
	legs  []Leg
	anew  bool // what the replica holds is to be discarded first
	iv    *interval
	batch *objects.Batch // of the objects; nil: none is begun, or it belongs to the store
}

// Advance brings the set to commit c, which is later than the one it is at. Where the journal does
// not reach c yet it waits, with nothing written.
//
// An error before the target is recorded leaves the replicas as they were. A later one leaves them in
// between, recorded as Checkpoint().Applying: an Advance to that commit or a later one makes them
// whole. An error that Damage knows will not go away by itself; one that wraps syscall.ENOSPC does
// when there is room.
func (s *Set) Advance(ctx context.Context, src Source, c *events.Commit) error {
	return s.toward(ctx, src, c, func(steps []*step, whole bool) error {
		if err := s.prepare(ctx, src, c, steps); err != nil {
			return err
		}
		if err := s.promise(c, steps); err != nil {
			return err
		}
		if err := s.apply(ctx, src, c, steps, whole); err != nil {
			for _, st := range steps {
				s.reset(st.v)
			}
			return err
		}
		return s.finish(c, steps)
	})
}

// toward locks the volumes of commit c, checks that it lies ahead, and runs work on the steps to it. Where
// the set is at c already there is no work. whole tells that no earlier attempt left the replicas in between.
func (s *Set) toward(ctx context.Context, src Source, c *events.Commit, work func(steps []*step, whole bool) error) error {
	s.advancing.Lock()
	defer s.advancing.Unlock()
	if err := s.settle(); err != nil {
		return err
	}
	cp := s.Checkpoint()
	if c.Token.Barrier == cp.Commit.Barrier && cp.Applying == nil {
		return nil
	}
	if err := later(&cp, c); err != nil {
		return err
	}
	steps, err := s.steps(ctx, src, c)
	defer unlock(steps)
	if err != nil {
		return err
	}
	defer s.release(steps)
	return s.roomy(work(steps, cp.Applying == nil))
}

// roomy gives up what snapshots keep where work failed for lack of room: the next attempt has what there is.
func (s *Set) roomy(err error) error {
	if noRoom(err) {
		s.giveUpSnapshots(err)
	}
	return err
}

func noRoom(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// promise records that the set is being advanced to c: from here on it is whole only there, or later. With it
// goes what the replicas hold that begin anew: only then may it be overwritten.
func (s *Set) promise(c *events.Commit, steps []*step) error {
	target := CommitOf(c)
	err := s.record(func(cp *Checkpoint) {
		cp.Applying = &target
		for _, st := range steps {
			if st.anew && !st.isObjects() { // those are written beside what is held
				cp.discard(st.v.name, st.from)
			}
		}
	})
	if err != nil {
		return err
	}
	for _, st := range steps {
		if st.anew && !st.isObjects() {
			s.reset(st.v)
		}
	}
	return nil
}

func later(cp *Checkpoint, c *events.Commit) error {
	if c.Token.Barrier <= cp.Commit.Barrier || c.Token.Barrier < cp.Floor() {
		return fmt.Errorf("advance from barrier %d to %d: %w", cp.Floor(), c.Token.Barrier, ErrRewind)
	}
	return nil
}

// steps locks the volumes of the commit's vector and finds the way to it for each. It returns
// what it locked with an error, too.
func (s *Set) steps(ctx context.Context, src Source, c *events.Commit) ([]*step, error) {
	vector := slices.Clone(Parts(c))
	slices.SortFunc(vector, func(a, b events.VectorEntry) int { return cmp.Compare(a.Volume, b.Volume) })
	var steps []*step
	for i, entry := range vector {
		if i > 0 && vector[i-1].Volume == entry.Volume {
			return steps, fmt.Errorf("commit of barrier %d names volume %s twice", c.Token.Barrier, entry.Volume)
		}
		v := s.volume(entry.Volume)
		v.mu.Lock()
		st := &step{v: v, entry: entry}
		steps = append(steps, st)
		if err := s.plan(ctx, src, st); err != nil {
			return steps, &VolumeError{entry.Volume, err}
		}
	}
	return steps, nil
}

// plan finds the path of a step, whose volume is locked.
func (s *Set) plan(ctx context.Context, src Source, st *step) (err error) {
	st.from = st.v.now
	if st.legs, st.anew, err = s.path(ctx, src, st.v.name, st.v.now, st.entry.Position); err != nil {
		return err
	}
	if st.anew {
		st.from = s.blank(st.v.name)
	}
	return nil
}

func unlock(steps []*step) {
	for _, st := range steps {
		st.v.mu.Unlock()
	}
}

// each runs f for every step in parallel; the first error cancels the others.
func each(ctx context.Context, steps []*step, f func(context.Context, *step) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, st := range steps {
		g.Go(func() error {
			if err := f(ctx, st); err != nil {
				return &VolumeError{st.v.name, err}
			}
			return nil
		})
	}
	return g.Wait()
}

// prepare reads and verifies every interval, then makes room for all of them. It changes no content.
func (s *Set) prepare(ctx context.Context, src Source, c *events.Commit, steps []*step) error {
	err := each(ctx, steps, func(ctx context.Context, st *step) (err error) {
		if st.isObjects() {
			return s.stage(ctx, src, st, c.Token)
		}
		st.iv, err = s.readInterval(ctx, src, st, c.Token)
		return err
	})
	if err != nil {
		return fmt.Errorf("prepare barrier %d: %w", c.Token.Barrier, err)
	}
	err = each(ctx, steps, func(_ context.Context, st *step) error {
		if st.isObjects() {
			return nil // they are written already
		}
		if st.anew {
			return nil // its room is taken by what is to be discarded
		}
		return s.makeRoom(st)
	})
	if err != nil {
		return fmt.Errorf("make room for barrier %d: %w", c.Token.Barrier, err)
	}
	return nil
}

// makeRoom opens the step's target, grows it and reserves what the interval writes.
func (s *Set) makeRoom(st *step) error {
	size := st.v.now.Size
	if st.v.now.Seq == 0 {
		size = st.iv.to.Size
	}
	if err := s.openVolume(st.v, size); err != nil {
		return err
	}
	if st.iv.to.Size > st.v.target.Size() {
		// What a replica has behind its volume's end is no content.
		if err := st.v.target.Resize(st.iv.to.Size); err != nil {
			return fmt.Errorf("grow to %d bytes: %w", st.iv.to.Size, err)
		}
	}
	return st.v.target.Reserve(st.iv.writes.merge())
}

// apply writes the intervals and makes them durable.
func (s *Set) apply(ctx context.Context, src Source, c *events.Commit, steps []*step, first bool) error {
	err := each(ctx, steps, func(ctx context.Context, st *step) error {
		if st.isObjects() {
			return s.keep(st)
		}
		if st.anew {
			if err := s.makeRoom(st); err != nil {
				return err
			}
		}
		compare := first && st.v.whole
		st.v.whole = false
		if err := s.applyInterval(ctx, src, st, c.Token, compare); err != nil {
			return err
		}
		return st.v.target.Sync()
	})
	if err != nil {
		return fmt.Errorf("apply barrier %d: %w", c.Token.Barrier, err)
	}
	return nil
}

// finish records that the set is at c. Where that fails the data is there nevertheless, and is
// written again.
func (s *Set) finish(c *events.Commit, steps []*step) error {
	err := s.record(func(cp *Checkpoint) {
		cp.Commit, cp.Applying, cp.Without = CommitOf(c), nil, nil
		for name, v := range cp.Volumes {
			if v.State == Member {
				v.State = Left
				cp.Volumes[name] = v
			}
		}
		for _, st := range steps {
			v := st.iv.to
			v.State = Member
			cp.Volumes[st.v.name] = v
		}
	})
	for _, st := range steps {
		s.reset(st.v)
		st.v.whole = err == nil
		switch {
		case !st.isObjects():
		case err == nil:
			s.take(st, c)
		default:
			st.batch = nil // the file may name it
		}
	}
	if err != nil {
		return err
	}
	s.markLeft()
	return nil
}

// markLeft takes over what finish decided about volumes outside of the vector.
func (s *Set) markLeft() {
	s.mu.Lock()
	var left []*volume
	for name, v := range s.cp.Volumes {
		if v.State == Left {
			left = append(left, s.volumes[name])
		}
	}
	s.mu.Unlock()
	for _, v := range left {
		v.mu.Lock()
		v.now.State = Left
		v.mu.Unlock()
	}
}

// id returns the stream of a volume.
func (s *Set) id(name string, generation uint32) journal.StreamID {
	return journal.StreamID{Group: s.o.Group, Part: name, Generation: generation}
}
