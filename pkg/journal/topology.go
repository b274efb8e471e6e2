package journal

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
)

// leastPayload is the max_payload that a site needs: one event, and room for headers.
const leastPayload = events.MaxMessage + 4<<10

// GenerationBucket is the KV bucket at the primary that holds the current generation of each stream.
const GenerationBucket = "farshore-generations"

// mirrorWindow is how many messages the primary sends ahead of the DR site's flow control.
const mirrorWindow = 20000

// StreamOptions shape a stream at the primary.
type StreamOptions struct {
	UID      string // of the volume; empty on objects and control streams
	Size     int64  // bytes of the volume
	MaxBytes int64  // limit of the stream; a full one refuses, it never discards
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

// EnsureStream makes the stream at this site, the primary, and the durable consumer that its mirror
// reads from. Calling it again changes nothing. Where either exists and differs it returns a *ConfigError.
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
	if want.MaxBytes == 0 {
		want.MaxBytes = -1
	}
	stream, err := s.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = s.js.CreateStream(ctx, want)
	}
	if err != nil {
		return fmt.Errorf("make stream %s: %w", want.Name, err)
	}
	is := stream.CachedInfo().Config
	if err := sameStream(is, want); err != nil {
		return err
	}
	if is.Metadata[metaMaxPayload] != want.Metadata[metaMaxPayload] {
		// A note about the server, not a setting of the stream: it follows the server, so that
		// the DR site compares with what is true now.
		is.Metadata[metaMaxPayload] = want.Metadata[metaMaxPayload]
		if _, err := s.js.UpdateStream(ctx, is); err != nil {
			return fmt.Errorf("note max_payload on stream %s: %w", want.Name, err)
		}
	}
	return s.ensureConsumer(ctx, id, 1)
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

func consumerName(incarnation int) string { return fmt.Sprintf("dr_m%d", incarnation) }

// deliverSubject is where the primary sends a mirror's messages. It is the only subject with data on
// it that crosses the leafnode, and only from the primary to the DR site.
func deliverSubject(id StreamID, incarnation int) string {
	return fmt.Sprintf("fsmirror.%s.%s.g%d.m%d", id.Group, id.Part, id.Generation, incarnation)
}

func (s *Site) ensureConsumer(ctx context.Context, id StreamID, incarnation int) error {
	want := jetstream.ConsumerConfig{
		Durable:        consumerName(incarnation),
		DeliverSubject: deliverSubject(id, incarnation),
		DeliverPolicy:  jetstream.DeliverAllPolicy,
		AckPolicy:      jetstream.AckFlowControlPolicy,
		FlowControl:    true,
		IdleHeartbeat:  time.Second,
		MaxAckPending:  mirrorWindow,
	}
	consumer, err := s.js.PushConsumer(ctx, id.Name(), want.Durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		consumer, err = s.js.CreatePushConsumer(ctx, id.Name(), want)
	}
	if err != nil {
		return fmt.Errorf("make consumer %s of stream %s: %w", want.Durable, id.Name(), err)
	}
	is := consumer.CachedInfo().Config
	e := &ConfigError{Name: fmt.Sprintf("consumer %s of stream %s", want.Durable, id.Name()), Hint: "delete the consumer to have it made again"}
	e.differ("deliver_subject", is.DeliverSubject, want.DeliverSubject)
	e.differ("ack_policy", is.AckPolicy, want.AckPolicy)
	e.differ("flow_control", is.FlowControl, want.FlowControl)
	e.differ("filter_subject", is.FilterSubject, "")
	e.differ("headers_only", is.HeadersOnly, false)
	e.differ("deliver_policy", is.DeliverPolicy, want.DeliverPolicy)
	e.differ("max_ack_pending", is.MaxAckPending, want.MaxAckPending)
	e.differ("paused", is.PauseUntil != nil, false)
	return e.or()
}

// Generation returns the current generation of a part of the group, from the KV at this site,
// the primary. The first call for a part makes it 1.
func (s *Site) Generation(ctx context.Context, group, part string) (uint32, error) {
	kv, err := s.KV(ctx, GenerationBucket, 0)
	if err != nil {
		return 0, err
	}
	key := group + "." + part
	for {
		entry, err := kv.Get(ctx, key)
		if err == nil {
			n, err := strconv.ParseUint(string(entry.Value()), 10, 32)
			if err != nil || n == 0 {
				return 0, fmt.Errorf("read generation of %s: KV %s holds %q", key, GenerationBucket, entry.Value())
			}
			return uint32(n), nil
		}
		if !errors.Is(err, jetstream.ErrKeyNotFound) {
			return 0, fmt.Errorf("read generation of %s: %w", key, err)
		}
		// Somebody else may create it first: then the next round reads theirs.
		if _, err := kv.Create(ctx, key, []byte("1")); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
			return 0, fmt.Errorf("create generation of %s: %w", key, err)
		}
	}
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
	Created     time.Time
}

// PeerStreams lists the group's origins, asked of the primary through the leafnode.
func (s *Site) PeerStreams(ctx context.Context, group string) ([]StreamInfo, error) {
	return listStreams(ctx, s.peer, group)
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
	return StreamInfo{
		Name: info.Config.Name, ID: id, Incarnation: incarnation,
		UID: info.Config.Metadata[metaUID], Size: size, MaxPayload: payload,
		First: info.State.FirstSeq, Last: info.State.LastSeq, Messages: info.State.Msgs, Bytes: info.State.Bytes,
		Created: info.Created,
	}
}

// EnsureMirror makes the first mirror of the peer's stream id at this site. It needs the primary. Calling
// it again changes nothing. A mirror that differs, and sites that accept messages of different sizes, give a
// *ConfigError, an origin that ends below its mirror ErrHistoryLost.
func (s *Site) EnsureMirror(ctx context.Context, id StreamID) error {
	const incarnation = 1
	if err := id.check(); err != nil {
		return err
	}
	name := id.Mirror(incarnation)
	want := jetstream.StreamConfig{
		Name:        name,
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		MaxBytes:    -1, // no limits: a mirror with one either evicts what is not applied or wedges
		Replicas:    1,
		AllowDirect: true,
		Mirror: &jetstream.StreamSource{
			Name:     id.Name(),
			External: &jetstream.ExternalStream{APIPrefix: fmt.Sprintf("$JS.%s.API", s.options.PeerDomain)},
			Consumer: &jetstream.StreamConsumerSource{Name: consumerName(incarnation), DeliverSubject: deliverSubject(id, incarnation)},
		},
	}
	// The mirror before the origin: what it holds by now, the origin must still hold then.
	stream, err := s.js.Stream(ctx, name)
	missing := errors.Is(err, jetstream.ErrStreamNotFound)
	if err != nil && !missing {
		return fmt.Errorf("look for mirror %s: %w", name, err)
	}
	origin, err := s.peer.Stream(ctx, id.Name())
	if err != nil {
		return fmt.Errorf("ask the primary for %s: %w", id.Name(), err)
	}
	if err := s.samePayload(streamInfo(origin.CachedInfo(), id, 0)); err != nil {
		return err
	}
	if missing {
		want.Metadata = maps.Clone(origin.CachedInfo().Config.Metadata)
		if stream, err = s.js.CreateStream(ctx, want); err != nil {
			return fmt.Errorf("make mirror %s: %w", name, err)
		}
	}
	if here, there := stream.CachedInfo().State.LastSeq, origin.CachedInfo().State.LastSeq; there < here {
		return fmt.Errorf("mirror %s reaches %d: %w: the primary's stream ends at %d (%s)", name, here, ErrHistoryLost, there, id.lostHint())
	}
	is := stream.CachedInfo().Config
	e := &ConfigError{Name: "mirror " + name, Hint: "delete the mirror to have it made again, while the primary still has the history"}
	if is.Mirror == nil {
		e.Differences = append(e.Differences, "it mirrors nothing (was it promoted?)")
		return e
	}
	e.differ("mirror name", is.Mirror.Name, want.Mirror.Name)
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
