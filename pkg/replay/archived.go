package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
)

// archived is a point of the archive.
type archived struct {
	point archive.Point
	set   replica.Checkpoint // of what is restored; it names no more parts than the point has

	apart   bool  // the journal's history is another one: it goes on from none of this
	spoiled error // what was found damaged when it was restored
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
		one := &archived{point: p}
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
func decodeSet(group string, p *archive.Point) (cp replica.Checkpoint, err error) {
	if err := json.Unmarshal(p.Set, &cp); err != nil {
		return cp, fmt.Errorf("its checkpoint can't be read: %w", err)
	}
	if cp.Group != group || cp.Commit.Barrier != p.Barrier || !cp.Commit.Time.Equal(p.Time) || !cp.Whole() {
		return cp, fmt.Errorf("its checkpoint is of group %q and barrier %d", cp.Group, cp.Commit.Barrier)
	}
	for name, v := range cp.Volumes {
		want := v.Size
		if name == journal.Objects {
			want = v.Log.Length
		}
		switch part := p.Part(name); {
		case part == nil && v.State == replica.Member && v.Seq > 0 && want > 0:
			return cp, fmt.Errorf("%s is not in it", partName(name))
		case part == nil:
			delete(cp.Volumes, name) // of no commit; what comes later begins it anew
		case part.Size != want:
			return cp, fmt.Errorf("%s has %d bytes, its checkpoint says %d", partName(name), part.Size, want)
		}
	}
	return cp, nil
}

// continues tells whether the journal's commits are of the history that an archived point is of. Where both sites lost
// everything and began again, barriers may have been given a second time.
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

// objectsOnly leaves of a point what it has of objects; nil: it has none.
func (a *archived) objectsOnly() *archived {
	part := a.point.Part(journal.Objects)
	if part == nil || a.set.Volumes[journal.Objects].State != replica.Member {
		return nil
	}
	only := *a
	only.point.Parts = []archive.Part{*part}
	only.set = a.set.Clone()
	maps.DeleteFunc(only.set.Volumes, func(name string, _ replica.Volume) bool { return name != journal.Objects })
	return &only
}

// asPoint returns the point as the list has it where the journal doesn't know it any more.
func (a *archived) asPoint() Point {
	p := Point{
		Barrier: a.point.Barrier, Time: a.point.Time, Kind: a.point.Kind, Label: a.point.Label,
		Volumes: []string{}, Archived: true, Restorable: true,
	}
	for name, v := range a.set.Volumes {
		switch {
		case v.State != replica.Member:
		case name == journal.Objects:
			p.Objects, p.Revision = true, v.Revision
		default:
			p.Volumes = append(p.Volumes, name)
		}
	}
	slices.Sort(p.Volumes)
	if a.spoiled != nil {
		p.Restorable, p.Reason, p.cause = false, a.spoiled.Error(), a.spoiled
	}
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
