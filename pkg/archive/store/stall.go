package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"
)

// stallWatch cancels a request of which nothing has passed for a while: a server that was stopped, or a network that swallows packets, gives no
// error for as long as its connection lives.
type stallWatch struct {
	limit  time.Duration
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

func watchStall(ctx context.Context, limit time.Duration) (context.Context, *stallWatch) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &stallWatch{limit: limit, cancel: cancel}
	w.timer = time.AfterFunc(limit, func() { cancel(fmt.Errorf("nothing of it passed in %v", limit)) })
	return ctx, w
}

// passed notes that something of the request passed; it also ends a pause.
func (w *stallWatch) passed() { w.timer.Reset(w.limit) }

// pause keeps the watch from the time that is somebody else's.
func (w *stallWatch) pause() { w.timer.Stop() }

func (w *stallWatch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

type watchedReader struct {
	bytes.Reader
	watch *stallWatch
}

// Read implements io.Reader.
func (r *watchedReader) Read(p []byte) (int, error) {
	r.watch.passed()
	return r.Reader.Read(p)
}

// WriteTo implements io.WriterTo, in pieces that show progress.
func (r *watchedReader) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{r})
}

type watchedBody struct {
	io.Reader
	watch *stallWatch
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.watch.passed()
	return n, err
}
