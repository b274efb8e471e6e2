// Package replay recovers a protection group to a point in time: a recovery point becomes new volumes, in files
// of their own, while replication goes on or after the primary is gone.
//
// It reads the mirrors at the DR site and, where their beginning was trimmed, the base beside the
// replicas, or an archived point; of the two, journal and archive, either does where the other is gone. It needs neither the primary
// nor a running applier, and changes nothing that exists. What it leaves is a set of replicas whose checkpoint names the point; a run
// that died leaves a marker from which the same run goes on, and is never mistaken for one that came to its end.
package replay

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
)

// Point is one commit of a group, as the DR site knows it.
type Point struct {
	Barrier uint64    `json:"barrier"`
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind"` // crash, app or labeled
	Label   string    `json:"label,omitempty"`
	Volumes []string  `json:"volumes"`
	// Objects tells that the point has Kubernetes objects; Revision is what their capturer had proven of the API server's
	// resourceVersion, if it is known.
	Objects  bool   `json:"objects"`
	Revision string `json:"revision,omitempty"`
	// Bytes is how much the journal holds between the point before and this one; null where that
	// was not asked for or is no longer there.
	Bytes *uint64 `json:"bytes"`
	// Archived tells that the archive has it: it can be restored without the journal.
	Archived bool `json:"archived"`
	// Restorable tells whether everything it needs is stored at the DR site, or in the archive. Reason tells why not.
	Restorable bool   `json:"restorable"`
	Reason     string `json:"reason,omitempty"`

	commit *events.Commit // nil: the journal doesn't have it
	cause  error          // behind Reason, where there is one
}

// points returns the journal's points and the archive's, oldest first; one that both have is one.
func (h *history) points() []Point {
	kept := make(map[uint64]*archived)
	for _, a := range h.archived {
		kept[a.point.Barrier] = a
	}
	out := make([]Point, 0, len(h.commits)+len(h.archived))
	for _, c := range h.commits {
		p := Point{Barrier: c.Token.Barrier, Time: c.Time, Kind: replica.KindName(c.Type), Label: c.Label, Volumes: []string{}, commit: c}
		p.Objects, p.Revision = c.Objects != nil, c.Revision
		for _, v := range c.Vector {
			p.Volumes = append(p.Volumes, v.Volume)
		}
		slices.Sort(p.Volumes)
		if a := kept[p.Barrier]; a != nil && a.is(&p) {
			p.Archived = true
			delete(kept, p.Barrier)
		}
		p.Reason, p.cause = h.reason(c)
		p.Restorable = p.Reason == ""
		out = append(out, p)
	}
	for _, a := range kept {
		out = append(out, a.asPoint())
	}
	slices.SortStableFunc(out, func(a, b Point) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Barrier, b.Barrier)) })
	return out
}

// reason tells why a commit can't be restored from anything; "" if it can.
func (h *history) reason(c *events.Commit) (string, error) {
	why := h.lacks(&h.base, c)
	if why == "" {
		return "", nil
	}
	from, spoiled := h.lead(c)
	switch {
	case from != nil:
		return "", nil
	case spoiled != nil:
		return spoiled.Error(), spoiled
	}
	return why, nil
}

// Points returns the group's recovery points, oldest first: those of the journal and those of the archive. Of o it takes
// Site, Group, Dir and Archive. Of the newest sized points, and of all labelled ones, the size is determined, which reads
// the journal between them.
func Points(ctx context.Context, o Options, sized int) ([]Point, error) {
	h, err := open(ctx, &o)
	if err != nil {
		return nil, err
	}
	if h.unread != nil {
		o.notice("%v", h.unread)
	}
	points := h.points()
	for i := range points {
		if points[i].Restorable && points[i].commit != nil && (i >= len(points)-sized || points[i].Label != "") {
			if err := h.size(ctx, points, i); err != nil {
				return nil, err
			}
		}
	}
	return points, nil
}

// size sets the size of point i, where the journal still has its interval: from the nearest point before it that
// the history went on from.
func (h *history) size(ctx context.Context, points []Point, i int) error {
	legs, ok := map[journal.StreamID][]replica.Leg(nil), false
	for j := i - 1; j >= -1 && !ok; j-- {
		var from []events.VectorEntry
		if j >= 0 && points[j].commit == nil {
			continue
		}
		if j >= 0 {
			from = replica.Parts(points[j].commit)
		}
		legs, ok = h.between(from, replica.Parts(points[i].commit))
	}
	if !ok {
		return nil
	}
	total := uint64(0)
	for id, list := range legs {
		m := h.mirrors[id]
		for _, leg := range list {
			if len(m.Incarnations) == 0 || first(m) > leg.After+1 {
				return nil
			}
			n, err := h.site.MirrorBytes(ctx, m, leg.After+1, leg.Last)
			if err != nil {
				return err
			}
			total += n
		}
	}
	points[i].Bytes = &total
	return nil
}

// between returns what leads from one vector to another, by stream; ok is false where nothing does.
func (h *history) between(from, to []events.VectorEntry) (out map[journal.StreamID][]replica.Leg, ok bool) {
	out = make(map[journal.StreamID][]replica.Leg)
	for _, v := range to {
		var at replica.Volume
		for _, before := range from {
			if before.Volume == v.Volume {
				at.Generation, at.Seq = before.Position.Generation, before.Position.Seq
			}
		}
		legs, _, err := replica.Path(at, v.Position, h.opening(v.Volume))
		if err != nil {
			return nil, false
		}
		for _, leg := range legs {
			id := journal.StreamID{Group: h.group, Part: v.Volume, Generation: leg.Generation}
			out[id] = append(out[id], leg)
		}
	}
	return out, true
}
