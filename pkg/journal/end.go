package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/events"
)

// errUnclaimed is a stream whose last message is gone.
var errUnclaimed = errors.New("somebody purged the stream's last message, which tells whose it is: delete the stream, or start a new generation")

// end is where a stream stands.
type end struct {
	seq     uint64
	epoch   uint64 // of the message at seq; 0 where there is none
	data    []byte // of the message at seq; nil where there is none
	created time.Time
	config  jetstream.StreamConfig
}

// end reads the stream's last sequence and the message there.
func (w *Writer) end(ctx context.Context) (end, error) {
	attempt, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	stream, err := w.site.js.Stream(attempt, w.id.Name())
	if err != nil {
		return end{}, err
	}
	info := stream.CachedInfo()
	e := end{seq: info.State.LastSeq, created: info.Created, config: info.Config}
	if info.State.Msgs == 0 {
		if e.seq != 0 {
			return end{}, errUnclaimed
		}
		return e, nil
	}
	m, err := stream.GetMsg(attempt, e.seq)
	if err != nil {
		return end{}, fmt.Errorf("read message %d: %w", e.seq, err)
	}
	h, _, err := events.DecodeHeader(w.id.Name(), e.seq, m.Data)
	if err != nil {
		return end{}, err
	}
	e.epoch, e.data = h.Epoch, m.Data
	return e, nil
}

// lostHint tells an operator how to go on without a stream that has lost history.
func (id StreamID) lostHint() string {
	return fmt.Sprintf("a server that lost power may have lost what it had not written to its disk; what the DR site has stays, "+
		"and a new history begins with the next generation: set key %s.%s of the primary's KV bucket %s to %d and start the writer again",
		id.Group, id.Part, GenerationBucket, id.Generation+1)
}

// lostConfirmed is how long a stream must go on to end below what it acknowledged before that is
// believed: a leader that has just been elected may not have applied everything yet.
const lostConfirmed = 3 * time.Second

// readBack finds out what is stored. It returns nil once it knows, or a final error.
func (w *Writer) readBack(ctx context.Context) error {
	var lostSince time.Time
	var told rarely
	for {
		e, err := w.end(ctx)
		if err == nil {
			err = w.judge(e)
			switch {
			case err == nil, errors.Is(err, ErrFenced):
				return err
			case lostSince.IsZero():
				lostSince = time.Now()
			case time.Since(lostSince) > lostConfirmed:
				return fmt.Errorf("%w (%s)", err, w.id.lostHint())
			}
		} else {
			lostSince = time.Time{}
			if errors.Is(err, jetstream.ErrStreamNotFound) {
				err = fmt.Errorf("%w (was it deleted? restore it, or start a new generation)", err)
			}
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
		return fmt.Errorf("%w: the stream was deleted and made again at %v", ErrHistoryLost, e.created)
	case e.seq < stored:
		return fmt.Errorf("%w: it ends at %d, %d was acknowledged", ErrHistoryLost, e.seq, stored)
	case e.epoch != w.epoch:
		return fmt.Errorf("%w: message %d is of epoch %d, ours is %d", ErrHistoryLost, e.seq, e.epoch, w.epoch)
	case e.seq > stored && string(ours) != string(e.data):
		return fmt.Errorf("%w: message %d is not the one that was sent", ErrHistoryLost, e.seq)
	case !w.chain.holds(e.config):
		// Nothing of ours can come behind what it holds now, whether or not the other writer
		// gets as far as its Epoch.
		return fmt.Errorf("%w: it takes messages on %v, not on %s", ErrFenced, e.config.Subjects, w.chain.subject)
	}
	w.advance(e.seq)
	return nil
}
