package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/farshore/farshore/pkg/events"
)

// Why a writer ends for good.
var (
	// ErrFenced is a writer whose stream another writer took over.
	ErrFenced = errors.New("fenced: another writer took over the stream")
	// ErrHistoryLost is a stream that no longer holds what it acknowledged.
	ErrHistoryLost = errors.New("history was lost: the stream does not hold what it acknowledged")
)

// Defaults of WriterOptions.
const (
	DefaultMaxPending = 64 << 20        // bytes
	DefaultHeartbeat  = time.Second     // between two
	inFlight          = 1024            // messages sent and not acknowledged
	ackTimeout        = 5 * time.Second // without any acknowledgement while some are due: doubt
)

// TrimOptions tell how far behind the DR site the origin is kept.
type TrimOptions struct {
	Margin time.Duration // history that stays although the DR site has stored it
	Every  time.Duration // between two trims
}

// WriterOptions shape a Writer.
type WriterOptions struct {
	Writer string                           // identity of the process, unique for each start
	Open   func(epoch uint64) *events.Epoch // the event that opens the tenure
	// MaxPending is how many bytes may be appended and not stored before Append blocks; 0 means DefaultMaxPending.
	MaxPending int64
	Heartbeat  func() *events.Heartbeat // nil: empty heartbeats
	// HeartbeatEvery is their interval; 0 means DefaultHeartbeat, below 0 none are sent.
	HeartbeatEvery time.Duration
	Trim           *TrimOptions // nil: the stream is never trimmed
	// Above is an epoch that the tenure's has to be above, whatever the stream holds: that of an older generation, for
	// those who compare epochs across generations.
	Above uint64
	// Acked is the highest sequence of the stream that is durably known to have been acknowledged, Created the
	// identity of the stream it was, as Writer.Created told it; zero where nothing is known.
	Acked   uint64
	Created time.Time
	// Mirrored tells the last sequence that the DR site's mirror of a generation of this part has ever held, 0 for
	// none, as repair.Recovery's Stored does. An error means that it is not known. It is asked from Run and from
	// OpenWriter, which waits a few seconds for it, and may be nil.
	Mirrored func(ctx context.Context, generation uint32) (uint64, error)
	OnStored func(seq uint64) // called in order, from Run, when everything up to seq is stored
	Log      *slog.Logger     // nil: silent
	Meter    metric.Meter     // nil: not measured
}

// Writer is the one writer of a stream. Append may be called concurrently; the order of its calls is
// the order of the stream. Nothing is sent unless Run runs.
type Writer struct {
	site     *Site
	id       StreamID
	options  WriterOptions
	log      *slog.Logger
	metrics  writerMetrics
	chain    chain
	epoch    uint64
	previous uint64
	before   uint64    // epoch of the message at previous
	created  time.Time // of the stream: its identity beside the name

	asked bool // the mirror was compared; used by Run alone once it runs

	wake  chan struct{} // a token: there is something to send
	again chan struct{} // a token: the mirror has to be compared

	measures chan struct{} // a token: the stream's size has to be read

	mu      sync.Mutex
	pending []pending     // appended and not known to be stored; pending[0] has sequence stored+1
	stored  uint64        // everything up to it is stored
	bytes   int64         // of pending
	changed chan struct{} // closed and replaced when stored, bytes or err change
	refused bool          // the server has no room for pending[0]
	room    room
	err     error // final
}

// pending is one message. Its bytes are kept until it is stored: resuming compares and resends them.
type pending struct {
	data []byte
	at   time.Time
}

// OpenWriter takes the stream over: it appends an Epoch with the next epoch number and returns once
// that is stored. From then on every earlier writer's append fails with ErrFenced. To a stream that has lost
// history it appends nothing and returns ErrHistoryLost.
func (s *Site) OpenWriter(ctx context.Context, id StreamID, o WriterOptions) (*Writer, error) {
	if o.MaxPending == 0 {
		o.MaxPending = DefaultMaxPending
	}
	if o.HeartbeatEvery == 0 {
		o.HeartbeatEvery = DefaultHeartbeat
	}
	if o.Heartbeat == nil {
		o.Heartbeat = func() *events.Heartbeat { return new(events.Heartbeat) }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	metrics, err := newWriterMetrics(o.Meter, id)
	if err != nil {
		return nil, err
	}
	w := &Writer{
		site: s, id: id, options: o, log: o.Log.With("stream", id.Name()), metrics: metrics,
		chain: newChain(id), wake: make(chan struct{}, 1), again: make(chan struct{}, 1), measures: make(chan struct{}, 1), changed: make(chan struct{}),
	}
	if err := w.takeOver(ctx); err != nil {
		return nil, fmt.Errorf("take over stream %s: %w", id.Name(), err)
	}
	return w, nil
}

// ID returns the stream.
func (w *Writer) ID() StreamID { return w.id }

// Epoch returns the number of this writer's tenure.
func (w *Writer) Epoch() uint64 { return w.epoch }

// Previous returns the last sequence before this writer's Epoch; 0 is a stream without a history.
func (w *Writer) Previous() uint64 { return w.previous }

// PreviousEpoch returns the epoch of the writer before; 0 is a stream without a history.
func (w *Writer) PreviousEpoch() uint64 { return w.before }

// Created returns when the stream was made: its identity beside its name.
func (w *Writer) Created() time.Time { return w.created }

// Stored returns the sequence up to which everything is stored.
func (w *Writer) Stored() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stored
}

// Pending returns how many bytes are appended and not known to be stored, and when the oldest of them was appended.
func (w *Writer) Pending() (bytes int64, oldest time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) > 0 {
		oldest = w.pending[0].at
	}
	return w.bytes, oldest
}

// Full tells whether the stream has reached its limit: Append holds content back until there is room.
// Where even the server refuses a message, it is kept and sent again.
func (w *Writer) Full() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.isFull()
}

// isFull is Full with w.mu held.
func (w *Writer) isFull() bool { return w.refused || w.room.full }

// Append adds e to the stream and returns the sequence it will have. It blocks while MaxPending bytes
// are not stored yet, and a Frame, RegionHash or Object also while the stream has reached its limit; what else is
// appended meanwhile passes it. An error is either ctx's, one of encoding (the event was not appended), or final.
func (w *Writer) Append(ctx context.Context, e events.Event) (uint64, error) {
	h := events.Header{Epoch: w.epoch, Time: time.Now(), Trace: traceContext(ctx)}
	data, err := events.Append(buffer(e), h, e)
	if err != nil {
		return 0, fmt.Errorf("append to stream %s: %w", w.id.Name(), err)
	}
	w.mu.Lock()
	for w.err == nil {
		if content(e) {
			if err := w.hold(ctx, int64(len(data))+roomPerMsg); err != nil {
				w.mu.Unlock()
				return 0, fmt.Errorf("append to stream %s: %w", w.id.Name(), err)
			}
		}
		if w.err != nil || w.bytes == 0 || w.bytes+int64(len(data)) <= w.options.MaxPending {
			break
		}
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("append to stream %s: %w", w.id.Name(), ctx.Err())
		case <-changed:
		}
		w.mu.Lock()
	}
	if w.err != nil {
		defer w.mu.Unlock()
		return 0, w.err
	}
	seq := w.add(data)
	w.mu.Unlock()
	w.poke()
	return seq, nil
}

// buffers are those of large messages that are stored. Only large messages use them, so that a pending one
// holds little more memory than its bytes.
var buffers sync.Pool

const largeMessage = 128 << 10 // bytes

// buffer returns where to encode e.
func buffer(e events.Event) []byte {
	if f, ok := e.(*events.Frame); ok && len(f.Payload) >= largeMessage {
		if b, ok := buffers.Get().(*[]byte); ok {
			return (*b)[:0]
		}
	}
	return nil
}

// recycle takes a message back that is neither compared nor sent again. NATS has copied it.
func recycle(data []byte) {
	if len(data) >= largeMessage {
		buffers.Put(&data)
	}
}

// add queues a message; w.mu is held.
func (w *Writer) add(data []byte) uint64 {
	w.pending = append(w.pending, pending{data, time.Now()})
	w.bytes += int64(len(data))
	near := w.room.near()
	w.room.used += int64(len(data)) + roomPerMsg
	if !near && w.room.near() {
		w.measureSoon()
	}
	return w.stored + uint64(len(w.pending))
}

func (w *Writer) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// WaitStored waits until everything up to seq is stored.
func (w *Writer) WaitStored(ctx context.Context, seq uint64) error {
	for {
		w.mu.Lock()
		stored, err, changed := w.stored, w.err, w.changed
		w.mu.Unlock()
		switch {
		case stored >= seq:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %d of stream %s: %w", seq, w.id.Name(), ctx.Err())
		case <-changed:
		}
	}
}

// advance notes that everything up to seq is stored.
func (w *Writer) advance(seq uint64) {
	w.mu.Lock()
	if seq <= w.stored || seq > w.stored+uint64(len(w.pending)) {
		w.mu.Unlock()
		return
	}
	n := int(seq - w.stored)
	var bytes int64
	for i := range n {
		bytes += int64(len(w.pending[i].data))
		recycle(w.pending[i].data)
		w.pending[i].data = nil // free it although the slice's array lives on
	}
	w.pending = w.pending[n:]
	w.bytes -= bytes
	w.room.stored += bytes + int64(n)*roomPerMsg
	w.stored = seq
	was := w.isFull()
	w.refused = false
	is := w.isFull()
	w.notify()
	w.mu.Unlock()
	w.metrics.stored(bytes)
	w.showFull(was, is)
	if w.options.OnStored != nil {
		w.options.OnStored(seq)
	}
}

// notify wakes everybody who waits for a change; w.mu is held.
func (w *Writer) notify() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// traceContext returns the trace context of ctx in the form that events carry.
func traceContext(ctx context.Context) []byte {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return nil
	}
	id, span := sc.TraceID(), sc.SpanID()
	return append(append(append(make([]byte, 0, 25), id[:]...), span[:]...), byte(sc.TraceFlags()))
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// rarely logs a repeating warning at most every ten seconds.
type rarely struct{ last time.Time }

func (r *rarely) warn(log *slog.Logger, message string, err error) {
	if time.Since(r.last) < 10*time.Second {
		return
	}
	r.last = time.Now()
	log.Warn(message, "error", err)
}
