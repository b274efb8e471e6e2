// Package replay recovers a protection group to a point in time: a recovery point becomes new volumes, in files
// of their own, while replication goes on or after the primary is gone.
//
// It reads the mirrors at the DR site and, where their beginning was trimmed, the base beside the
// replicas; it needs neither the primary nor a running applier, and changes nothing that exists. What
// it leaves is a set of replicas whose checkpoint names the point; a run that died leaves no
// checkpoint of the point, and is never mistaken for one.
package replay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	// Restorable tells whether everything it needs is stored at the DR site. Reason tells why not.
	Restorable bool   `json:"restorable"`
	Reason     string `json:"reason,omitempty"`

	commit *events.Commit
}

// ErrNoJournal means that the DR site has no mirror of the group.
var ErrNoJournal = errors.New("the DR site has no journal of the group: is the applier set up, and did it ever reach the primary?")

// history is what the DR site holds of a group.
type history struct {
	site     *journal.Site
	group    string
	dir      string // of the group at the DR site
	mirrors  map[journal.StreamID]journal.Mirror
	holes    map[journal.StreamID][]journal.Hole
	damage   map[journal.StreamID]replica.Damaged
	openings map[journal.StreamID]*events.Epoch // how later generations begin; nil: that is not here
	base     replica.Checkpoint                 // the zero one: the history begins with blank volumes
	commits  []*events.Commit                   // oldest first
}

// errMoved means that history was trimmed while it was read.
var errMoved = errors.New("the history was trimmed meanwhile")

// errNoBeginning means that a generation's first event is not here: what it goes on from can't be told.
var errNoBeginning = errors.New("the beginning of the generation is not here")

// open reads the history of a group. dir is the group's directory at the DR site; it need not exist.
func open(ctx context.Context, site *journal.Site, group, dir string) (*history, error) {
	for {
		h, err := openOnce(ctx, site, group, dir)
		if !errors.Is(err, errMoved) {
			return h, err
		}
	}
}

func openOnce(ctx context.Context, site *journal.Site, group, dir string) (*history, error) {
	h := &history{
		site: site, group: group, dir: dir, mirrors: make(map[journal.StreamID]journal.Mirror),
		holes: make(map[journal.StreamID][]journal.Hole), damage: make(map[journal.StreamID]replica.Damaged),
		openings: make(map[journal.StreamID]*events.Epoch),
	}
	streams, err := site.Streams(ctx, group)
	if err != nil {
		return nil, err
	}
	var control []journal.Mirror
	for _, m := range journal.Mirrors(streams) {
		h.mirrors[m.ID] = m
		if h.holes[m.ID], err = site.Holes(ctx, m, first(m)); err != nil {
			return nil, err
		}
		if err := h.readOpening(ctx, m); err != nil {
			return nil, err
		}
		if m.ID.Part == journal.Control {
			control = append(control, m)
		}
	}
	if len(control) == 0 {
		return nil, fmt.Errorf("group %s: %w", group, ErrNoJournal)
	}
	base, err := replica.ReadCheckpoint(replica.BaseDir(dir))
	switch {
	case err == nil && base.Commit.Barrier > 0: // else the applier is making its first one, and nothing was trimmed yet
		h.base = base
	case err == nil:
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read base: %w", err)
	}
	known, err := replica.KnownDamage(ctx, site, group)
	if err != nil {
		return nil, err
	}
	for _, d := range known {
		h.damaged(d)
	}
	for _, leg := range replica.Chain(control, h.opening(journal.Control)) {
		commits, err := h.readCommits(ctx, leg)
		if err != nil {
			return nil, err
		}
		h.commits = append(h.commits, commits...)
	}
	return h, nil
}

// first returns the oldest sequence that is left of a mirror.
func first(m journal.Mirror) uint64 { return max(m.Incarnations[0].First, 1) }

// readOpening notes how a generation begins. One that begins with damage can't be followed; that is all.
func (h *history) readOpening(ctx context.Context, m journal.Mirror) error {
	if m.ID.Generation == 1 {
		return nil
	}
	e, err := replica.OpeningOf(ctx, h.site, m)
	if stream, seq, damaged := replica.Damage(err); damaged {
		h.damaged(replica.Damaged{Stream: stream, Seq: seq, Reason: err.Error()})
		return nil
	}
	h.openings[m.ID] = e
	return err
}

// opening tells how generations of a part begin.
func (h *history) opening(part string) replica.Opening {
	return func(generation uint32) (*events.Epoch, error) {
		if e := h.openings[journal.StreamID{Group: h.group, Part: part, Generation: generation}]; e != nil {
			return e, nil
		}
		return nil, fmt.Errorf("%w: generation %d of %s", errNoBeginning, generation, part)
	}
}

// damaged notes that nothing from a message of a mirror on can be used.
func (h *history) damaged(d replica.Damaged) {
	id, _, err := journal.ParseName(d.Stream)
	if err != nil {
		return // no stream of a group
	}
	if known, ok := h.damage[id]; !ok || d.Seq < known.Seq {
		h.damage[id] = d
	}
}

// unusable returns the first message of a leg that is missing or damaged; 0: none is.
func (h *history) unusable(id journal.StreamID, leg replica.Leg) uint64 {
	seq := uint64(0)
	for _, hole := range h.holes[id] {
		if hole.To > leg.After && hole.From <= leg.Last {
			seq = max(hole.From, leg.After+1)
			break
		}
	}
	if d, ok := h.damage[id]; ok && d.Seq > leg.After && d.Seq <= leg.Last && (seq == 0 || d.Seq < seq) {
		seq = d.Seq
	}
	return seq
}

// readCommits reads one generation of the control mirror up to where the next one goes on, or to its end, or to where
// it is damaged: what that generation has behind is not known.
func (h *history) readCommits(ctx context.Context, leg replica.Leg) (out []*events.Commit, err error) {
	id := journal.StreamID{Group: h.group, Part: journal.Control, Generation: leg.Generation}
	leg.Last = min(leg.Last, h.mirrors[id].End())
	if seq := h.unusable(id, leg); seq > 0 {
		leg.Last = seq - 1
	}
	if leg.After >= leg.Last {
		return nil, nil
	}
	r, err := h.site.OpenMirror(ctx, id, leg.After+1)
	if err != nil {
		return nil, h.moved(ctx, h.mirrors[id], err)
	}
	defer r.Close()
	for seq := leg.After + 1; seq <= leg.Last; seq++ {
		m, err := r.Next(ctx)
		if err != nil {
			err = h.moved(ctx, h.mirrors[id], err)
			if _, _, damaged := replica.Damage(err); damaged {
				return out, nil
			}
			return nil, err
		}
		if c, ok := m.Event.(*events.Commit); ok {
			out = append(out, c)
		}
	}
	return out, nil
}

// moved tells a gap that the applier made by trimming from one that should not be.
func (h *history) moved(ctx context.Context, control journal.Mirror, err error) error {
	var gap *journal.GapError
	if !errors.As(err, &gap) {
		return err
	}
	if now, nowErr := h.site.Mirror(ctx, control.ID); nowErr == nil && first(now) > first(control) {
		return errMoved
	}
	return err
}

// lacks tells why c can't be restored from a set of replicas and the journal; "" if it can.
func (h *history) lacks(from *replica.Checkpoint, c *events.Commit) string {
	if c.Token.Barrier < from.Floor() {
		return fmt.Sprintf("trimmed: the base is at barrier %d", from.Floor())
	}
	if c.Objects != nil && from.Commit.Barrier == c.Token.Barrier && from.Volumes[journal.Objects].State != replica.Member {
		return "trimmed: the base at it was made by a Farshore that kept no objects"
	}
	for _, v := range replica.Parts(c) {
		if reason := h.lacksPart(from.Volumes[v.Volume], v); reason != "" {
			return reason
		}
	}
	return ""
}

// part writes a part of a point for people.
func part(name string) string {
	if name == journal.Objects {
		return "the objects"
	}
	return "volume " + name
}

func (h *history) lacksPart(at replica.Volume, v events.VectorEntry) string {
	legs, _, err := replica.Path(at, v.Position, h.opening(v.Volume))
	switch {
	case errors.Is(err, errNoBeginning):
		return fmt.Sprintf("trimmed: %s: %v", part(v.Volume), err)
	case err != nil:
		return fmt.Sprintf("%s: %v", part(v.Volume), err)
	}
	for _, leg := range legs {
		id := journal.StreamID{Group: h.group, Part: v.Volume, Generation: leg.Generation}
		m, ok := h.mirrors[id]
		switch end := uint64(0); {
		case !ok:
			return fmt.Sprintf("%s: there is no mirror of generation %d here", part(v.Volume), leg.Generation)
		case first(m) > leg.After+1:
			return fmt.Sprintf("trimmed: %s: nothing before %d is left", part(v.Volume), first(m))
		case h.replaced(id, leg.Last, &end):
			return fmt.Sprintf("lost: %s went on from %d of generation %d, and %d is not here", part(v.Volume), end, leg.Generation, leg.Last)
		case m.End() < leg.Last:
			return fmt.Sprintf("%s: %d of %d arrived", part(v.Volume), m.End(), leg.Last)
		}
		if seq := h.unusable(id, leg); seq > 0 {
			i, _ := m.At(seq)
			return fmt.Sprintf("damaged: message %d of %s", seq, i.Name)
		}
	}
	return ""
}

// replaced tells whether a sequence that is not here never will be: another generation went on from before it, from end.
func (h *history) replaced(id journal.StreamID, seq uint64, end *uint64) bool {
	if h.mirrors[id].Last() >= seq {
		return false
	}
	for other, e := range h.openings {
		if other.Part == id.Part && e != nil && e.Base != nil && e.Base.Generation == id.Generation && e.Base.Seq < seq {
			*end = e.Base.Seq
			return true
		}
	}
	return false
}

func (h *history) points() []Point {
	out := make([]Point, 0, len(h.commits))
	for _, c := range h.commits {
		p := Point{Barrier: c.Token.Barrier, Time: c.Time, Kind: replica.KindName(c.Type), Label: c.Label, Volumes: []string{}, commit: c}
		p.Objects, p.Revision = c.Objects != nil, c.Revision
		for _, v := range c.Vector {
			p.Volumes = append(p.Volumes, v.Volume)
		}
		slices.Sort(p.Volumes)
		p.Reason = h.lacks(&h.base, c)
		p.Restorable = p.Reason == ""
		out = append(out, p)
	}
	return out
}

// Points returns the group's commits, oldest first. dir is the group's directory at the DR site. Of the newest
// sized points, and of all labelled ones, the size is determined, which reads the journal between them.
func Points(ctx context.Context, site *journal.Site, group, dir string, sized int) ([]Point, error) {
	h, err := open(ctx, site, group, dir)
	if err != nil {
		return nil, err
	}
	points := h.points()
	for i := range points {
		if points[i].Restorable && (i >= len(points)-sized || points[i].Label != "") {
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
