package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/farshore/farshore/pkg/barrier/clock"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

// discover asks the primary for the group's streams and mirrors those that are not yet. A primary that
// doesn't answer is waited for elsewhere; streams that Farshore can't mirror as they are, are an error.
func (f *Follower) discover(ctx context.Context) error {
	attempt, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	origins, err := f.o.Site.PeerStreams(attempt, f.group)
	asked, refused, lost := []error{err}, []error{}, []error{}
	var whole []journal.StreamID
	newest := make(map[string]uint32)
	for _, origin := range origins {
		newest[origin.ID.Part] = max(newest[origin.ID.Part], origin.ID.Generation)
	}
	for _, origin := range origins {
		var config *journal.ConfigError
		switch err := f.o.Site.EnsureMirror(attempt, origin.ID, 1, 1); {
		case errors.As(err, &config):
			refused = append(refused, err)
		case errors.Is(err, journal.ErrHistoryLost) && origin.ID.Generation < newest[origin.ID.Part]:
			// A newer generation goes on already.
		case errors.Is(err, journal.ErrHistoryLost):
			lost = append(lost, err)
			f.noteLoss(origin.ID, originBehind, 1)
		default:
			asked = append(asked, err)
			if err == nil {
				whole = append(whole, origin.ID)
			}
		}
	}
	f.notLost(whole)
	if err := errors.Join(refused...); err != nil {
		return err
	}
	message := ""
	if err := errors.Join(asked...); err != nil {
		message = fmt.Sprintf("the primary can't be asked for the group's streams: %v", err)
	}
	f.trouble(group.ConditionConnected, "discovery", message)
	message = ""
	if err := errors.Join(lost...); err != nil {
		message = err.Error()
	}
	f.trouble(group.ConditionComplete, "origins", message)
	f.look(ctx)
	f.followGenerations()
	return nil
}

// keepDiscovering discovers until ctx ends. What an operator changed meanwhile is shown, not fatal: what is
// mirrored goes on.
func (f *Follower) keepDiscovering(ctx context.Context) error {
	defer f.seeds.Wait()
	f.seedNew(ctx)
	for sleep(ctx, discoverEvery) {
		message := ""
		if err := f.discover(ctx); err != nil {
			message = err.Error()
		}
		f.trouble(group.ConditionConnected, "mirrors", message)
		f.seedNew(ctx)
	}
	return nil
}

// seedNew begins to seed volumes that are mirrored and in no commit yet, and those whose history began anew.
func (f *Follower) seedNew(ctx context.Context) {
	volumes := f.set.Checkpoint().Volumes
	f.mu.Lock()
	defer f.mu.Unlock()
	for part, generation := range f.view.newest {
		id := journal.StreamID{Group: f.group, Part: part, Generation: generation}
		if part == journal.Control || part == journal.Objects || f.seeding[part] || !f.seedable(id, volumes[part]) {
			continue
		}
		f.seeding[part] = true
		f.seeds.Go(func() { f.seed(ctx, id) })
	}
}

// seedable tells whether a volume is to be seeded from the newest generation of its stream; f.mu is held. What a
// replica holds gives way to a history that begins anew, but not before the last commit was applied that it has a part in.
func (f *Follower) seedable(id journal.StreamID, at Volume) bool {
	if m := f.view.mirrors[id]; m.Last() == 0 {
		return false
	}
	if at.State == "" || at.State == Joining {
		return true
	}
	to := events.Position{Generation: id.Generation, Seq: openEnd}
	if _, anew, err := Path(at, to, f.view.opening(f.group, id.Part)); err != nil || !anew {
		return false
	}
	for _, c := range f.timeline.waiting() {
		for _, e := range c.Vector {
			if e.Volume == id.Part && e.Position.Generation < id.Generation {
				if _, anew, err := Path(at, e.Position, f.view.opening(f.group, id.Part)); err == nil && !anew {
					return false
				}
			}
		}
	}
	return true
}

// seed applies a joining volume as it comes; what stops it is shown, and it is begun again later.
func (f *Follower) seed(ctx context.Context, id journal.StreamID) {
	f.log.Info("a volume joins", "volume", id.Part, "generation", id.Generation)
	err := f.set.Seed(ctx, f.mirrors, id.Part, id.Generation)
	if err != nil && ctx.Err() == nil {
		f.failed(ctx, "seed of "+id.Part, err)
		wait := storageRetry
		if _, _, damaged := Damage(err); damaged {
			wait = f.o.DamageRetry
		}
		sleep(ctx, wait)
	} else if err == nil {
		f.succeeded("seed of " + id.Part)
		f.log.Info("a volume is seeded", "volume", id.Part)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.seeding, id.Part)
}

// measureClock measures the difference between the sites' clocks, as the quickest of several answers tells.
func (f *Follower) measureClock(ctx context.Context) error {
	var samples []clock.Offset
	for ctx.Err() == nil {
		attempt, cancel := context.WithTimeout(ctx, requestTimeout)
		s, err := clock.Measure(attempt, f.o.Site.Conn(), f.group)
		cancel()
		if err == nil {
			samples = append(samples, s)
			if len(samples) > clockSamples {
				samples = samples[1:]
			}
			best := slices.MinFunc(samples, func(a, b clock.Offset) int { return int(a.RoundTrip - b.RoundTrip) })
			f.mu.Lock()
			f.offset = &best.Offset
			f.mu.Unlock()
		} else {
			f.log.Debug("the primary's clock can't be asked", "error", err)
		}
		wait := clockEvery
		if len(samples) < clockSamples {
			wait = time.Second
		}
		sleep(ctx, wait)
	}
	return nil
}
