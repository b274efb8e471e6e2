package barrier

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

// errRenew is a control stream that the DR site can't follow any further.
var errRenew = errors.New("the DR site asks for a new generation")

// Run takes the control stream over from every earlier coordinator and makes barriers until ctx
// ends; it returns nil then. Other ends are journal.ErrFenced (a newer coordinator took over),
// ErrSuperseded (start again: a new epoch wins), and whatever keeps the stream from being made or
// read. An unreachable bus only makes barriers fail.
//
// A control stream that has lost history, or that can't be read any more, is not continued: once the DR
// site has told where it stands, a new generation begins there, with the roster and above every number and time
// that anybody knows. Until then no barrier is made.
//
// Run may be called once.
func (c *Coordinator) Run(ctx context.Context) error {
	unsubscribe, err := c.subscribe()
	if err != nil {
		return err
	}
	defer unsubscribe()
	c.call()
	g, ctx := errgroup.WithContext(ctx)
	stop := errors.New("ended")
	g.Go(func() error { return repair.ServeCapture(ctx, c.conn, c.o.Group, journal.Control, &mender{c}) })
	g.Go(func() error {
		for {
			err := c.tenure(ctx)
			if err == nil {
				return stop
			}
			if !beyondRepair(err) {
				return err
			}
			c.broken = max(c.broken, c.tenured.Swap(0))
			c.log.Error("control stream can't be continued, a new generation begins as soon as the DR site tells where it stands",
				"generation", c.broken, "error", err)
		}
	})
	if err := g.Wait(); !errors.Is(err, stop) {
		return err
	}
	return nil
}

// beyondRepair tells whether the history of the control stream ends with err.
func beyondRepair(err error) bool {
	var gap *journal.GapError
	var foreign *journal.EpochError
	var damaged *events.MessageError
	return errors.Is(err, journal.ErrHistoryLost) || errors.Is(err, errRenew) ||
		errors.As(err, &gap) || errors.As(err, &foreign) || errors.As(err, &damaged)
}

// tenure works in one generation of the control stream.
func (c *Coordinator) tenure(ctx context.Context) error {
	id, f, err := c.open(ctx)
	if err != nil {
		return c.ended(ctx, err)
	}
	whole := ctx
	g, ctx := errgroup.WithContext(ctx)
	stop := errors.New("loop ended")
	g.Go(func() error { return c.writer.Run(ctx) })
	g.Go(func() error {
		if err := c.takeOver(ctx, id, f); err != nil {
			return c.ended(whole, err)
		}
		select {
		case <-c.ready:
		default:
			close(c.ready)
		}
		if err := c.ended(whole, c.loop(ctx)); err != nil {
			return err
		}
		return stop
	})
	err = g.Wait()
	c.epoch = max(c.epoch, c.writer.Epoch())
	if errors.Is(err, stop) && whole.Err() != nil {
		return nil
	}
	return err
}

// ended turns the error of being cancelled into nil.
func (c *Coordinator) ended(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// open becomes the writer of the control stream's current generation. The foundation is what a generation
// begins on that nobody has written yet, else nil.
func (c *Coordinator) open(ctx context.Context) (journal.StreamID, *repair.Foundation, error) {
	id, f, err := c.generation(ctx)
	if err != nil {
		return id, nil, fmt.Errorf("find control stream: %w", err)
	}
	err = c.o.Site.EnsureStream(ctx, id, journal.StreamOptions{MaxBytes: c.o.MaxBytes, Replicas: c.o.Replicas})
	if err != nil {
		return id, nil, fmt.Errorf("make control stream: %w", err)
	}
	var base *events.Base
	if f != nil {
		base, c.epoch = f.Base, max(c.epoch, f.Epoch)
	}
	c.tenured.Store(id.Generation)
	recovery := repair.RecoveryOf(c.conn, c.o.Group)
	c.writer, err = c.o.Site.OpenWriter(ctx, id, journal.WriterOptions{
		Writer: c.o.Writer,
		Open:   func(uint64) *events.Epoch { return &events.Epoch{Writer: c.o.Writer, Base: base} },
		Above:  max(c.epoch, c.presence.newest().Epoch),
		Mirrored: func(ctx context.Context, generation uint32) (uint64, error) {
			return recovery.Stored(ctx, journal.Control, generation)
		},
		Heartbeat: func() *events.Heartbeat { return &events.Heartbeat{Missing: c.Missing()} },
		Log:       c.log,
		Meter:     c.o.Meter,
	})
	if err != nil {
		return id, nil, fmt.Errorf("take over control stream: %w", err)
	}
	return id, f, nil
}

// generation returns the generation to write: the current one, or a new one behind a broken one. One that has
// no history begins on what the DR site holds of those before it.
func (c *Coordinator) generation(ctx context.Context) (id journal.StreamID, f *repair.Foundation, err error) {
	for {
		n, err := c.o.Site.Generation(ctx, c.o.Group, journal.Control)
		if err != nil {
			return id, nil, err
		}
		id = journal.StreamID{Group: c.o.Group, Part: journal.Control, Generation: n}
		if n > c.broken {
			origin, _, err := c.o.Site.Origin(ctx, id)
			if err != nil {
				return id, nil, err
			}
			if origin.Last > 0 || n == 1 {
				return id, nil, nil
			}
			if f != nil && n > f.Newest {
				c.log.Info("a new generation of the control stream begins", "generation", n, "base", f.Base)
				return id, f, nil
			}
		}
		if f == nil {
			if f, err = c.found(ctx); err != nil {
				return id, nil, err
			}
		}
		if n <= c.broken || n <= f.Newest {
			if _, err := c.o.Site.Renew(ctx, c.o.Group, journal.Control, max(n, c.broken), f.Newest+1); err != nil {
				return id, nil, err
			}
		}
	}
}

// foundRetry is the pause between two questions to the DR site.
const foundRetry = 2 * time.Second

// found asks the DR site where the control stream's history ends, until it tells.
func (c *Coordinator) found(ctx context.Context) (*repair.Foundation, error) {
	var told time.Time
	for {
		f, err := repair.RecoveryOf(c.conn, c.o.Group).Found(ctx, journal.Control, "")
		if err == nil {
			return &f, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if time.Since(told) > repeatLog {
			told = time.Now()
			c.log.Warn("no barriers until the DR site tells where its history ends: check that its applier runs and that the link is up", "error", err)
		}
		if !pause(ctx, c.foundRetry) {
			return nil, ctx.Err()
		}
	}
}
