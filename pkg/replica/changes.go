package replica

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// Changes returns which chunks of a volume may differ between two marks of it, as the journal tells: all that was written, zeroed or trimmed
// on the way, and what it grew by. Nil, without an error, means that it can't be told and all may differ: the journal doesn't lead from one to the
// other, or not any more, or is damaged there. For journal.Objects that is always so: their log is written anew now and then.
//
// It proves what it reads as Advance does, and that the journal has the mark at from: another history of the same names is no way.
func Changes(ctx context.Context, src Source, group, part string, from, to Volume) (*grid.Set, error) {
	if part == journal.Objects || from.UID != to.UID || from.Size > to.Size || from.Barrier == 0 {
		return nil, nil
	}
	if from.at() == to.at() { // of a volume that left the commits, say, whose mark is trimmed
		return grid.New(to.Size), nil
	}
	c := &scan{src: src, group: group, part: part, from: from, to: to, set: grid.New(to.Size)}
	err := c.run(ctx)
	_, _, damaged := Damage(err)
	switch {
	case err == nil:
		return c.set, nil
	case damaged, errors.Is(err, errNoWay), errors.Is(err, ErrBranched), errors.Is(err, ErrRewind), errors.Is(err, ErrForeign),
		errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, nil
	}
	return nil, fmt.Errorf("read what changed of %s: %w", partName(part), err)
}

// Proves tells whether the journal has the very mark that a part was held at: what it leads to from there, up to a position, is the
// history of what is held, and not another one of the same names. Where nothing is held, or the way to the position begins anew, there is nothing to
// prove. Errors are those of Path and of reading.
func Proves(ctx context.Context, src Source, group, part string, at Volume, to events.Position) (bool, error) {
	c := &scan{src: src, group: group, part: part, from: at, to: Volume{Generation: to.Generation, Seq: to.Seq}}
	if at.Seq == 0 {
		return true, nil
	}
	_, anew, err := c.path(ctx)
	if err != nil || anew {
		return err == nil, err
	}
	err = c.mark(ctx)
	if errors.Is(err, errNoWay) {
		return false, nil
	}
	return err == nil && at.Barrier > 0, err
}

// errNoWay says that the journal doesn't lead from one position to the other.
var errNoWay = errors.New("the journal does not lead there")

// Ends is what a Source may have besides: it tells how far streams are there.
type Ends interface {
	// Last returns the sequence of the last event of a stream that is there; without a stream the error is jetstream.ErrStreamNotFound.
	Last(ctx context.Context, id journal.StreamID) (uint64, error)
}

// at is what tells one mark of a volume from every other one, of other histories, too.
func (v Volume) at() Volume {
	return Volume{UID: v.UID, Generation: v.Generation, Seq: v.Seq, Barrier: v.Barrier, Epoch: v.Epoch, Size: v.Size, Time: v.Time.UTC().Round(0)}
}

// scan reads what changed between two positions.
type scan struct {
	src      Source
	group    string
	part     string
	from, to Volume
	set      *grid.Set
}

func (c *scan) id(generation uint32) journal.StreamID {
	return journal.StreamID{Group: c.group, Part: c.part, Generation: generation}
}

// here fails where a stream isn't there up to a sequence: a reader would wait for it, and what a replica holds but its journal doesn't may
// never come.
func (c *scan) here(ctx context.Context, generation uint32, seq uint64) error {
	ends, ok := c.src.(Ends)
	if !ok {
		return nil
	}
	last, err := ends.Last(ctx, c.id(generation))
	if err == nil && last < seq {
		err = errNoWay
	}
	return err
}

func (c *scan) run(ctx context.Context) error {
	legs, anew, err := c.path(ctx)
	if err != nil {
		return err
	}
	if anew {
		return errNoWay
	}
	if err := c.mark(ctx); err != nil {
		return err
	}
	for _, leg := range legs {
		if err := c.here(ctx, leg.Generation, leg.Last); err != nil {
			return err
		}
	}
	w := newWalk(c.src, c.group, c.part, c.from, legs, events.Token{})
	w.check.bare = true
	defer w.close()
	for !w.done() {
		it, _, err := w.next(ctx, nil)
		if err != nil {
			return err
		}
		for _, op := range ops(it.frame) {
			c.set.Mark(op.Offset, op.Length)
		}
	}
	if at := w.at(); at.at() != c.to.at() {
		return errNoWay
	}
	c.set.Mark(c.from.Size, c.to.Size-c.from.Size)
	return nil
}

// path is Path between the positions; it waits for nothing.
func (c *scan) path(ctx context.Context) (legs []Leg, anew bool, err error) {
	return Path(c.from, events.Position{Generation: c.to.Generation, Seq: c.to.Seq}, func(generation uint32) (*events.Epoch, error) {
		if err := c.here(ctx, generation, 1); err != nil {
			return nil, err
		}
		return ReadOpening(ctx, c.src, c.id(generation))
	})
}

// mark proves that what the journal has at from is what from was told from.
func (c *scan) mark(ctx context.Context) error {
	if err := c.here(ctx, c.from.Generation, c.from.Seq); err != nil {
		return err
	}
	r, err := c.src.Open(ctx, c.id(c.from.Generation), c.from.Seq)
	if err != nil {
		return err
	}
	defer r.Close()
	m, err := r.Next(ctx)
	if err != nil {
		return err
	}
	mark, ok := m.Event.(*events.Mark)
	if !ok || m.Seq != c.from.Seq || mark.Token.Barrier != c.from.Barrier || m.Header.Epoch != c.from.Epoch || !m.Header.Time.Equal(c.from.Time) {
		return errNoWay
	}
	return nil
}
