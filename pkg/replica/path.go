package replica

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// Leg is what a path needs of one generation of a volume's stream: everything behind After, up to Last.
type Leg struct {
	Generation  uint32
	After, Last uint64
}

// openEnd is the Last of a leg that goes on for ever.
const openEnd = math.MaxUint64

// Opening tells how a generation of one stream begins: the event at its sequence 1.
type Opening func(generation uint32) (*events.Epoch, error)

// ErrBranched says that a replica left the history that leads to a commit: it stands behind the base of a later
// generation, or the commit lies behind it.
var ErrBranched = errors.New("the history goes on from another place than where the replica stands")

// Path returns what leads from a replica to a position of its volume, over as many generations as that takes: the
// rest of the replica's own up to the base of the next one, and so on. anew tells that it begins with a blank volume
// although the replica holds something: a history that has no base replaces what was there. It does not
// prove anything: whoever reads along the path does.
//
// Errors wrap ErrRewind, ErrBranched or ErrForeign, or are those of opening, which is asked for the generations
// behind the replica's only.
func Path(at Volume, to events.Position, opening Opening) (legs []Leg, anew bool, err error) {
	generation, last := to.Generation, to.Seq
	for at.Seq == 0 || generation > at.Generation {
		legs = append(legs, Leg{generation, 0, last})
		base, err := baseOf(generation, opening)
		if err != nil {
			return nil, false, err
		}
		if base == nil {
			slices.Reverse(legs)
			return legs, at.Seq > 0, nil
		}
		generation, last = base.Generation, base.Seq
	}
	switch {
	case generation < at.Generation && len(legs) == 0:
		return nil, false, fmt.Errorf("%w: the commit is in generation %d, the replica in %d", ErrRewind, generation, at.Generation)
	case generation < at.Generation:
		return nil, false, fmt.Errorf("%w: generation %d begins on %d of generation %d, the replica is in generation %d",
			ErrBranched, legs[len(legs)-1].Generation, last, generation, at.Generation)
	case last < at.Seq && len(legs) == 0:
		return nil, false, fmt.Errorf("%w: the commit is at sequence %d, the replica at %d", ErrRewind, last, at.Seq)
	case last < at.Seq:
		return nil, false, fmt.Errorf("%w: generation %d begins on %d of generation %d, the replica is at %d",
			ErrBranched, legs[len(legs)-1].Generation, last, generation, at.Seq)
	case last > at.Seq:
		legs = append(legs, Leg{generation, at.Seq, last})
	}
	slices.Reverse(legs)
	return legs, false, nil
}

// baseOf returns what a generation continues; nil: nothing. The first one never does.
func baseOf(generation uint32, opening Opening) (*events.Base, error) {
	if generation <= 1 {
		return nil, nil
	}
	e, err := opening(generation)
	if err != nil {
		return nil, err
	}
	if e.Base != nil && e.Base.Generation >= generation {
		return nil, fmt.Errorf("%w: generation %d names generation %d as its base", ErrForeign, generation, e.Base.Generation)
	}
	return e.Base, nil
}

// path is Path for a volume of the set, with what src holds. It waits for the first event of a generation that is
// not here yet.
func (s *Set) path(ctx context.Context, src Source, name string, at Volume, to events.Position) ([]Leg, bool, error) {
	return Path(at, to, func(generation uint32) (*events.Epoch, error) {
		return ReadOpening(ctx, src, s.id(name, generation))
	})
}

// ReadOpening reads the first event of a stream, waiting for it.
func ReadOpening(ctx context.Context, src Source, id journal.StreamID) (*events.Epoch, error) {
	r, err := src.Open(ctx, id, 1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	m, err := r.Next(ctx)
	if err != nil {
		return nil, err
	}
	e, ok := m.Event.(*events.Epoch)
	if !ok {
		return nil, &events.MessageError{Stream: src.Name(id), Seq: m.Seq, Err: errNoEpoch}
	}
	return e, nil
}

// walk reads along a path and proves of each event that it continues the one before.
type walk struct {
	src   Source
	group string
	name  string
	legs  []Leg        // what is left
	token events.Token // of the mark that the path ends with; zero: it ends anywhere
	check verifier
	r     Reader
}

func (s *Set) walk(src Source, name string, from Volume, legs []Leg, token events.Token) *walk {
	return newWalk(src, s.o.Group, name, from, legs, token)
}

func newWalk(src Source, group, name string, from Volume, legs []Leg, token events.Token) *walk {
	return &walk{src: src, group: group, name: name, legs: legs, token: token, check: verifier{at: from, objects: name == journal.Objects}}
}

// done tells that the path is walked to its end.
func (w *walk) done() bool { return len(w.legs) == 0 }

// at returns the position behind the last event.
func (w *walk) at() Volume { return w.check.at }

// next returns the next event of the path, its content read into buf where that is possible.
func (w *walk) next(ctx context.Context, buf []byte) (item, journal.Message, error) {
	leg := w.legs[0]
	if w.r == nil {
		id := journal.StreamID{Group: w.group, Part: w.name, Generation: leg.Generation}
		w.check.enter(w.src.Name(id), leg.Generation)
		r, err := w.src.Open(ctx, id, leg.After+1)
		if err != nil {
			return item{}, journal.Message{}, err
		}
		w.r = r
	}
	m, err := w.r.Next(ctx)
	if err != nil {
		return item{}, m, err
	}
	it, err := w.check.take(m, buf)
	if err == nil && m.Seq == leg.Last && len(w.legs) == 1 && w.token != (events.Token{}) {
		err = checkMark(&w.check, m, w.token)
	}
	if err != nil {
		return item{}, m, err
	}
	if m.Seq == leg.Last {
		w.close()
		w.legs = w.legs[1:]
	}
	return it, m, nil
}

func (w *walk) close() {
	if w.r != nil {
		w.r.Close()
		w.r = nil
	}
}

// beyond returns what is left of a path behind a position on it.
func beyond(legs []Leg, at Volume) []Leg {
	for i, leg := range legs {
		if at.Seq == 0 || leg.Generation > at.Generation {
			return legs[i:]
		}
		if leg.Generation == at.Generation && at.Seq < leg.Last {
			rest := slices.Clone(legs[i:])
			rest[0].After = at.Seq
			return rest
		}
	}
	return nil
}
