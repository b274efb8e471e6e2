package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// How long a stream must go on to lack what it acknowledged before that is believed: a leader that has just
// been elected may not have applied everything yet.
const (
	lostConfirmed           = 3 * time.Second
	lostConfirmedReplicated = 10 * time.Second
)

// How long the DR site may take to tell how far its mirror reaches.
const (
	takeoverPatience = 3 * time.Second  // while a tenure waits for it
	comparePatience  = 10 * time.Second // beside a tenure
	compareEvery     = 5 * time.Second  // until it is told
)

// lostHint tells an operator what a lost history means.
const lostHint = "a server that lost power may have lost what it had not written to its disk, or somebody restored or deleted the stream; " +
	"what the DR site has stays, and the history goes on in the next generation"

// suspicion is a loss that is not believed yet.
type suspicion struct{ since time.Time }

// confirmed tells whether err is a loss of history that has lasted. e is the stream's end as far as it was read.
func (s *suspicion) confirmed(err error, e end) bool {
	if !errors.Is(err, ErrHistoryLost) {
		s.since = time.Time{}
		return false
	}
	if s.since.IsZero() {
		s.since = time.Now()
	}
	if e.config.Replicas > 1 {
		return time.Since(s.since) > lostConfirmedReplicated
	}
	return time.Since(s.since) > lostConfirmed
}

// gone turns the error of a stream that isn't there, though it is known to have been, into a loss.
func gone(err error) error {
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%w: the stream is gone (%s): %w", ErrHistoryLost, lostHint, err)
	}
	return err
}

// retained tells whether the stream, read as e or failed to be read with err, still holds what is known of it
// from before this tenure. mirrored is the last sequence known to be at the DR site.
func (w *Writer) retained(e end, err error, mirrored uint64) error {
	o := w.options
	if err != nil {
		if o.Acked > 0 || !o.Created.IsZero() || mirrored > 0 {
			return gone(err)
		}
		return err
	}
	switch {
	case !o.Created.IsZero() && !e.created.Equal(o.Created):
		return fmt.Errorf("%w: the stream that was known was deleted and made again at %v (%s)", ErrHistoryLost, e.created, lostHint)
	case e.seq < o.Acked:
		return fmt.Errorf("%w: it ends at %d, %d was acknowledged (%s)", ErrHistoryLost, e.seq, o.Acked, lostHint)
	case e.seq < mirrored:
		return fmt.Errorf("%w: it ends at %d, its mirror at %d (%s)", ErrHistoryLost, e.seq, mirrored, lostHint)
	}
	return nil
}

// readBack finds out what is stored. It returns nil once it knows, or a final error.
func (w *Writer) readBack(ctx context.Context) error {
	var lost suspicion
	var told rarely
	for {
		e, err := w.end(ctx)
		if err == nil {
			err = w.judge(e)
		}
		err = gone(err)
		if err == nil || errors.Is(err, ErrFenced) || lost.confirmed(err, e) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		told.warn(w.log, "can't tell what is stored, trying again", err)
		if !pause(ctx, reconnectWait) {
			return ctx.Err()
		}
	}
}

// judge compares the stream's end with what was sent. Nil: everything up to the end is ours, and
// sending can go on behind it.
func (w *Writer) judge(e end) error {
	w.mu.Lock()
	stored, n := w.stored, uint64(len(w.pending))
	var ours []byte
	if e.seq > stored && e.seq <= stored+n {
		ours = w.pending[e.seq-stored-1].data
	}
	w.mu.Unlock()
	switch {
	case e.epoch > w.epoch:
		return fmt.Errorf("%w: its epoch is %d, ours %d", ErrFenced, e.epoch, w.epoch)
	case !e.created.Equal(w.created):
		return fmt.Errorf("%w: the stream was deleted and made again at %v (%s)", ErrHistoryLost, e.created, lostHint)
	case e.seq < stored:
		return fmt.Errorf("%w: it ends at %d, %d was acknowledged (%s)", ErrHistoryLost, e.seq, stored, lostHint)
	case e.epoch != w.epoch:
		return fmt.Errorf("%w: message %d is of epoch %d, ours is %d (%s)", ErrHistoryLost, e.seq, e.epoch, w.epoch, lostHint)
	case e.seq > stored && string(ours) != string(e.data):
		return fmt.Errorf("%w: message %d is not the one that was sent (%s)", ErrHistoryLost, e.seq, lostHint)
	case !w.chain.holds(e.config):
		// Nothing of ours can come behind what it holds now, whether or not the other writer
		// gets as far as its Epoch.
		return fmt.Errorf("%w: it takes messages on %v, not on %s", ErrFenced, e.config.Subjects, w.chain.subject)
	}
	w.advance(e.seq)
	return nil
}

// askMirror asks the DR site how far its mirror reaches. Where it doesn't tell in time, 0 is returned and w.asked
// stays false. A mirror of a newer generation means that this one was brought back: ErrHistoryLost.
func (w *Writer) askMirror(ctx context.Context, patience time.Duration) (uint64, error) {
	if w.options.Mirrored == nil {
		w.asked = true
		return 0, nil
	}
	ask, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	seq, err := w.options.Mirrored(ask, w.id.Generation)
	newer := uint64(0)
	if err == nil {
		newer, err = w.options.Mirrored(ask, w.id.Generation+1)
	}
	w.asked = err == nil
	switch {
	case err != nil:
		w.log.Debug("the DR site doesn't tell how far its mirror reaches", "error", err)
		return 0, nil
	case newer > 0:
		return 0, fmt.Errorf("%w: the DR site has a newer generation of it, which this site lost (%s)", ErrHistoryLost, lostHint)
	}
	return seq, nil
}

// compare asks the DR site after each doubt, until it tells, whether its mirror has more of the stream than the
// stream itself. It doesn't keep the writer waiting. What this writer itself saw stored, it misses by itself; this
// finds what was lost before its tenure, in the time when nobody could tell.
func (w *Writer) compare(ctx context.Context) error {
	var answered time.Time
	for {
		for !w.asked {
			if err := w.behindMirror(ctx); err != nil {
				return err
			}
			if !w.asked && !pause(ctx, compareEvery) {
				return nil
			}
			answered = time.Now()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.again:
			w.asked = false
		}
		if !pause(ctx, time.Until(answered.Add(compareEvery))) { // a full stream is doubted every second
			return nil
		}
	}
}

// behindMirror asks once. The mirror may have what this writer doesn't know to be stored yet, never more
// than it has appended.
func (w *Writer) behindMirror(ctx context.Context) error {
	seq, err := w.askMirror(ctx, comparePatience)
	if err != nil {
		n, e := w.site.Generation(ctx, w.id.Group, w.id.Part)
		if e == nil && n > w.id.Generation {
			return fmt.Errorf("%w: another writer went on in generation %d", ErrFenced, n)
		}
		return err
	}
	w.mu.Lock()
	appended := w.stored + uint64(len(w.pending))
	w.mu.Unlock()
	if seq > appended {
		return fmt.Errorf("%w: it ends at %d, its mirror at %d (%s)", ErrHistoryLost, appended, seq, lostHint)
	}
	return nil
}
