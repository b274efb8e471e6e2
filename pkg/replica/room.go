package replica

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

// How often the room of the mirrors is looked at, and how much longer than that a paused mirror stays so by itself: an
// applier that is gone keeps nobody paused for long.
const (
	roomEvery  = 5 * time.Second
	pauseTimes = 6
)

// Parts of the limit, in percent: what trimming leaves free, since it is not done for every message, and how far beyond
// the limit the mirrors must have grown for another one to be paused beside each that is.
const (
	roomMargin = 10
	roomBeyond = 5
)

// room is how much the mirrors of the group's streams use.
type room struct {
	bytes, limit uint64
	alert        int    // percent of limit
	given        string // points that were given up; "": none
	givenAt      uint64 // limit at that time
	paused       map[string]bool
	before       map[string]uint64 // last sequence, by part, when it was looked before
	grown        map[string]uint64 // bytes since then, by part
}

// keepRoom watches what the mirrors use, and makes room as the document says, until ctx ends.
func (f *Follower) keepRoom(ctx context.Context) error {
	r := &room{paused: make(map[string]bool), before: make(map[string]uint64)}
	for sleep(ctx, f.o.RoomEvery) {
		f.look(ctx)
		f.measureRoom(r)
		f.makeRoom(ctx, r)
	}
	return nil
}

func (f *Follower) measureRoom(r *room) {
	f.mu.Lock()
	defer f.mu.Unlock()
	spec := f.document.Spec.Recovery.Journal
	r.limit, r.alert, r.bytes = uint64(spec.MaxBytes), spec.AlertAt, 0
	r.grown = make(map[string]uint64)
	ends := make(map[string]uint64)
	for id, m := range f.view.mirrors {
		r.bytes += m.Bytes()
		if id.Generation != f.view.newest[id.Part] || id.Part == journal.Control {
			continue
		}
		ends[id.Part] = m.Last()
		if n := messages(m.Mirror); n > 0 && m.Last() > r.before[id.Part] && r.before[id.Part] > 0 {
			r.grown[id.Part] = (m.Last() - r.before[id.Part]) * m.Bytes() / n
		}
	}
	r.before = ends
}

// makeRoom alerts, and does what the document says about full mirrors.
func (f *Follower) makeRoom(ctx context.Context, r *room) {
	f.metrics.room(ctx, r.bytes, r.limit)
	policy := f.spec().Journal.WhenFull
	full := r.limit > 0 && r.bytes >= r.limit
	f.full.Store(full)
	message := ""
	if r.limit > 0 && r.bytes >= r.limit/100*uint64(r.alert) {
		message = fmt.Sprintf("the mirrors use %d of %d bytes: raise spec.recovery.journal.maxBytes, or shorten the retention", r.bytes, r.limit)
	}
	f.trouble(group.ConditionJournal, "room", message)
	if full && policy == group.FullKeepReplicating {
		f.giveUpHistory(ctx, r)
	}
	if r.limit != r.givenAt || f.retentionKept() {
		r.given = ""
	}
	f.trouble(group.ConditionJournal, "history", r.given)
	if full && policy == group.FullKeepHistory {
		f.pauseNoisiest(r)
	}
	for _, part := range slices.Sorted(maps.Keys(r.paused)) {
		f.keepPaused(ctx, r, part, full && policy == group.FullKeepHistory)
	}
}

// retentionKept tells whether recovery points reach back as far as the document wants.
func (f *Follower) retentionKept() bool {
	cp := f.set.Checkpoint()
	oldest, ok := f.timeline.oldest()
	return ok && cp.Commit.Time.Sub(oldest.Time) >= time.Duration(f.spec().Retention)
}

// giveUpHistory trims the oldest history, whatever the retention says: as much as lies above the limit, and some more, at
// most up to what is applied.
func (f *Follower) giveUpHistory(ctx context.Context, r *room) {
	excess := r.bytes - r.limit + r.limit/100*roomMargin
	oldest, target, lost, ok := f.timeline.beyond(float64(excess)/float64(r.bytes), f.set.Checkpoint().Commit.Barrier)
	if !ok {
		r.givenAt, r.given = r.limit, "the mirrors are full, and nothing of them can be trimmed before more is applied"
		return
	}
	unarchived := f.unarchived(target.Barrier)
	if err := f.trimTo(ctx, target); err != nil {
		f.log.Warn("the mirrors are full and were not trimmed, trying again", "error", err)
		return
	}
	r.givenAt = r.limit
	r.given = fmt.Sprintf("the mirrors were full: recovery points before barrier %d of %s were given up%s",
		target.Barrier, target.Time.Format(time.RFC3339), unarchived)
	f.log.Warn("the mirrors are full: recovery points were given up", "points", lost, "from", oldest.Barrier, "before", target.Barrier,
		"oldest", oldest.Time, "newest", target.Time, "archive", unarchived != "")
}

// pauseNoisiest pauses the mirror that grew most; another one only where the mirrors grow on all the same.
func (f *Follower) pauseNoisiest(r *room) {
	if r.bytes < r.limit+r.limit/100*roomBeyond*uint64(len(r.paused)) {
		return
	}
	noisiest := ""
	for _, part := range slices.Sorted(maps.Keys(r.before)) {
		if !r.paused[part] && r.grown[part] > 0 && (noisiest == "" || r.grown[part] > r.grown[noisiest]) {
			noisiest = part
		}
	}
	if noisiest == "" {
		return
	}
	r.paused[noisiest] = true
	f.log.Warn("the mirrors are full: pausing the one that grows most", "part", noisiest, "bytes", r.bytes, "limit", r.limit)
}

// keepPaused renews a pause while it is wanted, and ends it.
func (f *Follower) keepPaused(ctx context.Context, r *room, part string, wanted bool) {
	attempt, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	f.mu.Lock()
	generation := f.view.newest[part]
	f.mu.Unlock()
	until := time.Time{}
	if wanted {
		until = time.Now().Add(pauseTimes * f.o.RoomEvery)
	}
	err := repair.CaptureOf(f.o.Site.Conn(), f.group, part).Pause(attempt, generation, until)
	message := fmt.Sprintf("the mirrors are full: that of %s is paused until there is room; no recovery points come in meanwhile", partName(part))
	switch {
	case err != nil && wanted:
		message = fmt.Sprintf("the mirrors are full, and that of %s can't be paused: %v", partName(part), err)
	case err != nil: // it ends by itself
		f.log.Warn("a pause was not ended and runs out", "part", part, "error", err)
	}
	if !wanted {
		message = ""
		delete(r.paused, part)
		f.log.Info("a mirror goes on: there is room", "part", part)
	}
	f.trouble(group.ConditionJournal, "pause of "+part, message)
}
