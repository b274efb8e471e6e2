package journal

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// mirrorWindow is how many messages the primary sends ahead of the DR site's flow control.
const mirrorWindow = 20000

// feedName returns the name of the durable consumer that feeds an incarnation of the mirror.
func feedName(incarnation int) string { return "dr_m" + strconv.Itoa(incarnation) }

// deliverSubject is where the primary sends a mirror's messages. It is the only subject with data on
// it that crosses the leafnode, and only from the primary to the DR site.
func deliverSubject(id StreamID, incarnation int) string {
	return fmt.Sprintf("fsmirror.%s.%s.g%d.m%d", id.Group, id.Part, id.Generation, incarnation)
}

// feed is the consumer that feeds an incarnation of the mirror.
type feed struct {
	incarnation int
	info        *jetstream.ConsumerInfo
}

// feeds returns the stream's feeds, oldest first. It looks for one after the other: consumers are listed only to
// those who may see all of them.
func (s *Site) feeds(ctx context.Context, id StreamID) (out []feed, err error) {
	for n := 1; ; n++ {
		c, err := s.js.PushConsumer(ctx, id.Name(), feedName(n))
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read consumer %s of stream %s: %w", feedName(n), id.Name(), err)
		}
		out = append(out, feed{n, c.CachedInfo()})
	}
}

// newestFeed returns the feed of the newest incarnation.
func (s *Site) newestFeed(ctx context.Context, id StreamID) (feed, error) {
	all, err := s.feeds(ctx, id)
	if err != nil {
		return feed{}, err
	}
	if len(all) == 0 {
		return feed{}, fmt.Errorf("read consumer %s of stream %s: %w", feedName(1), id.Name(), jetstream.ErrConsumerNotFound)
	}
	return all[len(all)-1], nil
}

// ensureFeed makes the first incarnation's feed, unless there is one.
func (s *Site) ensureFeed(ctx context.Context, id StreamID) error {
	feeds, err := s.feeds(ctx, id)
	if err != nil {
		return err
	}
	if len(feeds) == 0 {
		return s.makeFeed(ctx, id, 1, 1)
	}
	return sameFeed(id, feeds[len(feeds)-1])
}

func (s *Site) makeFeed(ctx context.Context, id StreamID, incarnation int, from uint64) error {
	want := jetstream.ConsumerConfig{
		Durable:        feedName(incarnation),
		DeliverSubject: deliverSubject(id, incarnation),
		DeliverPolicy:  jetstream.DeliverAllPolicy,
		AckPolicy:      jetstream.AckFlowControlPolicy,
		FlowControl:    true,
		IdleHeartbeat:  time.Second,
		MaxAckPending:  mirrorWindow,
	}
	if from > 1 {
		want.DeliverPolicy, want.OptStartSeq = jetstream.DeliverByStartSequencePolicy, from
	}
	if _, err := s.js.CreatePushConsumer(ctx, id.Name(), want); err != nil && !errors.Is(err, jetstream.ErrConsumerExists) {
		return fmt.Errorf("make consumer %s of stream %s: %w", want.Durable, id.Name(), err)
	}
	return nil
}

func sameFeed(id StreamID, f feed) error {
	is := f.info.Config
	e := &ConfigError{Name: fmt.Sprintf("consumer %s of stream %s", f.info.Name, id.Name()), Hint: "delete the consumer to have it made again"}
	e.differ("deliver_subject", is.DeliverSubject, deliverSubject(id, f.incarnation))
	e.differ("ack_policy", is.AckPolicy, jetstream.AckFlowControlPolicy)
	e.differ("flow_control", is.FlowControl, true)
	e.differ("filter_subject", is.FilterSubject, "")
	e.differ("headers_only", is.HeadersOnly, false)
	e.differ("from the start or a sequence", is.DeliverPolicy == jetstream.DeliverAllPolicy || is.DeliverPolicy == jetstream.DeliverByStartSequencePolicy, true)
	e.differ("max_ack_pending", is.MaxAckPending, mirrorWindow)
	return e.or()
}

// ended is how far ahead a feed is paused that a newer one has replaced.
const ended = 100 * 365 * 24 * time.Hour

// EnsureIncarnation makes the durable consumer that feeds incarnation n of the stream's mirror from sequence
// from on, and pauses the older ones for good: the new one delivers all that they had left. Calling it again
// changes nothing. Another n than the newest one or the one behind it, or another beginning, is a *ConfigError. Where
// the origin, at this site, no longer has message from it returns a *GapError.
func (s *Site) EnsureIncarnation(ctx context.Context, id StreamID, n int, from uint64) error {
	feeds, err := s.feeds(ctx, id)
	if err != nil {
		return err
	}
	e := &ConfigError{Name: "mirror " + id.Mirror(n), Hint: "look again for the newest incarnation, and make the next one"}
	newest := len(feeds)
	switch {
	case n < 1 || n < newest || n > newest+1:
		e.differ("newest incarnation", newest, n-1)
		return e
	case n == newest:
		e.differ("first sequence", max(feeds[n-1].info.Config.OptStartSeq, 1), from)
		if err := e.or(); err != nil {
			return err
		}
	default:
		if err := s.reaches(ctx, id, from); err != nil {
			return err
		}
		if err := s.makeFeed(ctx, id, n, from); err != nil {
			return err
		}
		// Behind the new feed's floor the writer trims nothing any more: what is there now, stays.
		if err := s.reaches(ctx, id, from); err != nil {
			return err
		}
	}
	for _, f := range feeds[:n-1] {
		if f.info.Config.PauseUntil != nil && time.Until(*f.info.Config.PauseUntil) > ended/2 {
			continue
		}
		if _, err := s.js.PauseConsumer(ctx, id.Name(), f.info.Name, time.Now().Add(ended)); err != nil {
			return fmt.Errorf("end consumer %s of stream %s: %w", f.info.Name, id.Name(), err)
		}
	}
	return nil
}

// reaches returns a *GapError where the stream doesn't have message from any more.
func (s *Site) reaches(ctx context.Context, id StreamID, from uint64) error {
	stream, err := s.js.Stream(ctx, id.Name())
	if err != nil {
		return fmt.Errorf("look for message %d of %s: %w", from, id.Name(), err)
	}
	if first := stream.CachedInfo().State.FirstSeq; first > from {
		return &GapError{Stream: id.Name(), Want: from, Got: first}
	}
	return nil
}

// PauseMirror keeps the newest incarnation of the stream's mirror from getting anything until the time; the
// zero time lets it go on. The origin, at this site, keeps meanwhile what the mirror has not got.
func (s *Site) PauseMirror(ctx context.Context, id StreamID, until time.Time) error {
	f, err := s.newestFeed(ctx, id)
	if err != nil {
		return err
	}
	if _, err := s.js.PauseConsumer(ctx, id.Name(), f.info.Name, until); err != nil {
		return fmt.Errorf("pause the mirror of %s: %w", id.Name(), err)
	}
	return nil
}

// fed returns the sequence up to which the DR site is known to have stored the stream: the
// acknowledgement floor of the newest mirror's consumer. It trails the truth, which is right for trimming.
func (s *Site) fed(ctx context.Context, id StreamID) (uint64, error) {
	f, err := s.newestFeed(ctx, id)
	if err != nil {
		return 0, err
	}
	return f.info.AckFloor.Stream, nil
}
