package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/events"
)

// What a Reader holds before it is asked for; each event fits readAheadBytes several times.
const (
	readAhead      = 256     // messages
	readAheadBytes = 8 << 20 // bytes
)

// idleCheck is how long nothing may come before a Reader looks why.
const idleCheck = 5 * time.Second

// msgSize is the header that carries the size of a message delivered without its content.
const msgSize = "Nats-Msg-Size"

// Message is one event of a stream.
type Message struct {
	Seq    uint64
	Header events.Header
	Event  events.Event
	Size   int       // bytes of the message
	Stored time.Time // when the origin stored it, by its server's clock
}

// GapError is a stream that lacks messages a reader needs. Nothing behind the gap may be applied.
type GapError struct {
	Stream string
	Want   uint64 // the sequence that should have come
	Got    uint64 // the next one that the stream has
}

// Error implements error.
func (e *GapError) Error() string {
	return fmt.Sprintf("stream %s lacks messages %d to %d", e.Stream, e.Want, e.Got-1)
}

// EpochError is an event from another writer than the stream's last Epoch named.
type EpochError struct {
	Stream string
	Seq    uint64
	Want   uint64 // epoch of the writer whose tenure it is
	Got    uint64
}

// Error implements error.
func (e *EpochError) Error() string {
	return fmt.Sprintf("message %d of stream %s is from epoch %d within the tenure of epoch %d", e.Seq, e.Stream, e.Got, e.Want)
}

// Reader reads a stream from a sequence on, waiting at its end. What Next returns is contiguous,
// undamaged, and of the writer whose Epoch came last. A Reader outlives lost connections and
// restarted servers. It must not be used concurrently.
type Reader struct {
	site  *Site
	name  string
	log   *slog.Logger
	next  uint64
	epoch uint64 // of the last message; 0 before the first
	err   error  // final

	mirror *StreamID // reads over the incarnations of this stream's mirror; name is the current one
	joined Mirror    // as last seen
	until  uint64    // the last sequence to be read from name

	msgs      jetstream.MessagesContext // nil: to be opened
	delivered uint64                    // messages that came from msgs
}

// OpenReader opens the stream name at sequence from (1 is its beginning). A stream that was trimmed beyond from
// gives a *GapError.
func (s *Site) OpenReader(ctx context.Context, name string, from uint64) (*Reader, error) {
	stream, err := s.js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", name, err)
	}
	r := &Reader{site: s, name: name, log: s.log.With("stream", name), next: max(from, 1), until: ^uint64(0)}
	if first := stream.CachedInfo().State.FirstSeq; first > r.next {
		return nil, &GapError{Stream: name, Want: r.next, Got: first}
	}
	return r, nil
}

// OpenMirror opens this site's mirror of the stream at sequence from, and reads on over the incarnations of it, also
// of those that are made later. What none of them has gives a *GapError that names the incarnation it was looked
// for in, as do other errors of what it reads; without a mirror the error is jetstream.ErrStreamNotFound.
func (s *Site) OpenMirror(ctx context.Context, id StreamID, from uint64) (*Reader, error) {
	r := &Reader{site: s, log: s.log.With("mirror", id.Name()), next: max(from, 1), mirror: &id}
	if err := r.choose(ctx); err != nil {
		return nil, err
	}
	if i, _ := r.joined.At(r.next); i.First > r.next && i.Messages > 0 {
		return nil, &GapError{Stream: i.Name, Want: r.next, Got: i.First}
	}
	return r, nil
}

// choose finds the incarnation that r.next is read from.
func (r *Reader) choose(ctx context.Context) (err error) {
	if r.joined, err = r.site.Mirror(ctx, *r.mirror); err != nil {
		return err
	}
	i, until := r.joined.At(r.next)
	r.name, r.until = i.Name, until
	return nil
}

// errMoved is a mirror whose next message has to be read from another incarnation.
var errMoved = errors.New("another incarnation of the mirror goes on")

// moved tells whether a newer incarnation took over what r waits for.
func (r *Reader) moved(ctx context.Context) (bool, error) {
	if r.mirror == nil {
		return false, nil
	}
	before := r.name
	attempt, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	err := r.choose(attempt)
	return r.name != before, err
}

// open asks the server for what comes from r.next on. The consumer isn't one of nats.go's ordered ones: while a
// server is away those try again by themselves, without regard for the reader's context.
func (r *Reader) open(ctx context.Context) error {
	if r.mirror != nil {
		if err := r.choose(ctx); err != nil {
			return err
		}
	}
	c, err := r.site.js.CreateConsumer(ctx, r.name, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       r.next,
		AckPolicy:         jetstream.AckNonePolicy,
		InactiveThreshold: 30 * time.Second, // removes it after Close
		MemoryStorage:     true,
		Replicas:          1,
	})
	if err == nil {
		r.delivered = 0
		r.msgs, err = c.Messages(jetstream.PullMaxMessagesWithBytesLimit(readAhead, readAheadBytes), jetstream.PullHeartbeat(2*time.Second), jetstream.PullExpiry(10*time.Second))
	}
	if err != nil {
		return fmt.Errorf("read stream %s from %d: %w", r.name, r.next, err)
	}
	return nil
}

// Next returns the next event, waiting for it. Errors other than ctx's are final: *GapError, *EpochError,
// *events.MessageError.
func (r *Reader) Next(ctx context.Context) (Message, error) {
	if r.err != nil {
		return Message{}, r.err
	}
	for {
		raw, seq, stored, err := r.fetch(ctx)
		if err != nil {
			return Message{}, err
		}
		m, err := r.check(raw, seq)
		if err == nil {
			m.Stored = stored
			if r.next = seq + 1; seq == r.until { // the next incarnation goes on
				r.Close()
			}
			return m, nil
		}
		moved, lookErr := r.moved(ctx)
		if ctx.Err() != nil {
			return Message{}, fmt.Errorf("read stream %s: %w", r.name, ctx.Err())
		}
		if lookErr != nil || !moved {
			r.err = err
			return Message{}, err
		}
		r.Close()
	}
}

// fetch returns the next raw message, opening the consumer again as often as it takes.
func (r *Reader) fetch(ctx context.Context) ([]byte, uint64, time.Time, error) {
	var told rarely
	for try := 0; ; try++ {
		m, meta, err := r.receive(ctx)
		var gap *GapError
		switch {
		case err == nil:
			return m.Data(), meta.Sequence.Stream, meta.Timestamp, nil
		case errors.As(err, &gap):
			r.err = err
			return nil, 0, time.Time{}, err
		case ctx.Err() != nil:
			return nil, 0, time.Time{}, fmt.Errorf("read stream %s: %w", r.name, ctx.Err())
		case errors.Is(err, errMoved):
			r.log.Info("reading another incarnation of the mirror", "stream", r.name, "from", r.next)
			try = -1
		case errors.Is(err, jetstream.ErrStreamNotFound):
			told.warn(r.log, "the stream is gone, waiting for it", err)
		case try > 0:
			told.warn(r.log, "the stream can't be read, trying again", err)
		default:
			r.log.Debug("reading again", "from", r.next, "error", err)
		}
		r.Close()
		if try > 0 { // a consumer that was idle for long has to be opened again, which works at once
			pause(ctx, reconnectWait)
		}
	}
}

// errDelivery is a message that was lost between the server and this process.
var errDelivery = errors.New("a delivery was lost")

// receive waits for the next message of the consumer.
func (r *Reader) receive(ctx context.Context) (jetstream.Msg, *jetstream.MsgMetadata, error) {
	if r.msgs == nil {
		attempt, cancel := context.WithTimeout(ctx, apiTimeout)
		err := r.open(attempt)
		cancel()
		if err != nil {
			return nil, nil, err
		}
	}
	for {
		wait, cancel := context.WithTimeout(ctx, idleCheck)
		m, err := r.msgs.Next(jetstream.NextContext(wait))
		idle := wait.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil {
			meta, err := m.Metadata()
			if err == nil && meta.Sequence.Consumer != r.delivered+1 {
				err = errDelivery
			}
			r.delivered++
			return m, meta, err
		}
		if idle {
			err = r.idle(ctx)
		}
		if err != nil {
			return nil, nil, err
		}
	}
}

// idle finds out why nothing comes. Nil: the stream ends before the message that is waited for. A hole at
// the stream's end would be waited at for ever otherwise, as no later message shows it.
func (r *Reader) idle(ctx context.Context) error {
	attempt, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if moved, err := r.moved(attempt); err != nil {
		return err
	} else if moved {
		return errMoved
	}
	stream, err := r.site.js.Stream(attempt, r.name)
	if err != nil {
		return err
	}
	last := stream.CachedInfo().State.LastSeq
	if last < r.next {
		return nil
	}
	_, err = stream.GetMsg(attempt, r.next)
	switch {
	case err == nil:
		return errDelivery
	case !errors.Is(err, jetstream.ErrMsgNotFound):
		return err
	}
	got := last + 1
	next, err := stream.GetMsg(attempt, r.next, jetstream.WithGetMsgSubject(">"))
	if err == nil {
		got = next.Sequence
	} else if !errors.Is(err, jetstream.ErrMsgNotFound) {
		return err
	}
	return &GapError{Stream: r.name, Want: r.next, Got: got}
}

func (r *Reader) check(raw []byte, seq uint64) (Message, error) {
	if seq != r.next {
		return Message{}, &GapError{Stream: r.name, Want: r.next, Got: seq}
	}
	h, e, err := events.Decode(r.name, seq, raw)
	if err != nil {
		return Message{}, err
	}
	_, opens := e.(*events.Epoch)
	switch {
	case seq == 1 && !opens:
		return Message{}, &events.MessageError{Stream: r.name, Seq: seq, Err: fmt.Errorf("%w: a stream begins with an Epoch", events.ErrMalformed)}
	case r.epoch == 0: // a reader may begin within a tenure
	case opens && h.Epoch <= r.epoch, !opens && h.Epoch != r.epoch:
		return Message{}, &EpochError{Stream: r.name, Seq: seq, Want: r.epoch, Got: h.Epoch}
	}
	r.epoch = h.Epoch
	return Message{Seq: seq, Header: h, Event: e, Size: len(raw)}, nil
}

// Close ends reading.
func (r *Reader) Close() {
	if r.msgs != nil {
		r.msgs.Stop()
		r.msgs = nil
	}
}

// Tail is where a stream stands.
type Tail struct {
	First, Last uint64 // sequences; Last is the newest ever stored
	Messages    uint64
	Bytes       uint64
	Header      events.Header // of the newest event; zero where the stream is empty
	Kind        events.Kind   // of the newest event
	Stored      time.Time     // when the origin stored it, by its server's clock
}

// Tail reads where the stream name stands. Of the newest event only the header is decoded.
func (s *Site) Tail(ctx context.Context, name string) (Tail, error) {
	stream, err := s.js.Stream(ctx, name)
	if err != nil {
		return Tail{}, fmt.Errorf("read the end of stream %s: %w", name, err)
	}
	state := stream.CachedInfo().State
	t := Tail{First: state.FirstSeq, Last: state.LastSeq, Messages: state.Msgs, Bytes: state.Bytes}
	if state.Msgs == 0 {
		return t, nil
	}
	m, err := stream.GetMsg(ctx, state.LastSeq)
	if err != nil {
		return Tail{}, fmt.Errorf("read the end of stream %s: %w", name, err)
	}
	t.Stored = m.Time
	if t.Header, t.Kind, err = events.DecodeHeader(name, state.LastSeq, m.Data); err != nil {
		return Tail{}, err
	}
	return t, nil
}

// Bytes returns how many bytes the messages from sequence from to sequence to have, headers of NATS left out. It
// reads sizes, not messages.
func (s *Site) Bytes(ctx context.Context, name string, from, to uint64) (uint64, error) {
	if from > to {
		return 0, nil
	}
	c, err := s.js.OrderedConsumer(ctx, name, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from, HeadersOnly: true,
	})
	if err != nil {
		return 0, fmt.Errorf("read sizes of stream %s: %w", name, err)
	}
	msgs, err := c.Messages()
	if err != nil {
		return 0, fmt.Errorf("read sizes of stream %s: %w", name, err)
	}
	defer func() {
		msgs.Stop()
		// Left alone it lives for minutes, and a listing of a thousand points asks a thousand times: a server has
		// no more consumers for one stream. Where it can't be deleted, that is what ends it.
		if info := c.CachedInfo(); info != nil {
			_ = s.js.DeleteConsumer(ctx, name, info.Name)
		}
	}()
	total := uint64(0)
	for {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			return 0, fmt.Errorf("read sizes of stream %s: %w", name, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return 0, fmt.Errorf("read sizes of stream %s: %w", name, err)
		}
		if meta.Sequence.Stream > to {
			return total, nil
		}
		n, err := strconv.ParseUint(m.Headers().Get(msgSize), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read sizes of stream %s: message %d: %w", name, meta.Sequence.Stream, err)
		}
		total += n
		if meta.Sequence.Stream == to {
			return total, nil
		}
	}
}
