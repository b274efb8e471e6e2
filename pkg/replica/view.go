package replica

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

// errUnknown says that it is not known yet how a generation begins.
var errUnknown = errors.New("the beginning of the generation is not here yet")

// seen is a mirror as it was last looked at.
type seen struct {
	journal.Mirror
	holes   []journal.Hole // of what is still needed
	checked mark           // what the mirror looked like when they were looked for
}

// mark tells two looks at a mirror apart, as far as its holes are concerned.
type mark struct {
	incarnation                 int
	first, last, messages, from uint64
}

// here tells whether the mirror holds the sequence, as far as its end tells.
func (m *seen) here(seq uint64) bool {
	i, _ := m.At(seq)
	return i.Last >= seq
}

// first returns the oldest sequence that is left to read.
func first(m journal.Mirror) uint64 { return max(m.Incarnations[0].First, 1) }

// missing returns the first sequence in (after, upTo] that the mirror lacks; 0: none.
func (m *seen) missing(after, upTo uint64) uint64 {
	for _, h := range m.holes {
		if h.To > after && h.From <= upTo {
			return max(h.From, after+1)
		}
	}
	return 0
}

// view is what a Follower knows of the group's mirrors. Its methods are called with Follower.mu held.
type view struct {
	mirrors  map[journal.StreamID]seen
	newest   map[string]uint32                  // generation, by part
	openings map[journal.StreamID]*events.Epoch // how generations begin; that never changes
}

func newView() view {
	return view{make(map[journal.StreamID]seen), make(map[string]uint32), make(map[journal.StreamID]*events.Epoch)}
}

// part returns the mirror of the newest generation of a part.
func (v *view) part(id journal.StreamID) (seen, bool) {
	id.Generation = v.newest[id.Part]
	m, ok := v.mirrors[id]
	return m, ok
}

// opening returns how generations of a part begin, as far as that is known.
func (v *view) opening(group, part string) Opening {
	return func(generation uint32) (*events.Epoch, error) {
		if e := v.openings[journal.StreamID{Group: group, Part: part, Generation: generation}]; e != nil {
			return e, nil
		}
		return nil, fmt.Errorf("%w: generation %d of %s", errUnknown, generation, part)
	}
}

// branched tells whether a position is no longer on the way to the newest generation: that goes on from before it.
func (v *view) branched(group, part string, at events.Position) bool {
	opening := v.opening(group, part)
	for g, last := v.newest[part], uint64(openEnd); ; {
		switch {
		case g == at.Generation:
			return at.Seq > last
		case g < at.Generation:
			return g > 0
		}
		base, err := baseOf(g, opening)
		if err != nil || base == nil {
			return false // not known, or a history of its own: the old one may be followed to its end
		}
		g, last = base.Generation, base.Seq
	}
}

// Chain returns what is to be read of a part's generations, oldest first: each up to where the next one goes on. It
// begins with the oldest one that is here and leads to the newest; what does not is left out. A generation without a
// base follows the one before it, as far as that is here.
func Chain(mirrors []journal.Mirror, opening Opening) []Leg {
	byGeneration := make(map[uint32]journal.Mirror)
	for _, m := range mirrors {
		byGeneration[m.ID.Generation] = m
	}
	generations := slices.Sorted(maps.Keys(byGeneration))
	var legs []Leg
	for last := uint64(openEnd); len(generations) > 0; {
		g := generations[len(generations)-1]
		generations = generations[:len(generations)-1]
		m := byGeneration[g]
		legs = append(legs, Leg{g, first(m) - 1, last})
		if first(m) > 1 || len(generations) == 0 {
			break // what was before it was trimmed, or never here
		}
		before := generations[len(generations)-1]
		base, err := baseOf(g, opening)
		switch {
		case err != nil: // nothing of it can be read yet: the one before goes on
			legs, last = legs[:len(legs)-1], openEnd
		case base == nil:
			last = byGeneration[before].Last()
		default:
			last = base.Seq
			generations = slices.DeleteFunc(generations, func(g uint32) bool { return g > base.Generation })
			if len(generations) > 0 && generations[len(generations)-1] != base.Generation {
				generations = nil
			}
		}
	}
	slices.Reverse(legs)
	return legs
}

// OpeningOf reads how a mirrored stream begins. Where its beginning is not here, any more or yet, it
// returns nil without an error.
func OpeningOf(ctx context.Context, site *journal.Site, m journal.Mirror) (*events.Epoch, error) {
	i, _ := m.At(1)
	if i.First > 1 || i.Messages == 0 {
		return nil, nil
	}
	stream, err := site.JetStream().Stream(ctx, i.Name)
	if err != nil {
		return nil, fmt.Errorf("read the beginning of %s: %w", i.Name, err)
	}
	raw, err := stream.GetMsg(ctx, 1)
	if err != nil {
		return nil, fmt.Errorf("read the beginning of %s: %w", i.Name, err)
	}
	_, event, err := events.Decode(i.Name, 1, raw.Data)
	if err != nil {
		return nil, err
	}
	e, ok := event.(*events.Epoch)
	if !ok {
		return nil, &events.MessageError{Stream: i.Name, Seq: 1, Err: errNoEpoch}
	}
	return e, nil
}

// look sees how far the mirrors reach. A site that doesn't answer is tried again.
func (f *Follower) look(ctx context.Context) {
	attempt, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	streams, err := f.o.Site.Streams(attempt, f.group)
	if err != nil {
		f.trouble(group.ConditionConnected, "site", fmt.Sprintf("the DR site's JetStream doesn't answer: %v", err))
		return
	}
	f.trouble(group.ConditionConnected, "site", "")
	now := make(map[journal.StreamID]seen)
	for _, m := range journal.Mirrors(streams) {
		s := seen{Mirror: m}
		if err := f.findHoles(attempt, &s, f.needed(m.ID)); err != nil {
			f.log.Warn("looking for holes failed", "mirror", m.ID.Name(), "error", err)
		}
		now[m.ID] = s
	}
	f.mu.Lock()
	f.view.mirrors = now
	clear(f.view.newest)
	var unknown []journal.Mirror
	for id, m := range now {
		f.view.newest[id.Part] = max(f.view.newest[id.Part], id.Generation)
		if id.Generation > 1 && f.view.openings[id] == nil {
			unknown = append(unknown, m.Mirror)
		}
	}
	f.mu.Unlock()
	for _, m := range unknown {
		e, err := OpeningOf(attempt, f.o.Site, m)
		if err != nil {
			f.failed(ctx, "opening of "+m.ID.Name(), err)
			continue
		}
		if e == nil {
			continue
		}
		f.succeeded("opening of " + m.ID.Name())
		f.mu.Lock()
		f.view.openings[m.ID] = e
		f.mu.Unlock()
	}
}

// needed returns the first sequence of a mirror that something still has to read; 0: nothing of it. Replicas need what is
// behind them. What is behind the base replays need, and the base itself; commits are read again by each.
func (f *Follower) needed(id journal.StreamID) uint64 {
	f.mu.Lock()
	at := f.base.Volumes[id.Part]
	f.mu.Unlock()
	switch {
	case id.Part == journal.Control, at.Seq == 0, id.Generation > at.Generation:
		return 1
	case id.Generation < at.Generation:
		return 0
	}
	return at.Seq + 1
}

// findHoles notes what a mirror lacks of what is needed, as it was found before where nothing changed.
func (f *Follower) findHoles(ctx context.Context, m *seen, from uint64) error {
	newest := m.Newest()
	m.checked = mark{newest.Incarnation, first(m.Mirror), newest.Last, messages(m.Mirror), from}
	f.mu.Lock()
	before, ok := f.view.mirrors[m.ID]
	f.mu.Unlock()
	if ok && before.checked == m.checked {
		m.holes = before.holes
		return nil
	}
	switch {
	case from == 0:
		return nil
	case m.ID.Part == journal.Control:
		from = max(from, first(m.Mirror)) // what was trimmed of the control stream is no hole
	}
	holes, err := f.o.Site.Holes(ctx, m.Mirror, from)
	if err != nil {
		m.checked, m.holes = before.checked, before.holes
		return err
	}
	m.holes = holes
	return nil
}

func messages(m journal.Mirror) (n uint64) {
	for _, i := range m.Incarnations {
		n += i.Messages
	}
	return n
}
