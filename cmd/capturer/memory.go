package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/resourcewatch"
)

// objectsBucket is the KV bucket at the primary that holds what was sent of each object, by generation of the
// objects stream.
const objectsBucket = "farshore-objects"

// forgotten is how long the trace of an object that is gone stays in the bucket.
const forgotten = time.Hour

// memory is what was sent in one generation of the objects stream: a key per object. Where it is lost, or behind what is
// stored, events are sent again that the stream holds already; none is missed. It implements resourcewatch.Memory.
type memory struct {
	kv     jetstream.KeyValue
	stream jetstream.Stream // below the bucket
	id     journal.StreamID
	known  map[events.ObjectKey]resourcewatch.Sent // as openMemory read it; nil once it was handed out

	acked   uint64    // highest sequence that was noted: it was stored
	created time.Time // identity of the stream; zero where it was not noted
}

// remembered is an object's entry.
type remembered struct {
	Version  string `json:"version"` // of the key
	UID      string `json:"uid"`
	Revision string `json:"revision"`
	Seq      uint64 `json:"seq"`
}

// openMemory reads what is remembered of a generation.
func openMemory(ctx context.Context, site *journal.Site, id journal.StreamID) (*memory, error) {
	m := &memory{id: id, known: make(map[events.ObjectKey]resourcewatch.Sent)}
	js := site.JetStream()
	var err error
	m.kv, err = js.KeyValue(ctx, objectsBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		m.kv, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: objectsBucket, LimitMarkerTTL: forgotten, Storage: jetstream.FileStorage})
		if errors.Is(err, jetstream.ErrBucketExists) {
			m.kv, err = js.KeyValue(ctx, objectsBucket)
		}
	}
	if err == nil {
		m.stream, err = js.Stream(ctx, "KV_"+objectsBucket)
	}
	if err != nil {
		return nil, fmt.Errorf("open KV bucket %s: %w", objectsBucket, err)
	}
	if err := m.read(ctx); err != nil {
		return nil, fmt.Errorf("read what was sent of the objects from KV bucket %s: %w", objectsBucket, err)
	}
	return m, nil
}

// prefix is what the generation's keys begin with.
func prefix(id journal.StreamID) string { return id.Group + ".g" + strconv.Itoa(int(id.Generation)) }

func (m *memory) read(ctx context.Context) error {
	w, err := m.kv.Watch(ctx, prefix(m.id)+".>", jetstream.IgnoreDeletes())
	if err != nil {
		return err
	}
	defer func() { _ = w.Stop() }() // fails only where the connection is closed
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.Updates():
			if !ok {
				return errors.New("the reading ended early")
			}
			if e == nil {
				return m.identity(ctx)
			}
			m.take(e)
		}
	}
}

// take adds an entry. One that can't be read is as good as none: its object is sent again.
func (m *memory) take(e jetstream.KeyValueEntry) {
	key, ok := parseKey(strings.TrimPrefix(e.Key(), prefix(m.id)+"."))
	var r remembered
	if !ok || json.Unmarshal(e.Value(), &r) != nil || r.Revision == "" {
		return
	}
	key.Version = r.Version
	m.known[key] = resourcewatch.Sent{UID: r.UID, Revision: r.Revision, Seq: r.Seq}
	m.acked = max(m.acked, r.Seq)
}

// identity reads which stream the entries are about.
func (m *memory) identity(ctx context.Context) error {
	e, err := m.kv.Get(ctx, prefix(m.id))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := m.created.UnmarshalText(e.Value()); err != nil {
		m.created = time.Time{} // as where it was not noted: the sequence alone is compared
	}
	return nil
}

// begin notes which stream the entries are about, and drops what is remembered of earlier generations.
func (m *memory) begin(ctx context.Context, created time.Time) error {
	text, err := created.MarshalText()
	if err == nil && !m.created.Equal(created) {
		_, err = m.kv.Put(ctx, prefix(m.id), text)
	}
	for n := m.id.Generation - 1; err == nil && n > 0; n-- {
		older := journal.StreamID{Group: m.id.Group, Part: m.id.Part, Generation: n}
		if _, err = m.kv.Get(ctx, prefix(older)); err != nil {
			break // this one and those before it were dropped earlier
		}
		for _, subject := range []string{".>", ""} { // the identity last: as long as it is there the rest may be, too
			if err == nil {
				err = m.stream.Purge(ctx, jetstream.WithPurgeSubject("$KV."+objectsBucket+"."+prefix(older)+subject))
			}
		}
	}
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return fmt.Errorf("note the objects stream in KV bucket %s: %w", objectsBucket, err)
	}
	return nil
}

// Load implements resourcewatch.Memory. It may be called once.
func (m *memory) Load(context.Context) (map[events.ObjectKey]resourcewatch.Sent, error) {
	known := m.known
	m.known = nil
	return known, nil
}

// Note implements resourcewatch.Memory.
func (m *memory) Note(ctx context.Context, key events.ObjectKey, sent resourcewatch.Sent) error {
	value, err := json.Marshal(remembered{key.Version, sent.UID, sent.Revision, sent.Seq})
	if err == nil {
		_, err = m.kv.Put(ctx, prefix(m.id)+"."+formatKey(key), value)
	}
	if err != nil {
		return fmt.Errorf("note what was sent of %s %s/%s: %w", key.Resource, key.Namespace, key.Name, err)
	}
	return nil
}

// Forget implements resourcewatch.Memory.
func (m *memory) Forget(ctx context.Context, key events.ObjectKey) error {
	if err := m.kv.Purge(ctx, prefix(m.id)+"."+formatKey(key), jetstream.PurgeTTL(forgotten)); err != nil {
		return fmt.Errorf("forget what was sent of %s %s/%s: %w", key.Resource, key.Namespace, key.Name, err)
	}
	return nil
}

// absent stands for an empty group or namespace in a key; no group and no namespace has that name.
const absent = "_"

// formatKey writes an object's key in the alphabet of KV keys, one token each for group, resource, namespace and name: a
// dot becomes a slash, which no name has, and what else the alphabet lacks, such as the colons of roles, is written =XX. The
// version is left out: it is the same object in all of them.
func formatKey(k events.ObjectKey) string {
	var b strings.Builder
	for i, token := range []string{k.Group, k.Resource, k.Namespace, k.Name} {
		if i > 0 {
			b.WriteByte('.')
		}
		if token == "" {
			b.WriteString(absent)
		}
		for _, c := range []byte(token) {
			switch {
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-':
				b.WriteByte(c)
			case c == '.':
				b.WriteByte('/')
			default:
				fmt.Fprintf(&b, "=%02X", c)
			}
		}
	}
	return b.String()
}

// parseKey is the inverse of formatKey.
func parseKey(s string) (k events.ObjectKey, ok bool) {
	tokens := strings.Split(s, ".")
	if len(tokens) != 4 {
		return k, false
	}
	for i, field := range []*string{&k.Group, &k.Resource, &k.Namespace, &k.Name} {
		if tokens[i] == absent {
			continue
		}
		var b strings.Builder
		for t := tokens[i]; t != ""; {
			switch {
			case t[0] == '/':
				b.WriteByte('.')
			case t[0] != '=':
				b.WriteByte(t[0])
			default:
				if len(t) < 3 {
					return k, false
				}
				c, err := strconv.ParseUint(t[1:3], 16, 8)
				if err != nil {
					return k, false
				}
				b.WriteByte(byte(c))
				t = t[2:]
			}
			t = t[1:]
		}
		*field = b.String()
	}
	return k, true
}
