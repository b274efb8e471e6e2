package main

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/farshore/farshore/pkg/barrier"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
	"github.com/farshore/farshore/pkg/resourcewatch"
	"github.com/farshore/farshore/pkg/resourcewatch/selection"
)

// watching is the process's part in the group's objects: while the document has objects it competes to be the one that watches
// them, and the one that is chosen records them into the objects stream.
type watching struct {
	capturer  *capturer
	config    *rest.Config // of the API server
	namespace string       // of the Lease; "": the first of the objects'
	log       *slog.Logger

	site, control *journal.Site
	recovery      repair.Recovery
	broken        uint32    // highest generation that can't be continued; 0: none
	told          string    // trouble, as last reported
	toldAt        time.Time // when

	tenure tenure // only what its lock guards

	mu      sync.Mutex
	wanted  *group.Objects // by the document; nil: none
	changed chan struct{}  // closed and replaced when wanted changes
}

func newWatching(c *capturer, config *rest.Config, namespace string) *watching {
	return &watching{
		capturer: c, config: config, namespace: namespace, log: c.env.Log.With("part", journal.Objects),
		wanted: c.env.Group.Spec.Objects, changed: make(chan struct{}),
	}
}

// want makes the process follow a changed document.
func (w *watching) want(o *group.Objects) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !reflect.DeepEqual(w.wanted, o) {
		w.wanted = o
		close(w.changed)
		w.changed = make(chan struct{})
	}
}

func (w *watching) wants() (*group.Objects, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wanted, w.changed
}

// run competes and watches until ctx ends. Nothing of it ends the process.
func (w *watching) run(ctx context.Context) error {
	var err error
	if w.site, err = w.capturer.env.Primary(ctx); err == nil {
		w.control, err = w.capturer.env.PrimaryControl(ctx)
	}
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	w.recovery = repair.RecoveryOf(w.control.Conn(), w.group())
	for ctx.Err() == nil {
		o, changed := w.wants()
		if o == nil {
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		w.follow(ctx, o)
	}
	return nil
}

// follow competes for as long as the document wants these objects. A change of the selection begins a new tenure with it: what
// belongs to the group no longer is deleted from the stream, as what exists no longer.
func (w *watching) follow(ctx context.Context, o *group.Objects) {
	namespace := w.namespace
	if namespace == "" {
		namespace = o.Namespaces[0]
	}
	e, err := newElection(w.config, namespace, w.group(), w.capturer.writer, w.log)
	if err != nil {
		w.log.Error("objects can't be watched", "error", err)
		return
	}
	competing, stop := context.WithCancel(ctx)
	defer stop()
	var work sync.WaitGroup
	work.Go(func() {
		defer stop()
		for {
			is, changed := w.wants()
			if is == nil || w.namespace == "" && is.Namespaces[0] != namespace {
				w.log.Info("the document changes who watches the objects: the Lease is given back")
				return
			}
			select {
			case <-competing.Done():
				return
			case <-changed:
			}
		}
	})
	e.run(competing, w.lead)
	stop()
	work.Wait()
}

// lead watches while this process is chosen, with one selection after the other.
func (w *watching) lead(ctx context.Context) {
	for ctx.Err() == nil {
		o, changed := w.wants()
		if o == nil {
			return
		}
		selected, stop := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			select {
			case <-selected.Done():
			case <-changed:
				stop()
			}
		}()
		err := w.watch(selected, o)
		stop()
		<-done
		if err != nil && ctx.Err() == nil {
			w.log.Error("the objects are left to another capturer", "error", err)
			return
		}
	}
}

// watch watches what one selection selects, and records it, until ctx ends or another writer fences this one.
func (w *watching) watch(ctx context.Context, o *group.Objects) error {
	s, err := selection.New(rulesOf(o))
	if err != nil {
		return err
	}
	watcher, err := resourcewatch.New(resourcewatch.Options{
		Config: w.config, Group: w.group(), Selection: s, Recipients: o.Recipients,
		Log: w.log, Meter: w.capturer.env.Telemetry.Meter(scopeWatch),
	})
	if err != nil {
		return err
	}
	w.log.Info("this capturer watches the objects", "namespaces", o.Namespaces, "selector", o.Selector, "encrypted", len(o.Recipients) > 0)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return watcher.Run(ctx) })
	g.Go(func() error {
		return repair.ServeCapture(ctx, w.control.Conn(), w.group(), journal.Objects, newWatchMender(w))
	})
	g.Go(func() error {
		for ctx.Err() == nil {
			err := w.record(ctx, watcher)
			switch {
			case ctx.Err() != nil:
				return nil
			case errors.Is(err, journal.ErrFenced):
				return err
			case errors.Is(err, journal.ErrHistoryLost), errors.Is(err, errRenew):
				w.log.Error("the objects stream can't be continued, a new generation begins as soon as the DR site tells which it knows",
					"generation", w.broken, "error", err)
				continue
			case err != nil:
				w.trouble("objects are not recorded yet, trying again", err)
			}
			pause(ctx, retryEvery)
		}
		return nil
	})
	return g.Wait()
}

// record opens a generation of the objects stream and records into it. An error that means that it can't be continued has noted so.
func (w *watching) record(ctx context.Context, watcher *resourcewatch.Watcher) (err error) {
	id, err := w.find(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if errors.Is(err, journal.ErrHistoryLost) || errors.Is(err, errRenew) {
			w.broken = max(w.broken, id.Generation)
		}
	}()
	writer, memory, err := w.open(ctx, id, watcher)
	if err != nil {
		return err
	}
	tenure, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w.tenure.set(writer, cancel)
	defer w.tenure.set(nil, nil)
	w.told = ""
	w.log.Info("recording objects", "generation", id.Generation, "epoch", writer.Epoch(), "known", len(memory.known))

	// The writer outlives the recording: what was appended is stored and noted, so that it isn't sent again.
	writing, end := context.WithCancel(context.WithoutCancel(tenure))
	defer end()
	g, gctx := errgroup.WithContext(tenure)
	g.Go(func() error { return writer.Run(writing) })
	g.Go(func() error {
		defer end()
		return watcher.Record(gctx, writer, memory)
	})
	g.Go(func() error {
		info := barrier.Info{Generation: id.Generation, Epoch: writer.Epoch()}
		return barrier.ServeObjects(gctx, w.control.Conn(), id.Group, info, objectsVoter{watcher})
	})
	if err = g.Wait(); err == nil && errors.Is(context.Cause(tenure), errRenew) {
		err = context.Cause(tenure)
	}
	return err
}

// open makes the stream where it is missing and takes it over, with what is remembered of it.
func (w *watching) open(ctx context.Context, id journal.StreamID, watcher *resourcewatch.Watcher) (*journal.Writer, *memory, error) {
	spec := w.capturer.env.Group.Spec.Journal
	err := w.site.EnsureStream(ctx, id, journal.StreamOptions{MaxBytes: int64(spec.MaxBytes), Replicas: spec.Replicas})
	if err != nil {
		return nil, nil, err
	}
	// Read before the takeover: an entry says that its event was stored, and a stream that lacks it is not continued.
	before, err := openMemory(ctx, w.site, id)
	if err != nil {
		return nil, nil, err
	}
	writer, err := w.site.OpenWriter(ctx, id, journal.WriterOptions{
		Writer: w.capturer.writer,
		Open:   func(uint64) *events.Epoch { return &events.Epoch{Writer: w.capturer.writer} },
		Acked:  before.acked, Created: before.created,
		Mirrored: func(ctx context.Context, generation uint32) (uint64, error) {
			return w.recovery.Stored(ctx, journal.Objects, generation)
		},
		Heartbeat: func() *events.Heartbeat {
			bytes, since := watcher.Debt()
			h := &events.Heartbeat{DebtBytes: bytes}
			if bytes > 0 {
				h.DebtAge = max(0, time.Since(since))
			}
			return h
		},
		Trim: &journal.TrimOptions{Margin: time.Duration(spec.Margin)},
		Log:  w.log, Meter: w.capturer.env.Telemetry.Meter(scopeJournal),
	})
	if err != nil {
		return nil, nil, err
	}
	// Read again behind it: what the writer before noted until it was fenced.
	memory, err := openMemory(ctx, w.site, id)
	if err == nil {
		err = memory.begin(ctx, writer.Created())
	}
	if err != nil {
		return nil, nil, err
	}
	return writer, memory, nil
}

// find returns the generation to record into. A new one, behind one that can't be continued, is above every one that the
// DR site knows; it has no base, everything is sent again.
func (w *watching) find(ctx context.Context) (journal.StreamID, error) {
	known, asked := uint32(0), false
	for {
		n, err := w.site.Generation(ctx, w.group(), journal.Objects)
		if err != nil {
			return journal.StreamID{}, err
		}
		id := journal.StreamID{Group: w.group(), Part: journal.Objects, Generation: n}
		if n > w.broken && n > known {
			if n == 1 || asked {
				return id, nil
			}
			origin, _, err := w.site.Origin(ctx, id)
			if err != nil {
				return journal.StreamID{}, err
			}
			if origin.Last > 0 { // somebody has written it
				return id, nil
			}
		}
		if !asked {
			if known, err = w.newest(ctx); err != nil {
				return journal.StreamID{}, err
			}
			asked = true
			continue
		}
		if _, err := w.site.Renew(ctx, w.group(), journal.Objects, max(n, w.broken), known+1); err != nil {
			return journal.StreamID{}, err
		}
	}
}

// newest asks the DR site for the newest generation of the objects stream that it knows, until it tells.
func (w *watching) newest(ctx context.Context) (uint32, error) {
	for {
		f, err := w.recovery.Found(ctx, journal.Objects, "")
		if err == nil {
			return f.Newest, nil
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		w.trouble("objects are not recorded until the DR site tells which generations it knows: check that its applier runs and that the link is up", err)
		if !pause(ctx, retryEvery) {
			return 0, ctx.Err()
		}
	}
}

func (w *watching) group() string { return w.capturer.env.Group.Metadata.Name }

// trouble reports what keeps the objects from being recorded, when it changes and from time to time.
func (w *watching) trouble(message string, err error) {
	if err.Error() == w.told && time.Since(w.toldAt) < repeatAfter {
		return
	}
	w.told, w.toldAt = err.Error(), time.Now()
	w.log.Warn(message, "error", err)
}

// rulesOf is what the document says as the selection takes it.
func rulesOf(o *group.Objects) selection.Rules {
	patterns := func(list []group.ObjectPattern) (out []selection.Pattern) {
		for _, p := range list {
			out = append(out, selection.Pattern(p))
		}
		return out
	}
	return selection.Rules{Namespaces: o.Namespaces, Selector: o.Selector, LeaveOut: patterns(o.LeaveOut), Keep: patterns(o.Keep)}
}

// objectsVoter is the watcher as a barrier asks it.
type objectsVoter struct{ *resourcewatch.Watcher }

// Mark implements barrier.ObjectsTap.
func (v objectsVoter) Mark(ctx context.Context, t events.Token) (barrier.ObjectsMarked, error) {
	m, err := v.Watcher.Mark(ctx, t)
	return barrier.ObjectsMarked(m), err
}
