package archive

import (
	"context"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/internal/grid"
)

// Sink takes what is restored, in the order of offsets, from one goroutine.
type Sink interface {
	io.WriterAt
	// Zero makes a range read as zeros. It is called for every range that the part has no data in.
	Zero(off, length int64) error
}

// RestoreOptions shape a Restore.
type RestoreOptions struct {
	From int64 // what lies before is there already: as Done told it
	Sink Sink
	// Done is called when everything before an offset was given to Sink; it may make that durable. It is called beside Sink's methods, so that
	// what comes next doesn't wait for that, but never twice at once, and for the last time before Restore returns. Nil: nobody
	// wants to know.
	Done func(upTo int64) error
	// Progress is told of bytes of the part that were restored, zeros included. Nil: nobody is.
	Progress func(bytes int64)
}

const (
	// windowsAhead is how many windows are held at once: one is given to the sink while the next ones are fetched.
	windowsAhead = 2
	// pieceChunks is how many chunks a sink is given at once, at most.
	pieceChunks = 16
)

// Restore gives a part's content to a sink. Every chunk is verified by its name before it is given: there are the right
// bytes, or an error. What is damaged is a *DamageError; everything before it was given. It holds up to 128 MiB of content, however
// large the part is.
func (a *Archive) Restore(ctx context.Context, p Part, o RestoreOptions) error {
	if o.From < 0 || o.From > p.Size {
		return fmt.Errorf("restore %s from %d on: it has %d bytes", p.Name, o.From, p.Size)
	}
	r := restore{
		a: a, o: o, windows: make(chan *window, windowsAhead), queue: make(chan *request), buffers: make(chan []byte, windowsAhead),
	}
	if o.From == p.Size {
		return r.finish(p.Size)
	}
	for range windowsAhead {
		r.buffers <- nil // made when it is needed
	}
	return r.run(ctx, p)
}

// restore is a Restore that is under way. The tree is walked by one goroutine, which plans windows and queues their requests; those are
// served by others; a window is given to the sink from its beginning on as soon as that is there.
type restore struct {
	a       *Archive
	o       RestoreOptions
	windows chan *window
	queue   chan *request
	buffers chan []byte // that are free
	marking chan error  // how the call of Done that is under way ended; nil: none is
}

func (r *restore) run(ctx context.Context, p Part) error {
	g, ctx := errgroup.WithContext(ctx)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g.Go(func() error {
		defer close(r.windows)
		defer close(r.queue)
		from := r.o.From / grid.Chunk
		cut := newWindows(p.Size, from, windowChunks, func(w *window) error { return r.fill(ctx, w) })
		err := r.a.walk(ctx, p.Root, p.Size, from, cut.visitor())
		if flushed := cut.flush(); err == nil {
			err = flushed
		}
		if err != nil {
			return r.send(ctx, &window{err: err}) // behind what is there before it
		}
		return nil
	})
	for range r.a.requests {
		g.Go(func() error {
			for q := range r.queue {
				q.serve(ctx, r.a)
			}
			return nil
		})
	}
	err := r.deliver(ctx, p.Size)
	if marked := r.marked(); err == nil {
		err = marked
	}
	if err == nil {
		err = r.finish(p.Size)
	}
	cancel(err)
	if others := g.Wait(); err == nil {
		err = others
	}
	return err
}

func (r *restore) send(ctx context.Context, w *window) error {
	select {
	case r.windows <- w:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// fill queues what a window is filled by.
func (r *restore) fill(ctx context.Context, w *window) error {
	if len(w.ids) > 0 {
		select {
		case w.buf = <-r.buffers:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if len(w.buf) < w.bytes() {
			w.buf = make([]byte, w.bytes())
		}
	}
	list, err := w.requests(ctx, r.a)
	if err != nil {
		return err
	}
	if err := r.send(ctx, w); err != nil {
		return err
	}
	for _, q := range list {
		select {
		case r.queue <- q:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// deliver gives windows to the sink.
func (r *restore) deliver(ctx context.Context, size int64) error {
	at := r.o.From
	for {
		var w *window
		var more bool
		select {
		case w, more = <-r.windows:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !more {
			break
		}
		if w.err != nil {
			return w.err
		}
		for _, s := range w.stretches {
			if err := r.give(ctx, w, s); err != nil {
				return err
			}
			at = s.off + s.length
		}
		if w.buf != nil {
			r.buffers <- w.buf
		}
		if err := r.mark(at); err != nil {
			return err
		}
	}
	if at != size {
		return fmt.Errorf("the tree ends at %d of %d bytes", at, size)
	}
	return nil
}

// mark calls Done, if it isn't being called already.
func (r *restore) mark(upTo int64) error {
	if r.o.Done == nil {
		return nil
	}
	if r.marking != nil {
		if len(r.marking) == 0 {
			return nil // the next mark tells more
		}
		if err := r.marked(); err != nil {
			return err
		}
	}
	ended := make(chan error, 1)
	r.marking = ended
	go func() { ended <- r.o.Done(upTo) }()
	return nil
}

// marked waits for the call of Done that is under way.
func (r *restore) marked() error {
	if r.marking == nil {
		return nil
	}
	err := <-r.marking
	r.marking = nil
	return err
}

// finish calls Done for the last time.
func (r *restore) finish(size int64) error {
	if r.o.Done == nil {
		return nil
	}
	return r.o.Done(size)
}

func (r *restore) progress(bytes int64) {
	if r.o.Progress != nil {
		r.o.Progress(bytes)
	}
}

// give gives a range to the sink, from From on: zeros at once, content in pieces as they are there.
func (r *restore) give(ctx context.Context, w *window, s stretch) error {
	if s.n == 0 {
		off := max(s.off, r.o.From)
		length := s.off + s.length - off
		if err := r.o.Sink.Zero(off, length); err != nil {
			return fmt.Errorf("restore %d bytes at %d: %w", length, off, err)
		}
		r.progress(length)
		return nil
	}
	off := s.off
	for i, end := s.first, s.first+s.n; i < end; {
		select {
		case <-w.of[i].done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := w.of[i].err; err != nil {
			return err
		}
		first := i
		for i++; i < end && i-first < pieceChunks && w.of[i].ready(); i++ {
		}
		piece, from := w.buf[first*grid.Chunk:min(i*grid.Chunk, w.bytes())], off
		off += int64(len(piece))
		if skip := r.o.From - from; skip > 0 { // From lies in this chunk
			piece, from = piece[skip:], r.o.From
		}
		if _, err := r.o.Sink.WriteAt(piece, from); err != nil {
			return fmt.Errorf("restore %d bytes at %d: %w", len(piece), from, err)
		}
		r.progress(int64(len(piece)))
	}
	return nil
}
