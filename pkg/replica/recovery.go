package replica

import (
	"context"
	"fmt"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

// turnPatience is how long a question waits for a commit that is being applied.
const turnPatience = 5 * time.Second

// drainPatience is how long a volume's history waits for those of the others: a point that they are part of
// is given up rather than that the volume is not protected.
const drainPatience = 2 * time.Minute

// stand is where a volume's replica was told to stand.
//
// Its capturer begins a new generation there, and the replica has to be there still when that arrives, which may be
// after the link was cut for hours. The follower goes on from commit to commit meanwhile. A volume moves only with a
// commit that names it, and such a commit names either
//   - a mark that was stored before the answer, and whose commit came in late. Its sequence is at most end, where the
//     newest generation ended when the answer was given. It is held back; replay can still go there.
//   - a mark that was stored later. Then somebody went on with that generation: the asker changed its mind, as the
//     one writer of that stream. The answer is void and the commit is applied.
//   - one of a newer generation, which leads through the place told.
//
// Once the new generation is here, what lies beside the way to it is passed over (view.branched). An applier that
// restarts in between forgets what it told. If it moves on then, the new generation is refused, since it doesn't begin where
// the replica stands, and another one is asked for: time is lost, never data.
type stand struct {
	base   events.Base
	newest uint32 // generation that was the newest then
	end    uint64 // of it
}

// heldBack tells whether an entry of a commit's vector leads a replica away from where it was told to stand; f.mu is held.
func (f *Follower) heldBack(e events.VectorEntry) bool {
	s, ok := f.stands[e.Volume]
	p := e.Position
	return ok && p.Generation == s.newest && p.Seq <= s.end && (p.Generation != s.base.Generation || p.Seq > s.base.Seq)
}

// serveRecovery answers what the primary asks.
func (f *Follower) serveRecovery(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := repair.ServeRecovery(ctx, f.o.Site.Conn(), f.group, recovery{f}); err != nil {
			f.log.Warn("the primary's questions are not answered, trying again", "error", err)
			sleep(ctx, storageRetry)
		}
	}
	return nil
}

// recovery answers for a Follower.
type recovery struct{ f *Follower }

var _ repair.Recovery = recovery{}

// Found implements repair.Recovery.
func (r recovery) Found(ctx context.Context, part, uid string) (repair.Foundation, error) {
	f := r.f
	for deadline := time.Now().Add(turnPatience); !f.turn.TryLock(); {
		if time.Now().After(deadline) || !sleep(ctx, lockPoll) {
			return repair.Foundation{}, fmt.Errorf("%w: a commit is being applied", repair.ErrBusy)
		}
	}
	defer f.turn.Unlock()
	newest, end, err := f.drained(ctx, part)
	if err != nil {
		return repair.Foundation{}, fmt.Errorf("drain the history of %s: %w", part, err)
	}
	cp := f.set.Checkpoint()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.asked, part)
	at := cp.Volumes[part]
	found := repair.Foundation{
		Newest:  max(newest, at.Generation),
		Barrier: max(cp.Commit.Barrier, cp.Floor(), f.timeline.newest(), f.marked),
	}
	switch {
	case part == journal.Control:
		most := f.timeline.most()
		found.Epoch, found.Roster, found.Time = most.epoch, most.roster, most.time
		if read := f.timeline.position(); read.Seq > 0 {
			found.Base = &events.Base{Generation: read.Generation, Seq: read.Seq, Barrier: found.Barrier}
		}
	case cp.Applying != nil:
		return repair.Foundation{}, fmt.Errorf("%w: barrier %d is half applied", repair.ErrBusy, cp.Applying.Barrier)
	case (at.State == Member || at.State == Left) && at.UID == uid && at.Barrier > 0:
		found.Base = &events.Base{Generation: at.Generation, Seq: at.Seq, Barrier: at.Barrier}
		found.Size = at.Size
		f.stands[part] = stand{*found.Base, newest, end}
	}
	f.log.Info("told where a history can go on", "part", part, "base", found.Base, "newest", found.Newest, "barrier", found.Barrier)
	return found, nil
}

// drained tells whether everything that the primary has is here and applied as far as it can be, or says what is not:
// repair.ErrBusy. It returns the newest generation of the part, and where that ends. f.turn is held.
func (f *Follower) drained(ctx context.Context, part string) (generation uint32, end uint64, err error) {
	origins, err := f.o.Site.PeerStreams(ctx, f.group)
	if err != nil {
		return 0, 0, fmt.Errorf("%w: the primary can't be asked where its streams end: %w", repair.ErrBusy, err)
	}
	f.look(ctx)
	patient := f.patient(part)
	newest := make(map[string]journal.StreamInfo)
	for _, o := range origins {
		if o.ID.Generation >= newest[o.ID.Part].ID.Generation {
			newest[o.ID.Part] = o
		}
	}
	cp := f.set.Checkpoint()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range newest {
		if o.Last == 0 || o.ID.Part != part && o.ID.Part != journal.Control && !patient {
			continue
		}
		if m, ok := f.view.mirrors[o.ID]; !ok || !m.here(o.Last) {
			return 0, 0, fmt.Errorf("%w: %s is not here up to %d yet", repair.ErrBusy, o.ID.Name(), o.Last)
		}
	}
	if err := f.readOut(); err != nil {
		return 0, 0, err
	}
	if c := f.candidate(&cp, false); c != nil {
		return 0, 0, fmt.Errorf("%w: barrier %d is to be applied", repair.ErrBusy, c.Token.Barrier)
	}
	generation = max(f.view.newest[part], newest[part].ID.Generation)
	if o := newest[part]; o.ID.Generation == generation {
		end = o.Last
	}
	if m, ok := f.view.mirrors[journal.StreamID{Group: f.group, Part: part, Generation: generation}]; ok {
		end = max(end, m.Last())
	}
	return generation, end, nil
}

// asking is since when, and when last, it was asked where a part's history can go on.
type asking struct{ since, last time.Time }

// patient tells whether a part's history should wait for the others'; f.mu is not held.
func (f *Follower) patient(part string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	a, ok := f.asked[part]
	if !ok || now.Sub(a.last) > drainPatience {
		a.since = now
	}
	a.last = now
	f.asked[part] = a
	return now.Sub(a.since) < drainPatience
}

// readOut tells whether the commits that are here were read, as far as they can be; f.mu is held.
func (f *Follower) readOut() error {
	control, ok := f.view.part(journal.StreamID{Group: f.group, Part: journal.Control})
	if !ok || control.Last() == 0 {
		return nil
	}
	read := f.timeline.position()
	next := read.Seq + 1
	switch {
	case read.Generation == control.ID.Generation && read.Seq >= control.End(),
		read.Generation == control.ID.Generation && control.missing(read.Seq, next) > 0,
		f.damage[journal.StreamID{Group: f.group, Part: journal.Control, Generation: read.Generation}].Seq == next:
		return nil
	}
	return fmt.Errorf("%w: the control stream was read up to %d of generation %d, %d of generation %d is here",
		repair.ErrBusy, read.Seq, read.Generation, control.End(), control.ID.Generation)
}

// Hashes implements repair.Recovery.
func (r recovery) Hashes(ctx context.Context, volume string, base events.Base, off, length int64) ([][32]byte, error) {
	return r.f.set.Hashes(ctx, volume, base, off, length)
}

// Stored implements repair.Recovery. It looks now: what was seen a moment ago may be less, and a history that ends below
// what is stored here would pass for whole. What the replica holds counts, too: the DR site's servers may have lost power.
func (r recovery) Stored(ctx context.Context, part string, generation uint32) (uint64, error) {
	streams, err := r.f.o.Site.Streams(ctx, r.f.group)
	if err != nil {
		return 0, err
	}
	stored := uint64(0)
	for _, m := range journal.Mirrors(streams) {
		if m.ID.Part == part && m.ID.Generation == generation {
			stored = m.Last()
		}
	}
	if at := r.f.set.Checkpoint().Volumes[part]; at.Generation == generation {
		stored = max(stored, at.Seq)
	}
	return stored, nil
}
