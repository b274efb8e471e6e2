package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// codeStoreFailed is JetStream's error code for a DiscardNew stream that is full, or whose disk is.
const codeStoreFailed = 10077

// errDoubt is the reason to read back what is stored.
var errDoubt = errors.New("it is not known what is stored")

// Run sends what is appended and waits for its acknowledgements. It returns nil when ctx ends, or the
// error that ends the writer for good: ErrFenced or ErrHistoryLost. Everything else, such as a lost
// connection, a restarted server, a new leader or a full stream, it waits out. What isn't stored when ctx
// ends is given up: call WaitStored before.
func (w *Writer) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	final := func(run func(context.Context) error) {
		g.Go(func() error {
			err := run(ctx)
			if err != nil {
				err = fmt.Errorf("stream %s: %w", w.id.Name(), err)
				w.fail(err)
			}
			return err
		})
	}
	final(w.send)
	final(w.compare)
	g.Go(func() error { w.beat(ctx); return nil })
	g.Go(func() error { w.measure(ctx); return nil })
	if w.options.Trim != nil {
		g.Go(func() error { w.trim(ctx); return nil })
	}
	return g.Wait()
}

func (w *Writer) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
		w.notify()
	}
}

// sender is the state of one attempt: everything since the last time the writer read back.
type sender struct {
	w      *Writer
	inbox  string
	acks   chan *nats.Msg
	sent   uint64    // highest sequence sent in this attempt
	window uint64    // messages in flight
	moved  time.Time // when something was last acknowledged, or sent with nothing in flight
}

// send is the writer's loop: attempt after attempt, with a read-back in between.
func (w *Writer) send(ctx context.Context) error {
	states := w.site.nc.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
	defer w.site.nc.RemoveStatusListener(states)
	delay := time.Duration(0)
	for ctx.Err() == nil {
		before := w.Stored()
		err := w.attempt(ctx, states)
		if ctx.Err() != nil {
			return nil
		}
		if w.Stored() > before {
			delay = 0
		}
		w.log.Debug("reading back what is stored", "reason", err)
		delay = min(delay*2+10*time.Millisecond, time.Second)
		if !pause(ctx, delay) {
			return nil
		}
		if err := w.readBack(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		select {
		case w.again <- struct{}{}: // what happened to the stream may have happened behind our back
		default:
		}
	}
	return nil
}

// attempt sends and collects acknowledgements until there is a doubt.
func (w *Writer) attempt(ctx context.Context, states <-chan nats.Status) error {
	s := &sender{w: w, inbox: nats.NewInbox() + ".", acks: make(chan *nats.Msg, 2*inFlight), sent: w.Stored(), window: inFlight}
	if w.isRefused() {
		s.window = 1 // one message asks whether there is room; a whole window would be refused whole
	}
	sub, err := w.site.nc.ChanSubscribe(s.inbox+"*", s.acks)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only on a closed connection
	drain(states)
	if !w.site.nc.IsConnected() {
		return nats.ErrDisconnected
	}
	look := time.NewTicker(ackTimeout / 5)
	defer look.Stop()
	for {
		if err := s.publish(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.wake:
		case m := <-s.acks:
			if err := s.acknowledged(m); err != nil {
				return err
			}
		case <-states:
			return nats.ErrDisconnected
		case <-look.C:
			if s.sent > w.Stored() && time.Since(s.moved) > ackTimeout {
				return fmt.Errorf("%w: no acknowledgement for %v", errDoubt, ackTimeout)
			}
		}
	}
}

func drain(states <-chan nats.Status) {
	for {
		select {
		case <-states:
		default:
			return
		}
	}
}

// publish sends what is pending, as far as the window allows.
func (s *sender) publish() error {
	for {
		s.w.mu.Lock()
		stored := s.w.stored
		i := s.sent - stored
		if i >= uint64(len(s.w.pending)) || i >= s.window {
			s.w.mu.Unlock()
			return nil
		}
		data := s.w.pending[i].data
		s.w.mu.Unlock()
		if i == 0 {
			s.moved = time.Now()
		}
		seq := s.sent + 1
		if err := s.w.site.nc.PublishMsg(s.w.chain.message(data, seq, s.inbox+formatSeq(seq))); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		s.sent = seq
	}
}

// acknowledged handles one answer. Since each message names its predecessor, the acknowledgement of
// one is that of all before it.
func (s *sender) acknowledged(m *nats.Msg) error {
	seq, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, s.inbox), 10, 64)
	if err != nil {
		return fmt.Errorf("%w: answer on subject %q", errDoubt, m.Subject)
	}
	if len(m.Data) == 0 {
		return fmt.Errorf("%w: no stream answers (status %s)", errDoubt, m.Header.Get("Status"))
	}
	ack, err := parseAck(m.Data)
	if err != nil {
		return fmt.Errorf("%w: %w", errDoubt, err)
	}
	if ack.Error != nil {
		if ack.Error.ErrorCode == codeStoreFailed {
			s.w.setRefused()
		}
		return fmt.Errorf("%w: message %d was refused: %w", errDoubt, seq, ack.Error)
	}
	if ack.Seq != seq || ack.Stream != s.w.id.Name() {
		return fmt.Errorf("%w: message %d was stored as %d of %s", errDoubt, seq, ack.Seq, ack.Stream)
	}
	s.moved, s.window = time.Now(), inFlight
	s.w.advance(seq)
	return nil
}

// ack is JetStream's answer to a publish.
type ack struct {
	Stream string              `json:"stream"`
	Seq    uint64              `json:"seq"`
	Error  *jetstream.APIError `json:"error"`
}

func parseAck(data []byte) (a ack, err error) {
	if err = json.Unmarshal(data, &a); err != nil {
		err = fmt.Errorf("decode acknowledgement: %w", err)
	}
	return a, err
}

// setRefused notes that the server has no room, not even in the reserve: that of the stream, of its account or of its disk.
func (w *Writer) setRefused() {
	w.mu.Lock()
	was := w.isFull()
	w.refused = true
	w.mu.Unlock()
	w.showFull(was, true)
}

// beat appends a heartbeat at every interval, whatever else is in the stream: lag is measured on them.
func (w *Writer) beat(ctx context.Context) {
	if w.options.HeartbeatEvery < 0 {
		return
	}
	tick := time.NewTicker(w.options.HeartbeatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !w.mayBeat() {
			continue // what is left of the reserve is the takeovers'
		}
		if _, oldest := w.Pending(); !oldest.IsZero() && time.Since(oldest) > 2*w.options.HeartbeatEvery {
			continue // the bus is gone: heartbeats must not pile up behind what waits
		}
		if _, err := w.Append(ctx, w.options.Heartbeat()); err != nil && ctx.Err() == nil {
			w.log.Debug("heartbeat was not appended", "error", err)
		}
	}
}

func formatSeq(seq uint64) string { return strconv.FormatUint(seq, 10) }
