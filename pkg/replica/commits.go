package replica

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// chainPoll is how long a reader of the control stream waits before it looks whether another generation goes on.
const chainPoll = 500 * time.Millisecond

// readControl follows the control stream from generation to generation. Damage in it stops the commits behind
// it; it is looked at again from time to time.
func (f *Follower) readControl(ctx context.Context) error {
	for ctx.Err() == nil {
		leg, ok := f.nextControl()
		if !ok {
			sleep(ctx, pollSlowest)
			continue
		}
		err := f.readCommits(ctx, leg)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			continue
		}
		f.failed(ctx, "control stream", err)
		wait := storageRetry
		if _, _, damaged := Damage(err); damaged {
			wait = f.o.DamageRetry
		}
		sleep(ctx, wait)
	}
	return nil
}

// controlChain returns what there is to read of the control stream's generations.
func (f *Follower) controlChain() []Leg {
	f.mu.Lock()
	defer f.mu.Unlock()
	var mirrors []journal.Mirror
	for id, m := range f.view.mirrors {
		if id.Part == journal.Control {
			mirrors = append(mirrors, m.Mirror)
		}
	}
	return Chain(mirrors, f.view.opening(f.group, journal.Control))
}

// nextControl returns what is to be read next of the control stream.
func (f *Follower) nextControl() (Leg, bool) {
	at := f.timeline.position()
	chain := f.controlChain()
	for i, leg := range chain {
		switch {
		case leg.Generation < at.Generation:
		case leg.Generation > at.Generation:
			if at.Generation > 0 {
				last := at.Seq
				if i > 0 && chain[i-1].Generation == at.Generation {
					last = chain[i-1].Last
				}
				f.log.Info("another generation of the control stream goes on", "generation", leg.Generation, "behind", last)
				f.timeline.enter(last, leg.Generation)
			}
			return leg, true
		case at.Seq < leg.Last && (i == len(chain)-1 || f.readable(leg, at.Seq)):
			leg.After = max(leg.After, at.Seq)
			return leg, true
		}
	}
	return Leg{}, false
}

// readable tells whether the next event of a leg of the control stream can be read. In a generation that another one
// has taken the place of, it is not waited for: the commits behind it are not known then.
func (f *Follower) readable(leg Leg, after uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := journal.StreamID{Group: f.group, Part: journal.Control, Generation: leg.Generation}
	m := f.view.mirrors[id]
	next := max(leg.After, after) + 1
	return next <= m.Last() && m.missing(next-1, next) == 0 && f.damage[id].Seq != next
}

// readCommits reads one generation of the control stream up to where another one goes on; it returns nil there.
func (f *Follower) readCommits(ctx context.Context, leg Leg) error {
	id := journal.StreamID{Group: f.group, Part: journal.Control, Generation: leg.Generation}
	r, err := f.o.Site.OpenMirror(ctx, id, leg.After+1)
	if err != nil {
		return err
	}
	defer r.Close()
	// A reader waits at the end of a stream that another generation may go on from: it is called off then, and not
	// asked with short limits, within which it would not find out that a server is back.
	reading, end := context.WithCancel(ctx)
	defer end()
	var watch sync.WaitGroup
	defer watch.Wait()
	watch.Go(func() {
		for sleep(reading, chainPoll) {
			if f.controlEnds(leg.Generation) {
				end()
			}
		}
	})
	defer end()
	for !f.controlEnds(leg.Generation) {
		m, err := r.Next(reading)
		if err != nil {
			if reading.Err() != nil && ctx.Err() == nil {
				return nil
			}
			return err
		}
		f.timeline.take(leg.Generation, m)
		f.heal(id, m.Seq)
		f.succeeded("control stream")
	}
	return nil
}

// controlEnds tells whether what there is to read of a generation was read: another one goes on. That may have been
// begun behind events that were here once and that a DR server's power cut took.
func (f *Follower) controlEnds(generation uint32) bool {
	leg, ok := f.controlLeg(generation)
	at := f.timeline.position()
	return !ok || at.Generation == generation && (at.Seq >= leg.Last || leg.Last != openEnd && !f.readable(leg, at.Seq))
}

// controlLeg returns the leg of a generation as it is known now: another generation may have ended it.
func (f *Follower) controlLeg(generation uint32) (Leg, bool) {
	for _, leg := range f.controlChain() {
		if leg.Generation == generation {
			return leg, true
		}
	}
	return Leg{}, false
}

// commitAt reads a commit again.
func (f *Follower) commitAt(ctx context.Context, at events.Position) (*events.Commit, error) {
	id := journal.StreamID{Group: f.group, Part: journal.Control, Generation: at.Generation}
	r, err := f.o.Site.OpenMirror(ctx, id, at.Seq)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	m, err := r.Next(ctx)
	if err != nil {
		return nil, err
	}
	c, ok := m.Event.(*events.Commit)
	if !ok {
		return nil, &events.MessageError{Stream: id.Name(), Seq: at.Seq, Err: errors.New("it was a commit before")}
	}
	return c, nil
}
