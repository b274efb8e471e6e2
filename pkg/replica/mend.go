package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

// How often what is broken is looked at, how often a capturer is asked for the same thing at first and at last,
// and how long it may take to answer.
const (
	mendEvery   = 2 * time.Second
	askFirst    = 5 * time.Second
	askSlowest  = 5 * time.Minute
	askPatience = 10 * time.Second
)

// lossSeen is how often a loss must have been seen before a new generation is asked for: a leader that was just
// elected, and a store that is just being read, may show less than they have.
const lossSeen = 3

// originBehind marks a loss that goes away by itself where the origin turns out to reach as far as its mirror.
const originBehind = "the primary's stream ends before its mirror"

// loss is what no incarnation of a mirror can mend: a new generation has to.
type loss struct {
	reason string
	seen   int
}

// asks limits how often one thing is asked for.
type asks struct {
	next time.Time
	wait time.Duration
	try  int
}

// due tells whether it is time to ask again, and if so when the next time is.
func (a *asks) due(now time.Time, first time.Duration) bool {
	if now.Before(a.next) {
		return false
	}
	a.wait = min(max(2*a.wait, first), askSlowest)
	a.next = now.Add(a.wait)
	a.try++
	return true
}

// mend asks the capturers for what the mirrors lack and for what the replicas hold differently, until ctx ends.
func (f *Follower) mend(ctx context.Context) error {
	for sleep(ctx, f.o.MendEvery) {
		f.mendMirrors(ctx)
		f.askHeals(ctx)
	}
	return nil
}

// findBranches finds volumes whose newest generation begins elsewhere than where the replica stands, or leads there.
func (f *Follower) findBranches() {
	cp := f.set.Checkpoint()
	branched := make(map[journal.StreamID]string)
	f.mu.Lock()
	for part, newest := range f.view.newest {
		at := cp.Volumes[part]
		if at.Seq == 0 || at.Generation >= newest {
			continue
		}
		_, _, err := Path(at, events.Position{Generation: newest, Seq: openEnd}, f.view.opening(f.group, part))
		if errors.Is(err, ErrBranched) || errors.Is(err, ErrForeign) {
			branched[journal.StreamID{Group: f.group, Part: part, Generation: newest}] = err.Error()
		}
	}
	var over []string
	for part := range f.branches {
		if _, still := branched[journal.StreamID{Group: f.group, Part: part, Generation: f.view.newest[part]}]; !still {
			delete(f.branches, part)
			over = append(over, part)
		}
	}
	for id := range branched {
		f.branches[id.Part] = true
	}
	f.mu.Unlock()
	for _, part := range over {
		f.trouble(group.ConditionComplete, "branch of "+part, "")
	}
	for id, reason := range branched {
		f.trouble(group.ConditionComplete, "branch of "+id.Part, fmt.Sprintf("stream %s can't be followed: %s", id.Name(), reason))
		f.noteLoss(id, reason, 1)
	}
}

// hole is what a mirror lacks and a newer incarnation may get.
type hole struct {
	id   journal.StreamID
	from uint64
	next int  // incarnation
	held bool // the replica holds what is missing: only the base and replays need it
}

func (f *Follower) mendMirrors(ctx context.Context) {
	f.findBranches()
	holes, lost := f.broken()
	for _, h := range holes {
		f.mendHole(ctx, h)
	}
	for id, reason := range lost {
		f.renew(ctx, id, reason)
	}
}

// broken returns what is to be asked for now.
func (f *Follower) broken() (holes []hole, lost map[journal.StreamID]string) {
	cp := f.set.Checkpoint()
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	lost = make(map[journal.StreamID]string)
	for id, m := range f.view.mirrors {
		if from := f.hole(id, &m); from > 0 && f.due("hole of "+id.Name(), now) {
			holes = append(holes, hole{id, from, m.Newest().Incarnation + 1, f.held(&cp, id, from)})
		}
	}
	for id, l := range f.lost {
		switch {
		case id.Generation < f.view.newest[id.Part]:
			delete(f.lost, id) // renewed
		case l.seen >= lossSeen && f.due("loss of "+id.Name(), now):
			lost[id] = l.reason
		}
	}
	return holes, lost
}

// hole returns the first message that a mirror lacks and something needs; 0: none. What
// lies beside the way to the newest generation nobody needs. f.mu is held.
func (f *Follower) hole(id journal.StreamID, m *seen) uint64 {
	if len(m.holes) == 0 || f.view.branched(f.group, id.Part, events.Position{Generation: id.Generation, Seq: m.holes[0].From}) {
		return 0
	}
	return m.holes[0].From
}

// held tells whether a message was read already by whom it is for.
func (f *Follower) held(cp *Checkpoint, id journal.StreamID, seq uint64) bool {
	at := events.Position{Generation: cp.Volumes[id.Part].Generation, Seq: cp.Volumes[id.Part].Seq}
	if id.Part == journal.Control {
		at = f.timeline.position()
	}
	return id.Generation < at.Generation || id.Generation == at.Generation && seq <= at.Seq
}

// due tells whether to ask for something now; f.mu is held.
func (f *Follower) due(what string, now time.Time) bool {
	a := f.asks[what]
	if a == nil {
		a = new(asks)
		f.asks[what] = a
	}
	return a.due(now, f.o.AskEvery)
}

// mendHole has a new incarnation of a mirror made, from a hole on. Where the primary has trimmed what the hole needs, a
// new generation is the way on.
func (f *Follower) mendHole(ctx context.Context, h hole) {
	attempt, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	f.log.Warn("a mirror has a hole: asking for another incarnation", "mirror", h.id.Name(), "from", h.from, "incarnation", h.next)
	err := repair.CaptureOf(f.o.Site.Conn(), f.group, h.id.Part).Incarnate(attempt, h.id.Generation, h.next, h.from)
	if err == nil {
		err = f.o.Site.EnsureMirror(attempt, h.id, h.next, h.from)
	}
	source := "mending of " + h.id.Name()
	switch {
	case err == nil:
		f.metrics.mended(ctx, mendedHole, h.id.Part)
		f.log.Info("another incarnation of a mirror fills its hole", "mirror", h.id.Name(), "from", h.from, "incarnation", h.next)
		f.trouble(group.ConditionComplete, source, "")
	case errors.Is(err, repair.ErrGone) && h.held:
		f.trouble(group.ConditionComplete, source, fmt.Sprintf(
			"mirror %s lacks message %d, and the primary has it no more: points behind it can't be replayed from before it", h.id.Name(), h.from))
	case errors.Is(err, repair.ErrGone):
		f.trouble(group.ConditionComplete, source, "")
		f.noteLoss(h.id, fmt.Sprintf("the mirror lacks message %d, and the primary has it no more", h.from), lossSeen)
	default:
		f.trouble(group.ConditionComplete, source, fmt.Sprintf("the hole of mirror %s at %d is not mended yet: %v", h.id.Name(), h.from, err))
	}
}

// renew asks for a new generation.
func (f *Follower) renew(ctx context.Context, id journal.StreamID, reason string) {
	attempt, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	f.log.Warn("a history can't be followed any further: asking for a new generation", "stream", id.Name(), "reason", reason)
	err := repair.CaptureOf(f.o.Site.Conn(), f.group, id.Part).Renew(attempt, id.Generation, reason)
	message := ""
	if err != nil {
		message = fmt.Sprintf("stream %s needs a new generation (%s), which can't be asked for yet: %v", id.Name(), reason, err)
	} else {
		f.metrics.mended(ctx, mendedLoss, id.Part)
		f.log.Info("a new generation was asked for", "stream", id.Name())
	}
	f.trouble(group.ConditionComplete, "renewal of "+id.Part, message)
}

// noteLoss notes, so many times over, that a stream can't be followed and why.
func (f *Follower) noteLoss(id journal.StreamID, reason string, times int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.lost[id]
	if l == nil {
		l = new(loss)
		f.lost[id] = l
	}
	l.reason, l.seen = reason, l.seen+times
}

// notLost forgets that origins ended before their mirrors: they do not.
func (f *Follower) notLost(whole []journal.StreamID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range whole {
		if l := f.lost[id]; l != nil && l.reason == originBehind {
			delete(f.lost, id)
		}
	}
}

// unmendable tells whether what was found damaged stays so, whatever mirror it is read from, and a new
// generation helps: it is another history than the one the replica has, or it can't be read. A gap can be filled. What
// belongs to another volume, or needs a newer version, an operator has to look at.
func unmendable(err error) bool {
	var epoch *journal.EpochError
	var message *events.MessageError
	switch {
	case errors.Is(err, ErrForeign), errors.Is(err, errShrink), errors.Is(err, events.ErrNewerVersion):
		return false
	case errors.As(err, &epoch):
		return true
	}
	return errors.As(err, &message)
}

// followGenerations drops what was told of generations that are not followed any more.
func (f *Follower) followGenerations() {
	var over []string
	f.mu.Lock()
	for part, newest := range f.view.newest {
		if f.followed[part] < newest {
			if f.followed[part] > 0 {
				over = append(over, part)
			}
			f.followed[part] = newest
		}
	}
	f.mu.Unlock()
	slices.Sort(over)
	for _, part := range over {
		f.log.Info("a new generation is here", "part", part)
		f.trouble(group.ConditionComplete, "renewal of "+part, "")
	}
}
