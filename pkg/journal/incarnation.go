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

// feed is the incarnation of a mirror that the origin feeds. It is noted on the origin, where both sites see it;
// its consumer may be missing.
type feed struct {
	incarnation int
	from        uint64 // sequence it begins at
}

// feedOf reads what an origin notes. One that notes nothing feeds the first incarnation, from the beginning.
func feedOf(metadata map[string]string) feed {
	var f feed
	if _, err := fmt.Sscanf(metadata[metaFeed], "%d %d", &f.incarnation, &f.from); err != nil || f.incarnation < 1 || f.from < 1 {
		return feed{1, 1}
	}
	return f
}

func (f feed) String() string { return fmt.Sprintf("%d %d", f.incarnation, f.from) }

// ensureFeed makes the newest incarnation's feed, unless it is there.
func (s *Site) ensureFeed(ctx context.Context, id StreamID, metadata map[string]string) error {
	f := feedOf(metadata)
	c, err := s.js.PushConsumer(ctx, id.Name(), feedName(f.incarnation))
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return s.makeFeed(ctx, id, f)
	}
	if err != nil {
		return fmt.Errorf("read consumer %s of stream %s: %w", feedName(f.incarnation), id.Name(), err)
	}
	return sameFeed(id, f, c.CachedInfo())
}

func (s *Site) makeFeed(ctx context.Context, id StreamID, f feed) error {
	want := jetstream.ConsumerConfig{
		Durable:        feedName(f.incarnation),
		DeliverSubject: deliverSubject(id, f.incarnation),
		DeliverPolicy:  jetstream.DeliverAllPolicy,
		AckPolicy:      jetstream.AckFlowControlPolicy,
		FlowControl:    true,
		IdleHeartbeat:  time.Second,
		MaxAckPending:  mirrorWindow,
	}
	if f.from > 1 {
		want.DeliverPolicy, want.OptStartSeq = jetstream.DeliverByStartSequencePolicy, f.from
	}
	if _, err := s.js.CreatePushConsumer(ctx, id.Name(), want); err != nil && !errors.Is(err, jetstream.ErrConsumerExists) {
		return fmt.Errorf("make consumer %s of stream %s: %w", want.Durable, id.Name(), err)
	}
	return nil
}

func sameFeed(id StreamID, f feed, info *jetstream.ConsumerInfo) error {
	is := info.Config
	e := &ConfigError{Name: fmt.Sprintf("consumer %s of stream %s", info.Name, id.Name()), Hint: "delete the consumer to have it made again"}
	e.differ("deliver_subject", is.DeliverSubject, deliverSubject(id, f.incarnation))
	e.differ("ack_policy", is.AckPolicy, jetstream.AckFlowControlPolicy)
	e.differ("flow_control", is.FlowControl, true)
	e.differ("filter_subject", is.FilterSubject, "")
	e.differ("headers_only", is.HeadersOnly, false)
	e.differ("first sequence", max(is.OptStartSeq, 1), f.from)
	e.differ("max_ack_pending", is.MaxAckPending, mirrorWindow)
	return e.or()
}

// EnsureIncarnation makes the durable consumer that feeds incarnation n of the stream's mirror from sequence
// from on, and pauses the older ones for good: the new one delivers all that they had left. Calling it again
// changes nothing. Another n than the newest one or the one behind it, or another beginning, is a *ConfigError. Where
// the origin, at this site, no longer has message from it returns a *GapError.
func (s *Site) EnsureIncarnation(ctx context.Context, id StreamID, n int, from uint64) error {
	stream, err := s.js.Stream(ctx, id.Name())
	if err != nil {
		return fmt.Errorf("make mirror %s: %w", id.Mirror(n), err)
	}
	config := stream.CachedInfo().Config
	is, want := feedOf(config.Metadata), feed{n, from}
	e := &ConfigError{Name: "mirror " + id.Mirror(n), Hint: "look again for the newest incarnation, and make the next one"}
	switch {
	case n == is.incarnation+1 && from > 0:
		if err := reaches(stream.CachedInfo(), from); err != nil {
			return err
		}
		// Noted first: until its consumer is there nothing is trimmed, and a restart makes it.
		if config.Metadata == nil {
			config.Metadata = map[string]string{}
		}
		config.Metadata[metaFeed] = want.String()
		if stream, err = s.js.UpdateStream(ctx, config); err != nil {
			return fmt.Errorf("note mirror %s on its origin: %w", id.Mirror(n), err)
		}
	case n != is.incarnation:
		e.differ("newest incarnation", is.incarnation, n-1)
		return e
	default:
		e.differ("first sequence", is.from, from)
		if err := e.or(); err != nil {
			return err
		}
	}
	if err := s.ensureFeed(ctx, id, stream.CachedInfo().Config.Metadata); err != nil {
		return err
	}
	for old := 1; old < n; old++ {
		if err := s.endFeed(ctx, id, old); err != nil {
			return err
		}
	}
	if n == is.incarnation {
		return nil
	}
	// A trim that was under way may have been faster.
	if _, err := stream.Info(ctx); err != nil {
		return fmt.Errorf("make mirror %s: %w", id.Mirror(n), err)
	}
	return reaches(stream.CachedInfo(), from)
}

// ended is how far ahead a feed is paused that a newer one has replaced. Its mirror stays connected, gets nothing
// and asks for nothing; without its consumer it would ask for it for ever.
const ended = 100 * 365 * 24 * time.Hour

func (s *Site) endFeed(ctx context.Context, id StreamID, incarnation int) error {
	c, err := s.js.PushConsumer(ctx, id.Name(), feedName(incarnation))
	if err == nil {
		if until := c.CachedInfo().Config.PauseUntil; until != nil && time.Until(*until) > ended/2 {
			return nil
		}
		_, err = s.js.PauseConsumer(ctx, id.Name(), feedName(incarnation), time.Now().Add(ended))
	}
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("end consumer %s of stream %s: %w", feedName(incarnation), id.Name(), err)
	}
	return nil
}

// reaches returns a *GapError where the stream doesn't have message from any more.
func reaches(info *jetstream.StreamInfo, from uint64) error {
	if first := info.State.FirstSeq; first > from {
		return &GapError{Stream: info.Config.Name, Want: from, Got: first}
	}
	return nil
}

// PauseMirror keeps the newest incarnation of the stream's mirror from getting anything until the time; the
// zero time lets it go on. The origin, at this site, keeps meanwhile what the mirror has not got.
func (s *Site) PauseMirror(ctx context.Context, id StreamID, until time.Time) error {
	stream, err := s.js.Stream(ctx, id.Name())
	if err == nil {
		f := feedOf(stream.CachedInfo().Config.Metadata)
		_, err = s.js.PauseConsumer(ctx, id.Name(), feedName(f.incarnation), until)
	}
	if err != nil {
		return fmt.Errorf("pause the mirror of %s: %w", id.Name(), err)
	}
	return nil
}

// fed returns the sequence up to which the DR site is known to have stored the stream: the
// acknowledgement floor of the newest mirror's consumer. It trails the truth, which is right for trimming.
func (s *Site) fed(ctx context.Context, id StreamID) (uint64, error) {
	stream, err := s.js.Stream(ctx, id.Name())
	if err != nil {
		return 0, fmt.Errorf("read how far the DR site has stored %s: %w", id.Name(), err)
	}
	f := feedOf(stream.CachedInfo().Config.Metadata)
	c, err := s.js.PushConsumer(ctx, id.Name(), feedName(f.incarnation))
	if err != nil {
		return 0, fmt.Errorf("read how far the DR site has stored %s: %w", id.Name(), err)
	}
	return c.CachedInfo().AckFloor.Stream, nil
}
