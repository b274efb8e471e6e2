package journal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/events"
)

// takeOver appends the Epoch. Whatever happened to an attempt, the next one begins with what is
// stored. Of several writers that take over at once, whoever appends last has the highest epoch.
func (w *Writer) takeOver(ctx context.Context) error {
	// The mirror before the stream: what it holds by now, the stream must still hold then.
	mirrored, err := w.askMirror(ctx, takeoverPatience)
	if err != nil {
		return err
	}
	var sent []byte
	var told rarely
	var lost suspicion
	alone := false
	for {
		e, err := w.end(ctx)
		if err == nil && sent != nil && string(e.data) == string(sent) {
			w.begin(e.seq, e)
			return nil
		}
		err = w.retained(e, err, mirrored)
		believed := lost.confirmed(err, e)
		if err == nil && !alone {
			err = w.site.fenceOlder(ctx, w.id)
			alone = err == nil
		}
		if err == nil {
			err = w.claim(ctx, e.config)
		}
		switch {
		case err == nil:
		case errors.Is(err, errClaimed):
			continue // what came in before the claim has to be read
		case ctx.Err() != nil, believed, unusable(err):
			return err
		default:
			told.warn(w.log, "the stream can't be taken over yet, trying again", err)
			if !pause(ctx, jitter()) {
				return err
			}
			continue
		}
		// While the end stands still the same bytes are sent again: an earlier attempt may
		// still be on its way, and must be recognised when it arrives.
		if sent == nil || e.seq != w.previous {
			w.previous, w.before, w.epoch = e.seq, e.epoch, max(e.epoch, w.options.Above)+1
			h := events.Header{Epoch: w.epoch, Time: time.Now()}
			if sent, err = events.Append(nil, h, w.options.Open(w.epoch)); err != nil {
				return err
			}
		}
		if err := w.appendEpoch(ctx, sent, e); err == nil {
			w.begin(e.seq+1, e)
			return nil
		} else if !pause(ctx, jitter()) {
			return fmt.Errorf("append epoch: %w", err)
		}
	}
}

// begin starts the tenure: its Epoch is stored as seq.
func (w *Writer) begin(seq uint64, e end) {
	w.mu.Lock()
	was := w.isFull()
	w.stored, w.created, w.refused = seq, e.created, false
	w.room.limits(e.config)
	w.room.used = e.bytes
	w.mu.Unlock()
	w.showFull(was, false)
}

// errClaimed tells that the stream has just become this tenure's.
var errClaimed = errors.New("claimed")

// claim points the stream to this tenure's subject, where tenures are told apart by subject. It
// returns nil if nothing had to be done, errClaimed if it was.
func (w *Writer) claim(ctx context.Context, config jetstream.StreamConfig) error {
	w.chain.fit(w.id, config)
	if w.chain.holds(config) {
		return nil
	}
	if !ownSubjects(config, w.id.Subject()) {
		return &ConfigError{Name: "stream " + config.Name, Hint: "set the field back",
			Differences: []string{fmt.Sprintf("subjects is %v, expected %s", config.Subjects, w.id.Subject())}}
	}
	config.Subjects = []string{w.chain.subject}
	attempt, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if _, err := w.site.js.UpdateStream(attempt, config); err != nil {
		return fmt.Errorf("claim stream (it needs the permission to update it): %w", err)
	}
	return errClaimed
}

// appendEpoch appends the Epoch behind e. An error may mean that it is stored nevertheless.
func (w *Writer) appendEpoch(ctx context.Context, data []byte, e end) error {
	attempt, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	m, err := w.site.nc.RequestMsgWithContext(attempt, w.chain.first(data, e.seq+1, ""))
	if err != nil {
		return err
	}
	a, err := parseAck(m.Data)
	switch {
	case err != nil:
		return err
	case a.Error != nil:
		if a.Error.ErrorCode == codeStoreFailed {
			w.setRefused()
		}
		return a.Error
	case a.Seq != e.seq+1 || a.Stream != w.id.Name():
		return fmt.Errorf("stored as %d of %s", a.Seq, a.Stream)
	}
	return nil
}

// jitter keeps two writers that take the same stream over from moving in step.
func jitter() time.Duration { return reconnectWait/2 + rand.N(reconnectWait) }

// unusable tells whether waiting can't make the stream's end readable. A loss of history is confirmed instead.
func unusable(err error) bool {
	var damaged *events.MessageError
	var changed *ConfigError
	return !errors.Is(err, ErrHistoryLost) && (errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, ErrFenced) ||
		errors.As(err, &damaged) || errors.As(err, &changed))
}
