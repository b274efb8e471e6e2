package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/events"
)

// Keys of a stream's metadata.
const (
	metaUID        = "farshore.uid"
	metaSize       = "farshore.size"
	metaMaxPayload = "farshore.max_payload"
	metaFormat     = "farshore.format"
	metaFeed       = "farshore.feed" // of an origin: the newest incarnation of its mirror, and its first sequence
	metaFrom       = "farshore.from" // of a mirror: the sequence that its incarnation begins at
)

// leastPayload is the max_payload that a site needs: one event, and room for headers.
const leastPayload = events.MaxMessage + 4<<10

// StreamOptions shape a stream at the primary.
type StreamOptions struct {
	UID      string // of the volume; empty on objects and control streams
	Size     int64  // bytes of the volume
	MaxBytes int64  // limit of the stream's content; a full one refuses, it never discards. 0: none
	Replicas int    // servers that store it; 0 means 1
}

// ConfigError is a stream, mirror or consumer that exists and differs from what Farshore would have
// made. It is not overwritten: somebody may have had a reason.
type ConfigError struct {
	Name        string   // of the stream or consumer
	Differences []string // each names a field, what it is and what was expected
	Hint        string   // what to do
}

// Error implements error.
func (e *ConfigError) Error() string {
	s := fmt.Sprintf("%s is not as Farshore made it: %s", e.Name, strings.Join(e.Differences, "; "))
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

func (e *ConfigError) differ(field string, is, want any) {
	if fmt.Sprint(is) != fmt.Sprint(want) {
		e.Differences = append(e.Differences, fmt.Sprintf("%s is %v, expected %v", field, is, want))
	}
}

func (e *ConfigError) or() error {
	if len(e.Differences) == 0 {
		return nil
	}
	return e
}

// What a server says that has no room for another stream (JSInsufficientResourcesErr, JSStorageResourcesExceededErr of nats-server).
const (
	noResources jetstream.ErrorCode = 10023
	noStorage   jetstream.ErrorCode = 10047
)

// EnsureStream makes the stream at this site, the primary, and the durable consumer that its mirror
// reads from. Calling it again changes nothing, but that it raises the limit of one that exists. Where either
// exists and differs otherwise it returns a *ConfigError.
func (s *Site) EnsureStream(ctx context.Context, id StreamID, o StreamOptions) error {
	if err := id.check(); err != nil {
		return err
	}
	if n := s.nc.MaxPayload(); n < leastPayload {
		return fmt.Errorf("max_payload of the server is %d bytes, at least %d are needed: raise it at both sites", n, leastPayload)
	}
	want := jetstream.StreamConfig{
		Name:      id.Name(),
		Subjects:  []string{id.Subject()},
		Retention: jetstream.LimitsPolicy,
		Storage:   jetstream.FileStorage,
		// A full stream refuses what is new: what it holds was promised to the DR site.
		Discard:  jetstream.DiscardNew,
		MaxBytes: o.MaxBytes,
		Replicas: max(o.Replicas, 1),
		// Message ids chain the messages; nobody needs them to be remembered for long.
		Duplicates: 100 * time.Millisecond,
		Metadata: map[string]string{
			metaFormat:     strconv.Itoa(events.Version),
			metaUID:        o.UID,
			metaSize:       strconv.FormatInt(o.Size, 10),
			metaMaxPayload: strconv.FormatInt(s.nc.MaxPayload(), 10),
		},
	}
	if want.MaxBytes > 0 {
		want.MaxBytes += Reserve
		want.Metadata[metaReserve] = strconv.Itoa(Reserve)
	} else {
		want.MaxBytes = -1
	}
	stream, err := s.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if err := s.closeOlder(ctx, id); err != nil {
			return err
		}
		stream, err = s.js.CreateStream(ctx, want)
	}
	var refused *jetstream.APIError
	if errors.As(err, &refused) && (refused.ErrorCode == noResources || refused.ErrorCode == noStorage) {
		return fmt.Errorf("make stream %s: %w; the server sets all of a stream's limit aside, here %d bytes: give JetStream more room, or lower spec.journal.maxBytes", want.Name, err, want.MaxBytes)
	}
	if err != nil {
		return fmt.Errorf("make stream %s: %w", want.Name, err)
	}
	is := stream.CachedInfo().Config
	raised := is.MaxBytes > 0 && (want.MaxBytes < 0 || want.MaxBytes > is.MaxBytes)
	if raised { // takes nothing from anybody
		is.MaxBytes = want.MaxBytes
		if is.Metadata == nil {
			is.Metadata = map[string]string{}
		}
		delete(is.Metadata, metaReserve)
		if reserve, limited := want.Metadata[metaReserve]; limited {
			is.Metadata[metaReserve] = reserve
		}
	}
	if err := sameStream(is, want); err != nil {
		return err
	}
	if raised || is.Metadata[metaMaxPayload] != want.Metadata[metaMaxPayload] {
		// A note about the server, not a setting of the stream: it follows the server, so that
		// the DR site compares with what is true now.
		is.Metadata[metaMaxPayload] = want.Metadata[metaMaxPayload]
		if _, err := s.js.UpdateStream(ctx, is); err != nil {
			return fmt.Errorf("update limit and max_payload of stream %s: %w", want.Name, err)
		}
	}
	return s.ensureFeed(ctx, id, is.Metadata)
}

func sameStream(is, want jetstream.StreamConfig) error {
	e := &ConfigError{Name: "stream " + want.Name, Hint: "set the field back, or delete the stream to start a new history"}
	if !ownSubjects(is, want.Subjects[0]) {
		e.differ("subjects", is.Subjects, want.Subjects)
	}
	e.differ("retention", is.Retention, want.Retention)
	e.differ("storage", is.Storage, want.Storage)
	e.differ("discard", is.Discard, want.Discard)
	e.differ("max_bytes", is.MaxBytes, want.MaxBytes)
	e.differ("max_msgs", is.MaxMsgs, -1)
	e.differ("max_age", is.MaxAge, time.Duration(0))
	e.differ("max_msg_size", is.MaxMsgSize, -1)
	e.differ("replicas", is.Replicas, want.Replicas)
	e.differ("sealed", is.Sealed, false)
	e.differ("mirror", is.Mirror != nil, want.Mirror != nil)
	e.differ("sources", len(is.Sources), 0)
	e.differ("max_msgs_per_subject", is.MaxMsgsPerSubject, -1)
	e.differ("no_ack", is.NoAck, false)
	e.differ("persist_mode", is.PersistMode, want.PersistMode)
	e.differ("allow_rollup_hdrs", is.AllowRollup, false)
	e.differ("allow_msg_ttl", is.AllowMsgTTL, false)
	e.differ("subject_transform", is.SubjectTransform != nil, false)
	e.differ("duplicate_window", is.Duplicates, want.Duplicates)
	e.differ("metadata "+metaUID, is.Metadata[metaUID], want.Metadata[metaUID])
	return e.or()
}

// ownSubjects tells whether the stream has its own subject, or that of a tenure of it.
func ownSubjects(is jetstream.StreamConfig, own string) bool {
	if len(is.Subjects) != 1 {
		return false
	}
	rest, found := strings.CutPrefix(is.Subjects[0], own)
	return found && (rest == "" || strings.HasPrefix(rest, tenureMark))
}

// KV returns a bucket of this site, made if it is missing. With a ttl above 0 an entry that isn't written
// again within it disappears.
func (s *Site) KV(ctx context.Context, bucket string, ttl time.Duration) (jetstream.KeyValue, error) {
	kv, err := s.js.KeyValue(ctx, bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = s.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: bucket, TTL: ttl, LimitMarkerTTL: ttl, Storage: jetstream.FileStorage})
		if errors.Is(err, jetstream.ErrBucketExists) {
			kv, err = s.js.KeyValue(ctx, bucket)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open KV bucket %s: %w", bucket, err)
	}
	return kv, nil
}

// StreamInfo is one stream of a group.
type StreamInfo struct {
	Name        string
	ID          StreamID
	Incarnation int    // of the mirror; 0: an origin
	UID         string // of the volume
	Size        int64  // bytes of the volume when the stream was made
	MaxPayload  int64  // bytes that the origin's site accepts in one message
	First, Last uint64 // sequences; Last is the newest ever stored
	Messages    uint64
	Bytes       uint64
	From        uint64 // sequence that an incarnation of a mirror begins at; 0: an origin
	Created     time.Time
}

// PeerStreams lists the group's origins, asked of the primary through the leafnode.
func (s *Site) PeerStreams(ctx context.Context, group string) ([]StreamInfo, error) {
	return listStreams(ctx, s.peer, group)
}

// Origin returns what the primary site, which s is, has of a stream; false: it has none.
func (s *Site) Origin(ctx context.Context, id StreamID) (StreamInfo, bool, error) {
	streams, err := s.Streams(ctx, id.Group)
	if err != nil {
		return StreamInfo{}, false, err
	}
	for _, info := range streams {
		if info.ID == id && info.Incarnation == 0 {
			return info, true, nil
		}
	}
	return StreamInfo{}, false, nil
}

// Streams lists the group's streams at this site: origins at the primary, mirrors at the DR site.
func (s *Site) Streams(ctx context.Context, group string) ([]StreamInfo, error) {
	return listStreams(ctx, s.js, group)
}

func listStreams(ctx context.Context, js jetstream.JetStream, group string) ([]StreamInfo, error) {
	list := js.ListStreams(ctx)
	var out []StreamInfo
	for info := range list.Info() {
		id, incarnation, err := ParseName(info.Config.Name)
		if err != nil || id.Group != group {
			continue
		}
		out = append(out, streamInfo(info, id, incarnation))
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("list streams of group %s: %w", group, err)
	}
	slices.SortFunc(out, func(a, b StreamInfo) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func streamInfo(info *jetstream.StreamInfo, id StreamID, incarnation int) StreamInfo {
	// Metadata that is missing or no number reads as 0: not known.
	size, _ := strconv.ParseInt(info.Config.Metadata[metaSize], 10, 64)
	payload, _ := strconv.ParseInt(info.Config.Metadata[metaMaxPayload], 10, 64)
	from := uint64(0)
	if incarnation > 0 {
		from, _ = strconv.ParseUint(info.Config.Metadata[metaFrom], 10, 64)
		from = max(from, 1)
	}
	return StreamInfo{
		Name: info.Config.Name, ID: id, From: from, Incarnation: incarnation,
		UID: info.Config.Metadata[metaUID], Size: size, MaxPayload: payload,
		First: info.State.FirstSeq, Last: info.State.LastSeq, Messages: info.State.Msgs, Bytes: info.State.Bytes,
		Created: info.Created,
	}
}

// Purge removes the messages of a stream below sequence before. The last message always stays: it
// tells whose the stream is.
func (s *Site) Purge(ctx context.Context, name string, before uint64) error {
	stream, err := s.js.Stream(ctx, name)
	if err != nil {
		return fmt.Errorf("purge stream %s: %w", name, err)
	}
	state := stream.CachedInfo().State
	before = min(before, state.LastSeq)
	if before <= state.FirstSeq {
		return nil
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSequence(before)); err != nil {
		return fmt.Errorf("purge stream %s below %d: %w", name, before, err)
	}
	return nil
}
