package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/barrier/clock"
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
	for _, origin := range origins {
		var config *journal.ConfigError
		switch err := f.o.Site.EnsureMirror(attempt, origin.ID, 1, 1); {
		case errors.As(err, &config):
			refused = append(refused, err)
		case errors.Is(err, journal.ErrHistoryLost):
			lost = append(lost, err)
		default:
			asked = append(asked, err)
		}
	}
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

// look sees how far the mirrors reach. A site that doesn't answer is tried again.
func (f *Follower) look(ctx context.Context) {
	attempt, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	streams, err := f.o.Site.Streams(attempt, f.group)
	if err != nil {
		f.trouble(group.ConditionConnected, "site", fmt.Sprintf("the DR site's JetStream doesn't answer: %v", err))
		return
	}
	f.trouble(group.ConditionConnected, "site", "")
	for _, s := range streams {
		if s.Incarnation == 0 {
			continue
		}
		if err := f.findHole(attempt, s); err != nil {
			f.log.Warn("looking for holes failed", "stream", s.Name, "error", err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range streams {
		if s.Incarnation > 0 && s.ID.Generation >= f.generation[s.ID.Part] {
			f.streams[s.ID.Part], f.generation[s.ID.Part] = s, s.ID.Generation
		}
	}
}

// findHole notes the messages that a mirror lacks between its first and last one. A reader that
// came to a hole at the very end would wait for ever.
func (f *Follower) findHole(ctx context.Context, s journal.StreamInfo) error {
	complete := s.Messages == 0 || s.Messages == s.Last-s.First+1
	f.mu.Lock()
	known, ok := f.holes[s.Name]
	f.mu.Unlock()
	if complete && !ok || ok && known.messages == s.Messages && known.last == s.Last {
		return nil
	}
	var missing []uint64
	if !complete {
		stream, err := f.o.Site.JetStream().Stream(ctx, s.Name)
		if err != nil {
			return err
		}
		info, err := stream.Info(ctx, jetstream.WithDeletedDetails(true))
		if err != nil {
			return err
		}
		missing = info.State.Deleted
		slices.Sort(missing)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holes[s.Name] = hole{s.Messages, s.Last, missing}
	return nil
}

// seedNew begins to seed volumes that are mirrored and in no commit yet.
func (f *Follower) seedNew(ctx context.Context) {
	volumes := f.set.Checkpoint().Volumes
	f.mu.Lock()
	defer f.mu.Unlock()
	for part, s := range f.streams {
		state := volumes[part].State
		if part == journal.Control || part == journal.Objects || f.seeding[part] || state != "" && state != Joining || s.Last == 0 {
			continue
		}
		f.seeding[part] = true
		f.seeds.Go(func() { f.seed(ctx, s.ID) })
	}
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

// readControl follows the control stream. Damage in it stops the commits behind it; it is looked at again
// from time to time.
func (f *Follower) readControl(ctx context.Context) error {
	for ctx.Err() == nil {
		f.mu.Lock()
		s, ok := f.streams[journal.Control]
		f.mu.Unlock()
		if !ok {
			sleep(ctx, pollSlowest)
			continue
		}
		err := f.readCommits(ctx, s)
		if ctx.Err() != nil {
			return nil
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

func (f *Follower) readCommits(ctx context.Context, s journal.StreamInfo) error {
	from := max(f.timeline.position(), s.First)
	r, err := f.o.Site.OpenReader(ctx, s.Name, max(from, 1))
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		m, err := r.Next(ctx)
		if err != nil {
			return err
		}
		f.timeline.take(m)
		f.heal(s.Name, m.Seq)
		f.succeeded("control stream")
	}
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
