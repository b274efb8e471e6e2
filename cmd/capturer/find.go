package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/cdc/activity"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

// errForeign is a stream with a history that the activity log doesn't know.
var errForeign = errors.New("the activity log doesn't know the stream's history")

// hasher is cdc.Tenure's Hashes.
type hasher = func(ctx context.Context, off, length int64) ([][32]byte, error)

// start is how a tenure begins: on a generation with the history that the log knows, on the first one, or on a
// new one with a foundation at the DR site.
type start struct {
	id         journal.StreamID
	foundation *repair.Foundation // nil: none is needed
}

// find returns the generation to record into. Where the current one can't be continued it asks the DR site what
// a new one can begin on, until that tells; nothing of a stream is touched before.
func (t *tap) find(ctx context.Context) (start, error) {
	var f *repair.Foundation
	renewed := false
	for {
		n, err := t.tenure.site.Generation(ctx, t.env.Group.Metadata.Name, t.volume.Name)
		if err != nil {
			return start{}, err
		}
		id := journal.StreamID{Group: t.env.Group.Metadata.Name, Part: t.volume.Name, Generation: n}
		info, exists, err := t.tenure.site.Origin(ctx, id)
		if err != nil {
			return start{}, err
		}
		why := t.judge(n, info, exists)
		switch {
		case why == "":
			return start{id: id}, nil
		case f != nil && n > max(f.Newest, t.tenure.broken) && info.Last == 0 && (!exists || info.UID == t.volume.UID):
			t.log.Info("a new generation begins", "generation", n, "base", f.Base, "reason", why)
			return start{id: id, foundation: f}, nil
		}
		if f == nil || renewed && info.Last > 0 { // nothing was asked yet, or somebody was faster
			if f, err = t.found(ctx, why); err != nil {
				return start{}, err
			}
			renewed = false
			continue
		}
		known, _ := t.activity.Tenure()
		if _, err := t.tenure.site.Renew(ctx, id.Group, id.Part, max(n, t.tenure.broken, known.Generation), f.Newest+1); err != nil {
			return start{}, err
		}
		renewed = true
	}
}

// judge tells why generation n can't be continued from what the log knows; "": it can, or it is the very first.
// The rest is judged when it was taken over.
func (t *tap) judge(n uint32, info journal.StreamInfo, exists bool) string {
	known, acked := t.activity.Tenure()
	reason, fresh := t.fresh()
	switch {
	case n <= t.tenure.broken:
		return t.tenure.why
	case exists && info.UID != t.volume.UID:
		return fmt.Sprintf("the stream is of the volume with the UID %q", info.UID)
	case known.Generation > n:
		return fmt.Sprintf("the activity log knows generation %d already", known.Generation)
	case info.Last == 0 && n == 1 && known.Generation == 0:
		return ""
	case info.Last == 0 && known.Generation == n:
		return "the stream is gone"
	case info.Last == 0:
		return "nothing was recorded in this generation yet"
	case fresh:
		return reason
	case known.Generation < n:
		return fmt.Sprintf("the activity log knows generation %d only: the volume was served elsewhere", known.Generation)
	case !known.Created.Equal(info.Created):
		return "the stream was made again"
	case info.Last < acked:
		return fmt.Sprintf("the stream ends at %d, %d was acknowledged", info.Last, acked)
	}
	return ""
}

// fresh tells whether the log knows of no stream, and why: it did not when it was opened, and follows none since.
func (t *tap) fresh() (reason string, fresh bool) {
	if t.tenure.adopted > 0 {
		return "", false
	}
	return t.activity.Fresh()
}

// found asks the DR site what a new generation can begin on, until it tells.
func (t *tap) found(ctx context.Context, why string) (*repair.Foundation, error) {
	for {
		f, err := t.tenure.recovery.Found(ctx, t.volume.Name, t.volume.UID)
		if err == nil {
			return &f, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		t.trouble("nothing is recorded until the DR site tells what it holds of the volume", fmt.Errorf("%w (needed because: %s)", err, why))
		if !pause(ctx, retryEvery) {
			return nil, ctx.Err()
		}
	}
}

// lay makes stale whatever the foundation may lack, and returns how it is compared with that. Where the log covers
// what was lost behind the base those regions are enough; else it is everything.
func (t *tap) lay(s start, known activity.Stream) (events.PassKind, hasher) {
	base := s.foundation.Base
	if base == nil {
		t.activity.AllStale()
		return events.PassSeed, nil
	}
	// The log knows the base's history if nobody else has written to it since.
	ours := t.tenure.adopted == known.Generation || s.foundation.Epoch != 0 && s.foundation.Epoch <= known.Epoch
	if _, fresh := t.fresh(); fresh || !ours || known.Generation != base.Generation {
		t.activity.AllStale()
		t.log.Info("the whole volume is compared with its replica", "bytes", t.activity.StaleBytes())
	} else {
		covered := t.activity.Lost(base.Seq)
		t.log.Info("what the journal has lost is sent again", "bytes", t.activity.StaleBytes(), "covered", covered)
	}
	volume, at := t.volume.Name, *base
	return events.PassResync, func(ctx context.Context, off, length int64) ([][32]byte, error) {
		return t.tenure.recovery.Hashes(ctx, volume, at, off, length)
	}
}

// mostEmpty is how many messages without content are read back.
const mostEmpty = 512

// uninterrupted returns errForeign if anybody has put content into the stream behind the tenure of the epoch that
// the log knows. Tenures that ended before they recorded anything leave Epochs and heartbeats.
func (t *tap) uninterrupted(ctx context.Context, w *journal.Writer, known uint64) error {
	if w.PreviousEpoch() == known {
		return nil
	}
	stream, err := t.tenure.site.JetStream().Stream(ctx, w.ID().Name())
	if err != nil {
		return fmt.Errorf("read back stream %s: %w", w.ID().Name(), err)
	}
	for seq := w.Previous(); seq > 0 && w.Previous()-seq < mostEmpty; seq-- {
		m, err := stream.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return fmt.Errorf("read back stream %s: %w", w.ID().Name(), err)
		}
		h, e, err := events.Decode(w.ID().Name(), seq, m.Data)
		if err != nil || h.Epoch < known {
			break
		}
		if h.Epoch == known {
			return nil
		}
		switch e.(type) {
		case *events.Epoch, *events.Heartbeat:
		default:
			return fmt.Errorf("%w: message %d was recorded by a writer of epoch %d, the log was kept by that of epoch %d", errForeign, seq, h.Epoch, known)
		}
	}
	return fmt.Errorf("%w: it was kept by a writer of epoch %d, the stream's last one has %d", errForeign, known, w.PreviousEpoch())
}

func activityStream(w *journal.Writer) activity.Stream {
	return activity.Stream{Generation: w.ID().Generation, Created: w.Created(), Epoch: w.Epoch()}
}
