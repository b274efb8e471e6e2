package replicatest

import (
	"context"
	"sync"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
)

// Memory is a Source in memory: what was appended, encoded as on a stream. It may be used concurrently.
type Memory struct {
	mu      sync.Mutex
	streams map[string][][]byte // by name; nil is a missing message
	grown   chan struct{}
	reads   int
}

var _ replica.Source = (*Memory)(nil)

// NewMemory returns an empty Source.
func NewMemory() *Memory {
	return &Memory{streams: make(map[string][][]byte), grown: make(chan struct{})}
}

// Append adds an event to a stream and returns its sequence.
func (m *Memory) Append(id journal.StreamID, h events.Header, e events.Event) (uint64, error) {
	body, err := events.Append(nil, h, e)
	if err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	name := m.Name(id)
	m.streams[name] = append(m.streams[name], body)
	close(m.grown)
	m.grown = make(chan struct{})
	return uint64(len(m.streams[name])), nil
}

// Alter changes the message at seq; change may return nil to remove it. The result undoes it.
func (m *Memory) Alter(id journal.StreamID, seq uint64, change func([]byte) []byte) (undo func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	stream := m.streams[m.Name(id)]
	old := stream[seq-1]
	stream[seq-1] = change(append([]byte(nil), old...))
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		stream[seq-1] = old
	}
}

// Reads returns how many messages were read so far.
func (m *Memory) Reads() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reads
}

// Name implements replica.Source.
func (m *Memory) Name(id journal.StreamID) string { return id.Mirror(1) }

// Last implements replica.Ends.
func (m *Memory) Last(_ context.Context, id journal.StreamID) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return uint64(len(m.streams[m.Name(id)])), nil
}

// Open implements replica.Source.
func (m *Memory) Open(_ context.Context, id journal.StreamID, from uint64) (replica.Reader, error) {
	return &memoryReader{m: m, name: m.Name(id), next: from}, nil
}

type memoryReader struct {
	m    *Memory
	name string
	next uint64
}

// Next implements replica.Reader.
func (r *memoryReader) Next(ctx context.Context) (journal.Message, error) {
	for {
		r.m.mu.Lock()
		stream, grown := r.m.streams[r.name], r.m.grown
		if r.next > uint64(len(stream)) {
			r.m.mu.Unlock()
			select {
			case <-ctx.Done():
				return journal.Message{}, ctx.Err()
			case <-grown:
			}
			continue
		}
		body := stream[r.next-1]
		r.m.reads++
		r.m.mu.Unlock()
		if body == nil {
			return journal.Message{}, &journal.GapError{Stream: r.name, Want: r.next, Got: r.next + 1}
		}
		body = append([]byte(nil), body...)
		h, e, err := events.Decode(r.name, r.next, body)
		if err != nil {
			return journal.Message{}, err
		}
		msg := journal.Message{Seq: r.next, Header: h, Event: e, Size: len(body), Stored: time.Now()}
		r.next++
		return msg, nil
	}
}

// Close implements replica.Reader.
func (r *memoryReader) Close() {}
