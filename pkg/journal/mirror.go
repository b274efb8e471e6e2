package journal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Mirror is a stream as this site, the DR site, holds it: in one incarnation or, where one had a hole, in
// several. An incarnation is read from the sequence it begins at up to where the next one begins, whatever
// else it holds.
type Mirror struct {
	ID           StreamID
	Incarnations []StreamInfo // oldest first, never empty
}

// Mirror returns how this site holds the stream; jetstream.ErrStreamNotFound where it has no mirror of it.
func (s *Site) Mirror(ctx context.Context, id StreamID) (Mirror, error) {
	all, err := s.Streams(ctx, id.Group)
	if err != nil {
		return Mirror{}, err
	}
	for _, m := range Mirrors(all) {
		if m.ID == id {
			return m, nil
		}
	}
	return Mirror{}, fmt.Errorf("look for a mirror of %s: %w", id.Name(), jetstream.ErrStreamNotFound)
}

// Mirrors puts the incarnations among streams together, one Mirror for each origin, in the order of their names.
func Mirrors(streams []StreamInfo) []Mirror {
	byID := map[StreamID][]StreamInfo{}
	for _, s := range streams {
		if s.Incarnation > 0 {
			byID[s.ID] = append(byID[s.ID], s)
		}
	}
	out := make([]Mirror, 0, len(byID))
	for id, incarnations := range byID {
		slices.SortFunc(incarnations, func(a, b StreamInfo) int { return a.Incarnation - b.Incarnation })
		out = append(out, Mirror{id, incarnations})
	}
	slices.SortFunc(out, func(a, b Mirror) int { return a.ID.compare(b.ID) })
	return out
}

// Newest returns the incarnation that the primary feeds.
func (m Mirror) Newest() StreamInfo { return m.Incarnations[len(m.Incarnations)-1] }

// At returns the incarnation that sequence seq is read from, and the last sequence that is read from it.
func (m Mirror) At(seq uint64) (i StreamInfo, until uint64) {
	until = ^uint64(0)
	for n, i := range slices.Backward(m.Incarnations) {
		if i.From <= seq || n == 0 {
			return i, until
		}
		until = min(until, i.From-1)
	}
	return StreamInfo{}, until
}

// Last returns the highest sequence that any incarnation has ever held. It may be above what can be read: a
// new incarnation has to be filled first.
func (m Mirror) Last() (last uint64) {
	for _, i := range m.Incarnations {
		last = max(last, i.Last)
	}
	return last
}

// End returns the last sequence of the newest incarnation: up to there everything is here but holes.
func (m Mirror) End() uint64 { return m.Newest().Last }

// Bytes returns what all incarnations take.
func (m Mirror) Bytes() (bytes uint64) {
	for _, i := range m.Incarnations {
		bytes += i.Bytes
	}
	return bytes
}

// EnsureMirror makes incarnation n of the mirror of the peer's stream id at this site; it begins at sequence from,
// and the primary must feed it (EnsureStream has it feed the first one, from 1; EnsureIncarnation another). Where the
// primary feeds a newer one by now, that is made instead: after this site's store was lost nothing else would
// tell. A generation that has no mirror here while a newer one has, was left, and gets none again. It needs the
// primary. Calling it again changes nothing. A mirror that differs, and sites that accept
// messages of different sizes, give a *ConfigError, an origin that ends below its mirror ErrHistoryLost.
func (s *Site) EnsureMirror(ctx context.Context, id StreamID, n int, from uint64) error {
	if err := id.check(); err != nil {
		return err
	}
	if n < 1 || from < 1 {
		return fmt.Errorf("make mirror %d of %s from %d: both count from 1", n, id.Name(), from)
	}
	// The mirror before the origin: what it holds by now, the origin must still hold then.
	all, err := s.Streams(ctx, id.Group)
	if err != nil {
		return err
	}
	m, left := Mirror{ID: id}, false
	for _, other := range Mirrors(all) {
		if other.ID == id {
			m = other
		}
		left = left || other.ID.Group == id.Group && other.ID.Part == id.Part && other.ID.Generation > id.Generation
	}
	if left && len(m.Incarnations) == 0 {
		return nil
	}
	origin, err := s.peer.Stream(ctx, id.Name())
	if err != nil {
		return fmt.Errorf("ask the primary for %s: %w", id.Name(), err)
	}
	if err := s.samePayload(streamInfo(origin.CachedInfo(), id, 0)); err != nil {
		return err
	}
	if here, there := m.Last(), origin.CachedInfo().State.LastSeq; there < here {
		return fmt.Errorf("the mirror of %s reaches %d: %w: the primary's stream ends at %d", id.Name(), here, ErrHistoryLost, there)
	}
	metadata := origin.CachedInfo().Config.Metadata
	if f := feedOf(metadata); f.incarnation > n {
		n, from = f.incarnation, f.from
	}
	return s.makeMirror(ctx, id, n, from, metadata)
}

// makeMirror makes the incarnation, or compares the one there is.
func (s *Site) makeMirror(ctx context.Context, id StreamID, n int, from uint64, metadata map[string]string) error {
	name := id.Mirror(n)
	want := jetstream.StreamConfig{
		Name:        name,
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		MaxBytes:    -1, // no limits: a mirror with one either evicts what is not applied or wedges
		Replicas:    1,
		AllowDirect: true,
		Metadata:    maps.Clone(metadata),
		Mirror: &jetstream.StreamSource{
			Name:     id.Name(),
			External: &jetstream.ExternalStream{APIPrefix: fmt.Sprintf("$JS.%s.API", s.options.PeerDomain)},
			Consumer: &jetstream.StreamConsumerSource{Name: feedName(n), DeliverSubject: deliverSubject(id, n)},
		},
	}
	if want.Metadata == nil {
		want.Metadata = map[string]string{}
	}
	delete(want.Metadata, metaFeed)
	want.Metadata[metaFrom] = strconv.FormatUint(from, 10)
	stream, err := s.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = s.js.CreateStream(ctx, want)
	}
	if err != nil {
		return fmt.Errorf("make mirror %s: %w", name, err)
	}
	is := stream.CachedInfo().Config
	e := &ConfigError{Name: "mirror " + name, Hint: "delete the mirror to have it made again, while the primary still has the history"}
	if is.Mirror == nil {
		e.Differences = append(e.Differences, "it mirrors nothing (was it promoted?)")
		return e
	}
	e.differ("mirror name", is.Mirror.Name, want.Mirror.Name)
	e.differ("first sequence", streamInfo(stream.CachedInfo(), id, n).From, from)
	e.differ("max_bytes", is.MaxBytes, want.MaxBytes)
	e.differ("max_msgs", is.MaxMsgs, -1)
	e.differ("max_age", is.MaxAge, time.Duration(0))
	return e.or()
}

// samePayload refuses sites that accept messages of different sizes: the leafnode would loop over
// the first large message, for ever and without an error at the mirror.
func (s *Site) samePayload(origin StreamInfo) error {
	e := &ConfigError{Name: "max_payload of the sites", Hint: "set max_payload to the same value in both servers' configurations"}
	if here := s.nc.MaxPayload(); origin.MaxPayload != here {
		e.Differences = []string{fmt.Sprintf("the primary accepts %d bytes, the DR site %d", origin.MaxPayload, here)}
	}
	return e.or()
}

// TrimMirror removes the messages of the mirror below sequence before, and incarnations of which nothing is
// left to read. The last message of the newest one always stays.
func (s *Site) TrimMirror(ctx context.Context, id StreamID, before uint64) error {
	m, err := s.Mirror(ctx, id)
	if err != nil {
		return err
	}
	for n, i := range m.Incarnations {
		// From the next one that begins at or below it on, nothing is read from this one.
		readable := n == len(m.Incarnations)-1
		if !readable {
			next, _ := m.At(before)
			readable = next.Incarnation <= i.Incarnation
		}
		if readable {
			err = s.Purge(ctx, i.Name, before)
		} else if err = s.js.DeleteStream(ctx, i.Name); errors.Is(err, jetstream.ErrStreamNotFound) {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("trim the mirror of %s: %w", id.Name(), err)
		}
	}
	return nil
}

// DeleteMirror deletes every incarnation of the mirror; where there is none it does nothing.
func (s *Site) DeleteMirror(ctx context.Context, id StreamID) error {
	m, err := s.Mirror(ctx, id)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	// The oldest first: the newest one tells that there are others.
	for _, i := range m.Incarnations {
		if err := s.js.DeleteStream(ctx, i.Name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("delete mirror %s: %w", i.Name, err)
		}
	}
	return nil
}

// MirrorBytes is Bytes over the incarnations of a mirror.
func (s *Site) MirrorBytes(ctx context.Context, m Mirror, from, to uint64) (uint64, error) {
	total := uint64(0)
	for from <= to {
		i, until := m.At(from)
		until = min(until, to)
		n, err := s.Bytes(ctx, i.Name, from, until)
		if err != nil {
			return 0, err
		}
		total += n
		from = until + 1
	}
	return total, nil
}
