package journal

import (
	"context"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/events"
)

// Reserve is how many bytes a stream with a limit may hold beyond it: content stops at the limit, and what is
// left serves marks, passes' ends and heartbeats, and takeovers last of all. It lasts for more than half a day of
// heartbeats.
const Reserve = 16 << 20

// metaReserve is the metadata key of the reserve that a stream's limit includes.
const metaReserve = "farshore.reserve"

// How often the bytes that a stream holds are read.
const (
	roomEvery  = 5 * time.Second        // while it is near its limit
	roomHeld   = 250 * time.Millisecond // while content waits for room
	roomNear   = 4                      // near: a quarter of the limit is left, or less
	roomPerMsg = 320                    // bytes that a server needs for a message beside its content, at most
)

// room is what a writer knows of its stream's limit. Writer.mu guards it.
type room struct {
	limit   int64 // bytes that content may fill; 0: no limit
	reserve int64 // bytes behind the limit
	used    int64 // bytes stored or on their way, as far as known
	stored  int64 // bytes that were acknowledged since the writer began
	held    int   // Appends that wait for room
	wanted  int64 // bytes that one of them waits for
	full    bool  // the stream was looked at, and that is more than it has
}

// limits notes the stream's limit as it is configured now.
func (r *room) limits(config jetstream.StreamConfig) {
	r.limit, r.reserve = 0, 0
	if config.MaxBytes > 0 {
		// Streams that older versions made have no reserve.
		r.reserve, _ = strconv.ParseInt(config.Metadata[metaReserve], 10, 64)
		r.limit = max(config.MaxBytes-r.reserve, 1)
	}
}

// admits tells whether n more bytes of content fit.
func (r *room) admits(n int64) bool { return r.limit == 0 || r.reserve == 0 || r.used+n <= r.limit }

// beats tells whether heartbeats may go on: half of the reserve is the takeovers'.
func (r *room) beats() bool { return r.limit == 0 || r.reserve == 0 || r.used <= r.limit+r.reserve/2 }

// near tells whether it is worth knowing exactly what the stream holds.
func (r *room) near() bool {
	return r.limit > 0 && r.reserve > 0 && (r.held > 0 || r.used > r.limit-r.limit/roomNear)
}

// content tells whether e stops at the limit. Everything else is small, and others wait for it.
func content(e events.Event) bool {
	switch e.(type) {
	case *events.Frame, *events.RegionHash, *events.Object:
		return true
	}
	return false
}

// hold waits while there is no room for n bytes of content. w.mu is held before and after, and not meanwhile. An
// error is ctx's.
func (w *Writer) hold(ctx context.Context, n int64) error {
	for w.err == nil && !w.room.admits(n) {
		w.room.held++
		w.room.wanted = n
		changed := w.changed
		w.mu.Unlock()
		w.measureSoon()
		var err error
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-changed:
		}
		w.mu.Lock()
		w.room.held--
		if err != nil {
			return err
		}
	}
	return nil
}

// isRefused tells whether the server refuses what is at the head of the queue.
func (w *Writer) isRefused() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refused
}

// mayBeat tells whether there is room for heartbeats.
func (w *Writer) mayBeat() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.room.beats() {
		return true
	}
	w.measureSoon()
	return false
}

// short tells whether little room is left.
func (w *Writer) short() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.room.near()
}

func (w *Writer) measureSoon() {
	select {
	case w.measures <- struct{}{}:
	default:
	}
}

// measure keeps what is known of the stream's room true: what was trimmed makes room, and so does a limit that was
// raised. It asks nothing while there is plenty.
func (w *Writer) measure(ctx context.Context) {
	var last time.Time
	for {
		w.mu.Lock()
		held, near := w.room.held > 0, w.room.near()
		w.mu.Unlock()
		var due <-chan time.Time
		switch {
		case held:
			due = time.After(roomHeld)
		case near:
			due = time.After(roomEvery)
		}
		select {
		case <-ctx.Done():
			return
		case <-w.measures:
			if !pause(ctx, time.Until(last.Add(roomHeld))) {
				return
			}
		case <-due:
		}
		if err := w.look(ctx); err != nil && ctx.Err() == nil {
			w.log.Debug("the stream's size can't be read", "error", err)
		}
		last = time.Now()
	}
}

// look reads what the stream holds.
func (w *Writer) look(ctx context.Context) error {
	attempt, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	w.mu.Lock()
	before := w.room.stored
	w.mu.Unlock()
	stream, err := w.site.js.Stream(attempt, w.id.Name())
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	w.mu.Lock()
	was := w.isFull()
	w.room.limits(info.Config)
	// What was stored meanwhile may be missing in the answer.
	w.room.used = int64(info.State.Bytes) + w.room.stored - before
	for i := len(w.pending) - 1; i >= 0 && w.stored+uint64(i)+1 > info.State.LastSeq; i-- {
		w.room.used += int64(len(w.pending[i].data)) + roomPerMsg
	}
	w.room.full = w.room.held > 0 && !w.room.admits(w.room.wanted)
	is := w.isFull()
	w.notify()
	w.mu.Unlock()
	w.showFull(was, is)
	return nil
}

// showFull tells whoever watches when the stream becomes full, and when it has room again.
func (w *Writer) showFull(was, is bool) {
	if is && !was {
		w.log.Warn("the stream is full: waiting until the DR site has stored more, or raise its max_bytes")
	}
	if was && !is {
		w.log.Info("the stream has room again")
	}
	if was != is {
		w.metrics.setFull(is)
	}
}
