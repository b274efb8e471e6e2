package replica

import (
	"context"
	"errors"
	"fmt"
	"math"
	"syscall"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

// follow advances the set from commit to commit.
func (f *Follower) follow(ctx context.Context) error {
	pause := pollFastest
	f.turn.Lock()
	f.reached(ctx)
	f.turn.Unlock()
	for ctx.Err() == nil {
		f.look(ctx)
		c, err := f.advance(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case c == nil:
			f.idle(ctx, pause)
			pause = min(2*pause, pollSlowest)
			continue
		case err == nil:
			f.advanced(ctx, c)
		default:
			f.failed(ctx, "apply", err)
			if _, _, damaged := Damage(err); !damaged {
				sleep(ctx, storageRetry)
			}
		}
		pause = pollFastest
	}
	return nil
}

// advance brings the set to the commit that is next; nil: there is none.
func (f *Follower) advance(ctx context.Context) (*events.Commit, error) {
	f.turn.Lock()
	defer f.turn.Unlock()
	c := f.pick()
	if c == nil {
		f.reached(ctx) // again: what is wanted changes
		return nil, nil
	}
	if err := f.set.Advance(ctx, f.mirrors, c); err != nil {
		return c, err
	}
	f.reached(ctx)
	return c, nil
}

func (f *Follower) advanced(ctx context.Context, c *events.Commit) {
	f.timeline.applied(c.Token.Barrier)
	f.metrics.appliedCommits.Add(ctx, 1, f.metrics.of(""))
	for _, e := range Parts(c) {
		f.heal(f.id(e), e.Position.Seq)
	}
	f.mu.Lock()
	f.single = false
	f.mu.Unlock()
	f.succeeded("apply")
	if c.Objects != nil {
		f.tellObjects()
	}
	f.log.Debug("advanced", "barrier", c.Token.Barrier, "time", c.Time)
}

// idle waits for the mirrors to grow, or, where no commit waits for them, for the next one.
func (f *Follower) idle(ctx context.Context, pause time.Duration) {
	if len(f.timeline.waiting()) == 0 {
		pause = statusEvery
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-f.timeline.arrived:
	}
}

func (f *Follower) id(e events.VectorEntry) journal.StreamID {
	return journal.StreamID{Group: f.group, Part: e.Volume, Generation: e.Position.Generation}
}

// pick chooses the commit to advance to: the farthest that is wholly here, within what catching up may
// pass over at once, and the next one where there is little room.
func (f *Follower) pick() *events.Commit {
	cp := f.set.Checkpoint()
	f.mu.Lock()
	defer f.mu.Unlock()
	overDamage := !time.Now().Before(f.retryAt)
	best := f.candidate(&cp, overDamage)
	if best != nil && overDamage && !f.retryAt.IsZero() {
		// One attempt beyond known damage; the next one has to wait again.
		f.retryAt = time.Now().Add(f.o.DamageRetry)
	}
	return best
}

// candidate is pick without consequences; f.mu is held.
func (f *Follower) candidate(cp *Checkpoint, overDamage bool) *events.Commit {
	var best *events.Commit
	for _, c := range f.timeline.waiting() {
		if c.Token.Barrier < cp.Floor() || c.Token.Barrier <= cp.Commit.Barrier {
			continue
		}
		bytes, ok := f.reach(cp, c, overDamage)
		if !ok {
			continue
		}
		if best != nil && (f.single || bytes > catchUp) {
			break
		}
		best = c
		if f.wanted(c) {
			break
		}
	}
	return best
}

// reach tells whether the mirrors hold everything between a checkpoint and a commit, and about how many bytes
// that is. Damage that is known counts as not being there, unless it's time to look at it again. A commit that a
// replica can't get to, since its history went on from somewhere else, is passed over.
func (f *Follower) reach(cp *Checkpoint, c *events.Commit, overDamage bool) (bytes float64, ok bool) {
	for _, e := range Parts(c) {
		at := cp.Volumes[e.Volume]
		if f.heldBack(e) || f.view.branched(f.group, e.Volume, e.Position) {
			return 0, false
		}
		legs, anew, err := Path(at, e.Position, f.view.opening(f.group, e.Volume))
		if err != nil {
			return 0, false
		}
		if (anew || at.Seq == 0) && len(legs) > 0 && f.outlived(e.Volume, legs[0].Generation) {
			return 0, false
		}
		for _, leg := range legs {
			id := journal.StreamID{Group: f.group, Part: e.Volume, Generation: leg.Generation}
			m, known := f.view.mirrors[id]
			if !known || !m.here(leg.Last) || f.blocked(id, &m, leg, overDamage) {
				return 0, false
			}
			if n := messages(m.Mirror); n > 0 {
				bytes += float64(m.Bytes()) / float64(n) * float64(leg.Last-leg.After)
			}
		}
	}
	return bytes, true
}

// outlived tells whether a volume's generation is of another identity than the document's, which a newer
// generation has: a replica is not begun with what another volume took the place of.
func (f *Follower) outlived(name string, generation uint32) bool {
	id := journal.StreamID{Group: f.group, Part: name, Generation: generation}
	newest, _ := f.view.part(id)
	v, listed := f.document.Volume(name)
	if !listed || newest.ID.Generation <= generation {
		return false
	}
	m := f.view.mirrors[id]
	return m.ID == id && m.Newest().UID != v.UID && newest.Newest().UID == v.UID
}

// blocked tells whether something of a leg is known to be missing or unusable.
func (f *Follower) blocked(id journal.StreamID, m *seen, leg Leg, overDamage bool) bool {
	if m.missing(leg.After, leg.Last) > 0 {
		return true
	}
	d, ok := f.damage[id]
	return ok && !overDamage && d.Seq > leg.After && d.Seq <= leg.Last
}

// newestPoint returns the newest commit that can be recovered: the replicas' own, or a later one whose
// interval is here.
func (f *Follower) newestPoint(cp *Checkpoint) *Commit {
	f.mu.Lock()
	defer f.mu.Unlock()
	waiting := f.timeline.waiting()
	for i := len(waiting) - 1; i >= 0; i-- {
		if waiting[i].Token.Barrier <= cp.Commit.Barrier {
			break
		}
		if _, ok := f.reach(cp, waiting[i], false); ok {
			c := CommitOf(waiting[i])
			return &c
		}
	}
	if cp.Commit.Barrier == 0 {
		return nil
	}
	return &cp.Commit // held by the replicas, or, while they are between two, by base and journal
}

// failed sorts what stopped a part of the work: damage is kept until it heals, everything else until
// the next success.
func (f *Follower) failed(ctx context.Context, source string, err error) {
	if stream, seq, ok := Damage(err); ok {
		f.mu.Lock()
		f.retryAt = time.Now().Add(f.o.DamageRetry)
		f.mu.Unlock()
		f.setDamage(ctx, Damaged{Stream: stream, Seq: seq, Reason: err.Error()})
		if id, _, parseErr := journal.ParseName(stream); parseErr == nil && unmendable(err) {
			f.noteLoss(id, err.Error(), lossSeen-1) // seen twice
		}
		f.trouble(group.ConditionStorage, source, "")
		return
	}
	kind, hint := group.ConditionConnected, ""
	switch {
	case noRoom(err):
		kind, hint = group.ConditionStorage, "; make room: it goes on by itself"
		f.mu.Lock()
		f.single = true
		f.mu.Unlock()
	case errors.Is(err, ErrForeign), errors.Is(err, ErrRewind):
		kind = group.ConditionComplete
	case isStorage(err):
		kind = group.ConditionStorage
	}
	f.trouble(kind, source, err.Error()+hint)
}

func isStorage(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno)
}

// succeeded takes back what failed told of a source.
func (f *Follower) succeeded(source string) {
	for _, kind := range []string{group.ConditionConnected, group.ConditionStorage, group.ConditionComplete} {
		f.trouble(kind, source, "")
	}
}

func (f *Follower) setDamage(ctx context.Context, d Damaged) {
	id, _, err := journal.ParseName(d.Stream)
	if err != nil {
		f.log.Error("damage in a stream of an odd name", "stream", d.Stream, "reason", d.Reason)
		return
	}
	f.mu.Lock()
	known, ok := f.damage[id]
	if !ok || d.Seq <= known.Seq {
		f.damage[id] = d
	}
	f.mu.Unlock()
	f.trouble(group.ConditionComplete, damageOf(id),
		fmt.Sprintf("message %d of stream %s can't be used: %s; the replicas stay before it", d.Seq, d.Stream, d.Reason))
	f.publishDamage(ctx)
}

func damageOf(id journal.StreamID) string { return "damage of " + id.Name() }

// heal forgets damage that was read over, and that of generations which are not read any more.
func (f *Follower) heal(read journal.StreamID, upTo uint64) {
	var healed []journal.StreamID
	f.mu.Lock()
	for id, d := range f.damage {
		if id == read && d.Seq <= upTo {
			delete(f.lost, id)
		}
		if id == read && d.Seq <= upTo || id.Part == read.Part && id.Generation < read.Generation {
			delete(f.damage, id)
			healed = append(healed, id)
		}
	}
	f.mu.Unlock()
	for _, id := range healed {
		f.trouble(group.ConditionComplete, damageOf(id), "")
		f.publishDamage(context.Background())
	}
}

func (f *Follower) publishDamage(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	f.mu.Lock()
	var list []Damaged
	for _, d := range f.damage {
		list = append(list, d)
	}
	f.mu.Unlock()
	kv, err := f.o.Site.KV(ctx, group.StatusBucket, 0)
	if err == nil {
		err = publishDamage(ctx, kv, f.group, list)
	}
	if err != nil {
		f.log.Warn("known damage was not published", "error", err)
	}
}

// recallDamage begins with what an earlier process found: it is looked at again at once.
func (f *Follower) recallDamage(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	list, err := KnownDamage(ctx, f.o.Site, f.group)
	if err != nil {
		f.log.Warn("what was known to be damaged can't be read", "error", err)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range list {
		id, _, err := journal.ParseName(d.Stream)
		if err != nil {
			continue
		}
		f.damage[id] = d
		f.troubles[group.ConditionComplete+"/"+damageOf(id)] = fmt.Sprintf("message %d of stream %s can't be used: %s", d.Seq, d.Stream, d.Reason)
	}
}

// seconds returns d in seconds, at least 0 and never NaN.
func seconds(d time.Duration) *float64 {
	s := math.Max(0, d.Seconds())
	return &s
}
