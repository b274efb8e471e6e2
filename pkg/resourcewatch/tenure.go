package resourcewatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/resourcewatch/selection"
)

// failingGrace is how long a tenure waits at its beginning for a kind that can't be read.
const failingGrace = 30 * time.Second

// flushTime is how long a tenure's end waits for what it appended to be stored and noted.
const flushTime = 2 * time.Second

// tenure appends to one writer's tenure of the stream. Its fields belong to the goroutine of run, but for the last two.
type tenure struct {
	w     *Watcher
	log   *slog.Logger
	sink  Sink
	notes *notes
	*model

	began    time.Time
	sent     *table[sent]
	loaded   bool            // the feeds were taken as a whole
	dirty    []id            // that may have to be sent, in order
	isDirty  map[id]bool     // the same
	deferred map[id]struct{} // not selected any more as far as can be seen, which isn't far enough
	turn     int             // which feed is asked first
	from     *feed           // whose change made them dirty; nil: none
	revision string          // of that change
	list     map[kindID]bool // kinds to be listed once nothing is dirty
	mark     *markRequest    // to be appended
	marks    chan *markRequest
	ended    chan struct{}

	ready    atomic.Bool
	selected atomic.Int64 // objects that the reader has
}

// sent is what the stream's reader has of an object.
type sent struct{ version, uid, revision string }

// Record appends to sink, whose Epoch was written, what memory lacks, and then follows the changes until ctx ends or
// sink fails; it returns nil for the former. It waits until the kinds are listed. Calls must not overlap; Run may have
// run before, and another call may follow with another sink: memory must be that of the sink's stream.
func (w *Watcher) Record(ctx context.Context, sink Sink, memory Memory) error {
	noted, err := memory.Load(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("load what was sent of the objects: %w", err)
	}
	t := &tenure{
		w: w, log: w.log, sink: sink, notes: newNotes(sink, memory, w.log), model: w.model, began: time.Now(),
		sent: newTable[sent](), isDirty: make(map[id]bool), deferred: make(map[id]struct{}),
		list: make(map[kindID]bool), marks: make(chan *markRequest), ended: make(chan struct{}),
	}
	for k, s := range noted {
		t.remember(k, s)
	}
	for _, f := range w.feeds() {
		f.begin()
	}
	w.setTenure(t)
	defer w.setTenure(nil)
	defer close(t.ended)

	noting, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var notes sync.WaitGroup
	notes.Go(func() { t.notes.run(noting) })
	err = t.run(ctx)
	enough := time.AfterFunc(flushTime, stop) // what is stored by now is noted, so that it isn't sent again
	t.notes.finish()
	notes.Wait()
	enough.Stop()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// remember takes over what an earlier tenure sent. Of an object that was sent in two versions of its API the later counts.
func (t *tenure) remember(k events.ObjectKey, s Sent) {
	i := id{k.Group, k.Resource, k.Namespace, k.Name}
	if was, ok := t.sent.get(i); ok && !after(s.Revision, was.revision) {
		return
	}
	t.sent.put(i, sent{k.Version, s.UID, s.Revision})
}

func (t *tenure) run(ctx context.Context) error {
	late := time.NewTicker(time.Second) // for what has no event: a kind that stays failing
	defer late.Stop()
	for ctx.Err() == nil {
		busy, err := t.step(ctx)
		if err != nil {
			return err
		}
		t.selected.Store(int64(t.sent.n))
		if busy {
			select {
			case m := <-t.marks:
				t.accept(m)
			default:
			}
			continue
		}
		select {
		case <-ctx.Done():
		case m := <-t.marks:
			t.accept(m)
		case <-t.w.wake:
		case <-late.C:
		}
	}
	return nil
}

// accept takes over the mark that is to be appended next; the one before it can't be any more.
func (t *tenure) accept(m *markRequest) {
	if t.mark != nil {
		t.mark.reply <- markReply{err: fmt.Errorf("%w: %d/%d", ErrNotHeld, t.mark.token.Epoch, t.mark.token.Barrier)}
	}
	t.mark = m
}

// step does one thing, if there is one that may be done now.
func (t *tenure) step(ctx context.Context) (busy bool, err error) {
	if t.mark != nil && !t.w.gate.holds(t.mark.token) {
		t.accept(nil) // it was released, or another hold voids it
	}
	if t.mark != nil && t.mark.revision == "" {
		return true, t.appendMark(ctx, t.proven())
	}
	if t.loaded && len(t.dirty) > 0 {
		if !t.w.gate.isOpen() {
			return false, nil
		}
		i := t.dirty[0]
		if t.dirty = t.dirty[1:]; len(t.dirty) == 0 { // after a tenure's beginning they are large
			t.dirty, t.isDirty = nil, make(map[id]bool)
		}
		delete(t.isDirty, i)
		return true, t.evaluate(ctx, i)
	}
	t.applied()
	if !t.loaded && t.begun() {
		t.loaded = true
		t.all()
		return true, nil
	}
	if t.loaded && len(t.deferred) > 0 && t.complete() {
		t.touch(slices.Collect(maps.Keys(t.deferred))...)
		clear(t.deferred)
		return true, nil
	}
	if t.loaded && len(t.list) > 0 {
		if !t.w.gate.isOpen() {
			return false, nil
		}
		return true, t.listOne(ctx)
	}
	if t.loaded && !t.ready.Load() {
		t.ready.Store(true)
		t.log.Info("objects are recorded", "objects", t.have.n, "sent", t.sent.n, "after", time.Since(t.began).Round(time.Millisecond))
	}
	if t.take() {
		return true, nil
	}
	if t.mark != nil && t.done(t.mark) {
		return true, t.appendMark(ctx, t.mark.revision)
	}
	return false, nil
}

// applied notes that nothing is left to be sent of the change taken last.
func (t *tenure) applied() {
	if t.from != nil {
		t.from.apply(t.revision)
		t.from = nil
	}
}

// take takes one change from a feed and tells the closure.
func (t *tenure) take() bool {
	var c change
	var relisted bool
	feeds := t.w.feeds()
	waits := func() bool { return slices.ContainsFunc(feeds, (*feed).waits) }
	if !t.w.gate.pass(waits, func(limit string) bool {
		for n := range feeds {
			at := (t.turn + n) % len(feeds)
			var ok bool
			if c, relisted, ok = feeds[at].take(limit); ok {
				t.from, t.revision, t.turn = feeds[at], c.revision, at+1
				return true
			}
		}
		return false
	}) {
		return false
	}
	if c.all == nil {
		t.tell(t.from.place, c)
		return true
	}
	p := t.from.place
	t.taken[p] = true
	for name := range t.have.rows[p] {
		if c.all[name] == nil {
			t.tell(p, change{name: name})
		}
	}
	for _, o := range c.all {
		t.tell(p, change{object: o})
	}
	if relisted {
		t.list[p.kind()] = true
	}
	return true
}

// tell has the model know of one change. What it may make necessary to be sent becomes dirty.
func (t *tenure) tell(p place, c change) {
	var changes []selection.Change
	i := p.id(c.name)
	if c.object != nil {
		i = p.id(c.object.name)
	}
	was, known := t.have.get(i)
	switch o := c.object; {
	case o == nil:
		if known {
			changes = t.closure.Delete(was.key())
		}
		t.have.delete(i)
		t.touch(i)
	case was == o: // told already
	default:
		changes = t.closure.Put(*o.facts)
		o.facts = nil
		t.have.put(i, o)
		t.touch(i)
	}
	for _, c := range changes {
		t.touch(id{c.Key.Group, c.Key.Resource, c.Key.Namespace, c.Key.Name})
	}
}

// touch makes objects dirty.
func (t *tenure) touch(ids ...id) {
	for _, i := range ids {
		if !t.isDirty[i] {
			t.isDirty[i] = true
			t.dirty = append(t.dirty, i)
		}
	}
}

// all makes everything dirty that the reader has or should have, and has every kind listed: the reader may have objects that
// nobody remembers.
func (t *tenure) all() {
	ids := make(map[id]bool, t.have.n)
	for i := range t.sent.all() {
		ids[i] = true
	}
	for i := range t.have.all() {
		ids[i] = true
	}
	t.touch(slices.SortedFunc(maps.Keys(ids), id.compare)...)
	for _, f := range t.w.feeds() {
		t.list[f.place.kind()] = true
	}
}

// begun tells whether all kinds that can be read have been taken as a whole.
func (t *tenure) begun() bool {
	return t.settled(func(f *feed) bool {
		return len(f.refused) > 0 || f.failing != nil && time.Since(t.began) > failingGrace
	})
}

// complete tells whether everything of every kind is known, so that what nothing is seen to need is needed by nothing.
func (t *tenure) complete() bool { return t.settled(func(*feed) bool { return false }) }

// settled tells whether every feed but the excused ones is listed and taken, and there is one.
func (t *tenure) settled(excused func(*feed) bool) bool {
	if !t.w.hasDiscovered() {
		return false
	}
	some := false
	for _, f := range t.w.feeds() {
		f.mu.Lock()
		ok := f.listed && t.taken[f.place] && (!f.whole || t.loaded) && len(f.refused) == 0
		excused := excused(f)
		f.mu.Unlock()
		if !ok && !excused {
			return false
		}
		some = some || ok
	}
	return some
}

// proven returns the revision up to which every change of every kind lies in the stream; "" where that can't be told of one.
func (t *tenure) proven() string {
	if !t.ready.Load() {
		return ""
	}
	oldest := ""
	for _, f := range t.w.feeds() {
		switch r, counts := f.proven(); {
		case !counts:
		case r == "":
			return ""
		case oldest == "" || after(oldest, r):
			oldest = r
		}
	}
	return oldest
}

// done tells whether the stream holds every change up to what the mark has to prove.
func (t *tenure) done(m *markRequest) bool {
	if !t.loaded {
		return false
	}
	for _, f := range m.feeds {
		if !f.done(m.revision) {
			return false
		}
	}
	return true
}

// appendMark appends the mark that was asked for.
func (t *tenure) appendMark(ctx context.Context, revision string) error {
	m := t.mark
	t.mark = nil
	hold, err := t.w.gate.marked(m.token)
	if err != nil {
		m.reply <- markReply{err: err}
		return nil
	}
	seq, err := t.sink.Append(ctx, &events.Mark{Token: m.token, Hold: hold, Revision: revision})
	m.reply <- markReply{seq: seq, hold: hold, revision: revision, err: err}
	if err != nil && !errors.Is(err, ctx.Err()) {
		return fmt.Errorf("append mark: %w", err)
	}
	return nil
}
