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

	"github.com/nats-io/nats.go/jetstream"

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
	site    *journal.Site
	group   string
	dir     string // of the group at the DR site
	mirrors map[journal.StreamID]journal.StreamInfo
	holes   map[string]uint64   // by mirror: first sequence that is missing or known to be damaged
	base    *replica.Checkpoint // nil: the history begins with blank volumes
	commits []*events.Commit    // oldest first
}

// errMoved means that history was trimmed while it was read.
var errMoved = errors.New("the history was trimmed meanwhile")

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
	h := &history{site: site, group: group, dir: dir, mirrors: make(map[journal.StreamID]journal.StreamInfo), holes: make(map[string]uint64)}
	streams, err := site.Streams(ctx, group)
	if err != nil {
		return nil, err
	}
	var control journal.StreamInfo
	for _, s := range streams {
		if s.Incarnation == 0 {
			continue
		}
		h.mirrors[s.ID] = s
		if s.Messages > 0 && s.Messages < s.Last-s.First+1 {
			if err := h.findHole(ctx, s); err != nil {
				return nil, err
			}
		}
		if s.ID.Part == journal.Control && s.ID.Generation > control.ID.Generation {
			control = s
		}
	}
	if control.Name == "" {
		return nil, fmt.Errorf("group %s: %w", group, ErrNoJournal)
	}
	base, err := replica.ReadCheckpoint(replica.BaseDir(dir))
	switch {
	case err == nil && base.Commit.Barrier > 0: // else the applier is making its first one, and nothing was trimmed yet
		h.base = &base
	case err == nil:
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read base: %w", err)
	}
	known, err := replica.KnownDamage(ctx, site, group)
	if err != nil {
		return nil, err
	}
	for _, d := range known {
		h.damaged(d.Stream, d.Seq)
	}
	h.commits, err = h.readCommits(ctx, control)
	return h, err
}

// findHole finds the first message that a mirror lacks.
func (h *history) findHole(ctx context.Context, m journal.StreamInfo) error {
	stream, err := h.site.JetStream().Stream(ctx, m.Name)
	if err != nil {
		return fmt.Errorf("look for holes in %s: %w", m.Name, err)
	}
	info, err := stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return fmt.Errorf("look for holes in %s: %w", m.Name, err)
	}
	for _, seq := range info.State.Deleted {
		h.damaged(m.Name, seq)
	}
	return nil
}

// damaged notes that nothing from message seq of a mirror on can be used.
func (h *history) damaged(mirror string, seq uint64) {
	if first, ok := h.holes[mirror]; !ok || seq < first {
		h.holes[mirror] = seq
	}
}

// readCommits reads the control mirror up to its end, or up to where it is damaged: what lies behind that is
// not known.
func (h *history) readCommits(ctx context.Context, control journal.StreamInfo) ([]*events.Commit, error) {
	if control.Messages == 0 {
		return nil, nil
	}
	last := control.Last
	if hole, ok := h.holes[control.Name]; ok {
		last = min(last, hole-1)
	}
	r, err := h.site.OpenReader(ctx, control.Name, control.First)
	if err != nil {
		return nil, h.moved(ctx, control, err)
	}
	defer r.Close()
	var out []*events.Commit
	for seq := control.First; seq <= last; seq++ {
		m, err := r.Next(ctx)
		if err != nil {
			err = h.moved(ctx, control, err)
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
func (h *history) moved(ctx context.Context, control journal.StreamInfo, err error) error {
	var gap *journal.GapError
	if !errors.As(err, &gap) {
		return err
	}
	if tail, tailErr := h.site.Tail(ctx, control.Name); tailErr == nil && tail.First > control.First {
		return errMoved
	}
	return err
}

// lacks tells why c can't be restored; "" if it can.
func (h *history) lacks(c *events.Commit) string {
	if h.base != nil && c.Token.Barrier < h.base.Floor() {
		return fmt.Sprintf("trimmed: the base is at barrier %d", h.base.Floor())
	}
	for _, v := range c.Vector {
		id := journal.StreamID{Group: h.group, Part: v.Volume, Generation: v.Position.Generation}
		m, ok := h.mirrors[id]
		switch {
		case !ok:
			return fmt.Sprintf("volume %s has no mirror here", v.Volume)
		case m.Last < v.Position.Seq:
			return fmt.Sprintf("volume %s has arrived up to %d of %d", v.Volume, m.Last, v.Position.Seq)
		case m.First > h.start(v.Volume, v.Position.Generation):
			return fmt.Sprintf("trimmed: volume %s begins at %d", v.Volume, m.First)
		}
		if hole, ok := h.holes[m.Name]; ok && hole <= v.Position.Seq && hole >= h.start(v.Volume, v.Position.Generation) {
			return fmt.Sprintf("damaged: message %d of %s", hole, m.Name)
		}
	}
	return ""
}

// start returns the first sequence of a volume that a replay needs.
func (h *history) start(volume string, generation uint32) uint64 {
	if h.base != nil {
		if v, ok := h.base.Volumes[volume]; ok && v.Generation == generation {
			return v.Seq + 1
		}
	}
	return 1
}

func (h *history) points() []Point {
	out := make([]Point, 0, len(h.commits))
	for _, c := range h.commits {
		p := Point{Barrier: c.Token.Barrier, Time: c.Time, Kind: replica.KindName(c.Type), Label: c.Label, commit: c}
		for _, v := range c.Vector {
			p.Volumes = append(p.Volumes, v.Volume)
		}
		slices.Sort(p.Volumes)
		p.Reason = h.lacks(c)
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

// size sets the size of point i, where the journal still has its interval.
func (h *history) size(ctx context.Context, points []Point, i int) error {
	total := uint64(0)
	for _, v := range points[i].commit.Vector {
		from := uint64(1)
		if i > 0 {
			for _, before := range points[i-1].commit.Vector {
				if before.Volume == v.Volume && before.Position.Generation == v.Position.Generation {
					from = before.Position.Seq + 1
				}
			}
		}
		m := h.mirrors[journal.StreamID{Group: h.group, Part: v.Volume, Generation: v.Position.Generation}]
		if m.First > from {
			return nil
		}
		n, err := h.site.Bytes(ctx, m.Name, from, v.Position.Seq)
		if err != nil {
			return err
		}
		total += n
	}
	points[i].Bytes = &total
	return nil
}
