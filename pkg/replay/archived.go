package replay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/archiver"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
)

// archived is a point of the archive.
type archived struct {
	point archive.Point
	set   replica.Checkpoint // of what is restored; it names no more parts than the point has

	apart   bool            // the journal's history is another one: it goes on from none of this
	proven  map[string]bool // parts whose mark the journal has: it is what goes on from them
	spoiled error           // what was found damaged when it was restored
}

// addArchive adds the archive's points to what the history knows. An archive that can't be read is noted: the journal may
// do without it.
func (h *history) addArchive(ctx context.Context, a *archive.Archive) {
	if a == nil {
		return
	}
	points, damaged, err := a.Points(ctx)
	if err != nil {
		h.unread = fmt.Errorf("the archive can't be read: %w", err)
		return
	}
	for _, p := range points {
		one := &archived{point: p, proven: make(map[string]bool)}
		if one.set, err = decodeSet(h.group, &p); err != nil {
			damaged = append(damaged, &archive.DamageError{Object: fmt.Sprintf("the point of barrier %d", p.Barrier), Reason: err.Error()})
			continue
		}
		one.apart = !h.continues(one)
		h.archived = append(h.archived, one)
	}
	if len(damaged) > 0 {
		texts := make([]string, 0, len(damaged))
		for _, d := range damaged {
			texts = append(texts, d.Error())
		}
		h.unread = errors.New("of the archive can't be used: " + strings.Join(texts, "; "))
	}
}

// decodeSet returns the set that restoring a point makes.
func decodeSet(group string, p *archive.Point) (replica.Checkpoint, error) {
	cp, err := archiver.Checkpoint(*p)
	if err == nil && (cp.Group != group || !cp.Commit.Time.Equal(p.Time)) {
		err = fmt.Errorf("its checkpoint is of group %q and of %s", cp.Group, cp.Commit.Time)
	}
	return cp, err
}

// prove notes of which parts of archived points the journal has the very mark. Where both sites lost everything and began again,
// barriers, sequences and epochs are given a second time, so that without the mark nothing tells that the journal goes on from a part.
func (h *history) prove(ctx context.Context) error {
	if h.site == nil {
		return nil
	}
	mirrors := replica.NewMirrors(h.site)
	defer mirrors.Close()
	for _, a := range h.archived {
		if a.apart {
			continue
		}
		for part, v := range a.set.Volumes {
			m, ok := h.mirrors[journal.StreamID{Group: h.group, Part: part, Generation: v.Generation}]
			if !ok || v.Seq == 0 || v.Seq < first(m) || v.Seq > m.End() {
				continue
			}
			proven, err := replica.Proves(ctx, mirrors, h.group, part, v, events.Position{Generation: v.Generation, Seq: v.Seq})
			if _, _, damaged := replica.Damage(err); err != nil && !damaged && !errors.Is(err, jetstream.ErrStreamNotFound) {
				return fmt.Errorf("prove that the journal goes on from the archived point of barrier %d: %w", a.point.Barrier, err)
			}
			a.proven[part] = proven && err == nil
		}
	}
	return nil
}

// foundation tells whether the journal is proven to go on to a commit from an archived point, of each part that there is something to read of.
func (h *history) foundation(a *archived, c *events.Commit) bool {
	for _, v := range replica.Parts(c) {
		at := a.set.Volumes[v.Volume]
		legs, anew, err := replica.Path(at, v.Position, h.opening(v.Volume))
		if err != nil || at.Seq > 0 && len(legs) > 0 && !anew && !a.proven[v.Volume] {
			return false
		}
	}
	return !a.apart
}

// continues tells whether the journal's commits can be of the history that an archived point is of, judging by barriers and times: a point that
// they contradict needs no other proof.
func (h *history) continues(a *archived) bool {
	i, found := slices.BinarySearchFunc(h.commits, a.point.Barrier, func(c *events.Commit, barrier uint64) int {
		switch {
		case c.Token.Barrier < barrier:
			return -1
		case c.Token.Barrier > barrier:
			return 1
		}
		return 0
	})
	switch {
	case found:
		return h.commits[i].Time.Equal(a.point.Time)
	case i > 0 && !h.commits[i-1].Time.Before(a.point.Time):
		return false
	}
	return i == len(h.commits) || h.commits[i].Time.After(a.point.Time)
}

// only returns the point without the parts that are not wanted.
func (a *archived) only(wanted func(part string) bool) *archived {
	out := *a
	out.set = a.set.Clone()
	maps.DeleteFunc(out.set.Volumes, func(name string, _ replica.Volume) bool { return !wanted(name) })
	out.point.Parts = slices.DeleteFunc(slices.Clone(a.point.Parts), func(p archive.Part) bool { return !wanted(p.Name) })
	return &out
}

// of returns what of the point is needed on the way to p.
func (a *archived) of(p *Point) *archived {
	return a.only(func(part string) bool {
		return part == journal.Objects && p.Objects || slices.Contains(p.Volumes, part)
	})
}

// asPoint returns the point as the list has it where the journal doesn't know it any more.
func (a *archived) asPoint() Point {
	p := pointOf(replica.Commit{Barrier: a.point.Barrier, Time: a.point.Time, Kind: a.point.Kind, Label: a.point.Label}, a.set.Volumes)
	p.Archived = true
	if a.spoiled != nil {
		p.Restorable, p.Reason, p.cause = false, a.spoiled.Error(), a.spoiled
	}
	return p
}

// pointOf returns the point that a whole set is at.
func pointOf(c replica.Commit, volumes map[string]replica.Volume) Point {
	p := Point{Barrier: c.Barrier, Time: c.Time, Kind: c.Kind, Label: c.Label, Volumes: []string{}, Restorable: true}
	for name, v := range volumes {
		switch {
		case v.State != replica.Member:
		case name == journal.Objects:
			p.Objects, p.Revision = true, v.Revision
		default:
			p.Volumes = append(p.Volumes, name)
		}
	}
	slices.Sort(p.Volumes)
	return p
}

// is tells whether a is the point p.
func (a *archived) is(p *Point) bool {
	return a.point.Barrier == p.Barrier && a.point.Time.Equal(p.Time)
}

// lead returns the newest archived point that leads to a commit with what the journal has; nil: none does. Without one,
// spoiled is the damage of the one that would, if there is one.
func (h *history) lead(c *events.Commit) (from *archived, spoiled error) {
	for _, a := range slices.Backward(h.archived) {
		if a.apart || a.point.Barrier > c.Token.Barrier {
			continue
		}
		why := h.lacks(&a.set, c)
		switch {
		case why == "" && !h.foundation(a, c): // an older one may be of this history
		case why == "" && a.spoiled == nil:
			return a, nil
		case why == "" && spoiled == nil:
			spoiled = a.spoiled
		case strings.HasPrefix(why, trimmed):
			return nil, spoiled // an older one needs more
		}
	}
	return nil, spoiled
}

// exactly returns the archived point that is p; nil: there is none, or it is damaged.
func (h *history) exactly(p *Point) *archived {
	for _, a := range h.archived {
		if a.is(p) && a.spoiled == nil {
			return a
		}
	}
	return nil
}

// begun returns the archived point that unfinished work came from, if it is as it was and leads to p; else nil.
func (h *history) begun(m *marker, p *Point) *archived {
	for _, a := range h.archived {
		if a.point.Barrier != m.Base || a.spoiled != nil {
			continue
		}
		if a = a.of(p); maps.EqualFunc(m.Parts, extents(&a.point), func(x, y extent) bool { return x.Root == y.Root }) && h.leads(&a.set, p) &&
			(p.commit == nil || h.foundation(a, p.commit)) {
			return a
		}
	}
	return nil
}

// restorable tells whether a point can still be recovered from anything.
func (h *history) restorable(p *Point) bool {
	for _, now := range h.points() {
		if now.Barrier == p.Barrier && now.Time.Equal(p.Time) {
			return now.Restorable
		}
	}
	return false
}

// spoil notes what an error says is damaged, in the journal or in the archive, and tells whether it says so.
func (h *history) spoil(err error) bool {
	var spoiled *spoiledError
	if errors.As(err, &spoiled) {
		for _, a := range h.archived {
			if a.point.Barrier == spoiled.point.point.Barrier && a.spoiled == nil {
				a.spoiled = spoiled
			}
		}
		return true
	}
	stream, seq, damaged := replica.Damage(err)
	if damaged {
		h.damaged(replica.Damaged{Stream: stream, Seq: seq, Reason: err.Error()})
	}
	return damaged
}
