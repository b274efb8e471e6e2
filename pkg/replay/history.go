package replay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
)

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

	archived []*archived // oldest first
	unread   error       // what of the archive can't be read; nil: nothing
}

// trimmed begins the reason of a point whose history was trimmed.
const trimmed = "trimmed"

// errMoved means that history was trimmed while it was read.
var errMoved = errors.New("the history was trimmed meanwhile")

// errNoBeginning means that a generation's first event is not here: what it goes on from can't be told.
var errNoBeginning = errors.New("the beginning of the generation is not here")

// open reads the history of a group: of the journal, where there is a site, and of the archive, where there is one. With an
// archive that has points a site without a journal is as good as none; that is noticed.
func open(ctx context.Context, o *Options) (*history, error) {
	h, err := openJournal(ctx, o)
	if errors.Is(err, ErrNoJournal) && o.Archive != nil {
		h = newHistory(o)
		if h.addArchive(ctx, o.Archive); len(h.archived) > 0 {
			o.notice("%v; the archive alone is used", err)
			return h, nil
		}
		return nil, errors.Join(err, h.unread)
	}
	if err != nil {
		return nil, err
	}
	h.addArchive(ctx, o.Archive)
	if o.Site == nil && h.unread != nil && len(h.archived) == 0 {
		return nil, h.unread
	}
	return h, h.prove(ctx)
}

func newHistory(o *Options) *history {
	return &history{
		site: o.Site, group: o.Group, dir: o.Dir, mirrors: make(map[journal.StreamID]journal.Mirror),
		holes: make(map[journal.StreamID][]journal.Hole), damage: make(map[journal.StreamID]replica.Damaged),
		openings: make(map[journal.StreamID]*events.Epoch),
	}
}

func openJournal(ctx context.Context, o *Options) (*history, error) {
	for {
		h := newHistory(o)
		if o.Site == nil {
			return h, h.readBase()
		}
		if err := h.readJournal(ctx); !errors.Is(err, errMoved) {
			return h, err
		}
	}
}

// readBase reads what the base beside the replicas holds, if there is one.
func (h *history) readBase() error {
	base, err := replica.ReadCheckpoint(replica.BaseDir(h.dir))
	switch {
	case err == nil && base.Commit.Barrier > 0: // else the applier is making its first one, and nothing was trimmed yet
		h.base = base
	case err == nil || errors.Is(err, fs.ErrNotExist):
	default:
		return fmt.Errorf("read base: %w", err)
	}
	return nil
}

func (h *history) readJournal(ctx context.Context) error {
	streams, err := h.site.Streams(ctx, h.group)
	if err != nil {
		return err
	}
	var control []journal.Mirror
	for _, m := range journal.Mirrors(streams) {
		h.mirrors[m.ID] = m
		if h.holes[m.ID], err = h.site.Holes(ctx, m, first(m)); err != nil {
			return err
		}
		if err := h.readOpening(ctx, m); err != nil {
			return err
		}
		if m.ID.Part == journal.Control {
			control = append(control, m)
		}
	}
	if len(control) == 0 {
		return fmt.Errorf("group %s: %w", h.group, ErrNoJournal)
	}
	if err := h.readBase(); err != nil {
		return err
	}
	known, err := replica.KnownDamage(ctx, h.site, h.group)
	if err != nil {
		return err
	}
	for _, d := range known {
		h.damaged(d)
	}
	for _, leg := range replica.Chain(control, h.opening(journal.Control)) {
		commits, err := h.readCommits(ctx, leg)
		if err != nil {
			return err
		}
		h.commits = append(h.commits, commits...)
	}
	return nil
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
		return fmt.Sprintf(trimmed+": the base is at barrier %d", from.Floor())
	}
	if c.Objects != nil && from.Commit.Barrier == c.Token.Barrier && from.Volumes[journal.Objects].State != replica.Member {
		return trimmed + ": the base at it was made by a Farshore that kept no objects"
	}
	for _, v := range replica.Parts(c) {
		if reason := h.lacksPart(from.Volumes[v.Volume], v); reason != "" {
			return reason
		}
	}
	return ""
}

// partName writes a part of a point for people.
func partName(name string) string {
	if name == journal.Objects {
		return "the objects"
	}
	return "volume " + name
}

func (h *history) lacksPart(at replica.Volume, v events.VectorEntry) string {
	legs, _, err := replica.Path(at, v.Position, h.opening(v.Volume))
	switch {
	case errors.Is(err, errNoBeginning):
		return fmt.Sprintf(trimmed+": %s: %v", partName(v.Volume), err)
	case err != nil:
		return fmt.Sprintf("%s: %v", partName(v.Volume), err)
	}
	for _, leg := range legs {
		id := journal.StreamID{Group: h.group, Part: v.Volume, Generation: leg.Generation}
		m, ok := h.mirrors[id]
		switch end := uint64(0); {
		case !ok:
			return fmt.Sprintf("%s: there is no mirror of generation %d here", partName(v.Volume), leg.Generation)
		case first(m) > leg.After+1:
			return fmt.Sprintf(trimmed+": %s: nothing before %d is left", partName(v.Volume), first(m))
		case h.replaced(id, leg.Last, &end):
			return fmt.Sprintf("lost: %s went on from %d of generation %d, and %d is not here", partName(v.Volume), end, leg.Generation, leg.Last)
		case m.End() < leg.Last:
			return fmt.Sprintf("%s: %d of %d arrived", partName(v.Volume), m.End(), leg.Last)
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
