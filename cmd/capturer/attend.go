package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/pkg/barrier"
	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

const (
	retryEvery  = 2 * time.Second  // between two attempts to get a journal
	repeatAfter = 30 * time.Second // between two reports of the same trouble
)

// errRenew is a generation that the DR site can't follow any further.
var errRenew = errors.New("the DR site asks for a new generation")

// tenure is what a tap knows of the generation that it records into. Its lock guards what other goroutines
// than attend's look at.
type tenure struct {
	site, control *journal.Site
	recovery      repair.Recovery
	broken        uint32 // highest generation that can't be continued; 0: none
	why           string // it can't
	adopted       uint32 // newest generation that the log follows since this process has opened it; 0: none
	told          string // trouble, as last reported
	toldAt        time.Time

	mu     sync.Mutex
	writer *journal.Writer // nil: nothing is recorded
	renew  context.CancelCauseFunc
}

// attend finds the journal and records into it until ctx ends, from one generation of the stream to the
// next. While there is none the recorder is detached and the volume served.
func (t *tap) attend(ctx context.Context) (err error) {
	if t.tenure.site, err = t.env.Primary(ctx); err == nil {
		t.tenure.control, err = t.env.PrimaryControl(ctx)
	}
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	conn, group := t.tenure.control.Conn(), t.env.Group.Metadata.Name
	t.tenure.recovery = repair.RecoveryOf(conn, group)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return repair.ServeCapture(ctx, conn, group, t.volume.Name, newMender(t)) })
	g.Go(func() error {
		for ctx.Err() == nil {
			err := t.record(ctx)
			switch {
			case ctx.Err() != nil, errors.Is(err, cdc.ErrStopped):
				return nil // the recorder's Run tells why
			case errors.Is(err, journal.ErrFenced):
				t.recorder.Stop(err) // it may not know: the writer was fenced before anything was recorded into it
				return nil
			case errors.Is(err, journal.ErrHistoryLost), errors.Is(err, errRenew), errors.Is(err, errForeign):
				t.log.Error("the stream can't be continued, a new generation begins as soon as the DR site tells where it stands",
					"generation", t.tenure.broken, "error", err)
				continue
			case err != nil:
				t.trouble("nothing is recorded yet, trying again", err)
			}
			pause(ctx, retryEvery)
		}
		return nil
	})
	return g.Wait()
}

// trouble reports what keeps the volume from being recorded, when it changes and from time to time.
func (t *tap) trouble(message string, err error) {
	if err.Error() == t.tenure.told && time.Since(t.tenure.toldAt) < repeatAfter {
		return
	}
	t.tenure.told, t.tenure.toldAt = err.Error(), time.Now()
	t.log.Warn(message, "error", err, "bytes", t.activity.StaleBytes())
}

// record opens one generation of the stream and records into it. An error that means that it can't be continued
// has noted so.
func (t *tap) record(ctx context.Context) (err error) {
	s, err := t.find(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if errors.Is(err, journal.ErrHistoryLost) || errors.Is(err, errRenew) || errors.Is(err, errForeign) {
			t.tenure.broken, t.tenure.why = max(t.tenure.broken, s.id.Generation), err.Error()
		}
	}()
	writer, size, err := t.openWriter(ctx, s)
	if err != nil {
		return err
	}
	pass, hashes, err := t.begin(ctx, s, writer)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t.tenure.set(writer, cancel)
	defer t.tenure.set(nil, nil)
	t.tenure.told = ""
	t.log.Info("recording", "generation", s.id.Generation, "epoch", writer.Epoch(), "bytes", t.activity.StaleBytes())

	whole := ctx
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return writer.Run(ctx) })
	g.Go(func() error {
		return t.recorder.Record(ctx, writer, cdc.Tenure{Pass: pass, Size: size, Hashes: hashes})
	})
	g.Go(func() error {
		info := barrier.Info{UID: t.volume.UID, Generation: s.id.Generation, Epoch: writer.Epoch(), Size: size}
		return barrier.Serve(ctx, t.tenure.control.Conn(), s.id.Group, t.volume.Name, info, voter{t.recorder, writer})
	})
	if err = g.Wait(); err == nil && errors.Is(context.Cause(whole), errRenew) {
		err = context.Cause(whole)
	}
	return err
}

func (t *tenure) set(w *journal.Writer, renew context.CancelCauseFunc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.writer, t.renew = w, renew
}

// openWriter makes the stream where it is missing and takes it over. Size is what the stream is told that the
// volume has.
func (t *tap) openWriter(ctx context.Context, s start) (w *journal.Writer, size int64, err error) {
	spec := t.env.Group.Spec.Journal
	size = t.recorder.Size()
	err = t.tenure.site.EnsureStream(ctx, s.id, journal.StreamOptions{
		UID: t.volume.UID, Size: size, MaxBytes: int64(spec.MaxBytes), Replicas: spec.Replicas,
	})
	if err != nil {
		return nil, 0, err
	}
	var base *events.Base
	if s.foundation != nil {
		base = s.foundation.Base
	}
	o := journal.WriterOptions{
		Writer: t.writer,
		Open: func(uint64) *events.Epoch {
			return &events.Epoch{Writer: t.writer, UID: t.volume.UID, Size: size, BlockSize: t.device.BlockSize(), Base: base}
		},
		Mirrored: func(ctx context.Context, generation uint32) (uint64, error) {
			return t.tenure.recovery.Stored(ctx, t.volume.Name, generation)
		},
		Heartbeat: t.recorder.Heartbeat,
		Trim:      &journal.TrimOptions{Margin: time.Duration(spec.Margin)},
		Log:       t.log, Meter: t.env.Telemetry.Meter(scopeJournal),
	}
	if stream, acked := t.activity.Tenure(); stream.Generation == s.id.Generation {
		o.Acked, o.Created = acked, stream.Created
	}
	if w, err = t.tenure.site.OpenWriter(ctx, s.id, o); err != nil {
		return nil, 0, err
	}
	return w, size, nil
}

// begin makes the activity log follow the stream that was opened: nothing is known to be there that the log
// doesn't know of. It returns what the recorder begins with.
func (t *tap) begin(ctx context.Context, s start, w *journal.Writer) (pass events.PassKind, hashes hasher, err error) {
	known, _ := t.activity.Tenure()
	switch {
	case s.foundation != nil && w.Previous() > 0:
		return 0, nil, fmt.Errorf("%w: somebody else began generation %d", errForeign, s.id.Generation)
	case s.foundation != nil:
		pass, hashes = t.lay(s, known)
	case w.Previous() == 0:
		// The first of all: everything is stale already, since the log knows no stream.
	default:
		if err := t.uninterrupted(ctx, w, known.Epoch); err != nil {
			return 0, nil, err
		}
	}
	if err := t.activity.Adopt(activityStream(w)); err != nil {
		return 0, nil, fmt.Errorf("note the stream in the activity log: %w", err)
	}
	t.tenure.adopted = s.id.Generation
	return pass, hashes, nil
}

// pause waits; it returns false where ctx ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// voter is the recorder as it votes in one tenure: a mark that went into another one is no vote of this.
type voter struct {
	*cdc.Recorder
	writer *journal.Writer
}

// Mark implements barrier.Tap.
func (v voter) Mark(ctx context.Context, token events.Token) (cdc.Marked, error) {
	m, err := v.Recorder.Mark(ctx, token)
	if err == nil && m.Journal != cdc.Journal(v.writer) {
		return cdc.Marked{}, cdc.ErrNotReady
	}
	return m, err
}
