package objects

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/farshore/farshore/pkg/events"
)

var (
	errApart   = errors.New("the parts of a split event do not stand behind each other")
	errPart    = errors.New("a part of a split event without those before it")
	errNoPlace = errors.New("this kind of event has no place in an objects stream")
)

// change is a draft and the split object or list that is being read.
type change struct {
	draft *draft

	object *events.Object // the last part of an object that was split; nil: none is open
	parts  []extent       // of it
	list   *events.Listed // the last part of a list that was split; nil: none is open
	exist  map[name]string
}

// open tells whether the rest of a split event is missing.
func (c *change) open() bool { return c.object != nil || c.list != nil }

// follows tells whether a part is the next one of an object, or the first of one.
func (c *change) follows(o *events.Object) error {
	last := c.object
	switch {
	case c.list != nil, last == nil && o.Part != 0:
		return fmt.Errorf("%w: part %d of %d of %s", errPart, o.Part, o.Parts, Name(o.Key))
	case last == nil:
		return nil
	case o.Part != last.Part+1 || o.Parts != last.Parts || o.Key != last.Key || o.UID != last.UID || o.Revision != last.Revision || o.Verb != last.Verb:
		return fmt.Errorf("%w: part %d of %d of %s behind part %d of %d of %s",
			errApart, o.Part, o.Parts, Name(o.Key), last.Part, last.Parts, Name(last.Key))
	}
	return nil
}

// take makes a part of an object that follows part of the change; at is its record.
func (c *change) take(o *events.Object, at extent) {
	k, n := split(o.Key)
	if o.Verb == events.Delete {
		c.draft.deleted(k, n, o.UID)
		return
	}
	c.parts = append(c.parts, at)
	if o.Part+1 < o.Parts {
		last := *o
		last.Raw = nil
		c.object = &last
		return
	}
	c.draft.put(k, n, object{o.Key.Version, o.UID, o.Revision, slices.Clone(c.parts)})
	c.abandon()
}

// abandon forgets what is open.
func (c *change) abandon() {
	c.object, c.list, c.exist, c.parts = nil, nil, nil, c.parts[:0]
}

// recall takes an event of a log.
func (c *change) recall(e events.Event, at extent) error {
	o, ok := e.(*events.Object)
	if !ok {
		return errNoPlace
	}
	if err := c.follows(o); err != nil {
		return err
	}
	c.take(o, at)
	return nil
}

// Batch is what a store is to be advanced by: the events of the objects stream up to a commit's mark. What it writes counts
// for nothing before Store.Take. A batch that comes to nothing must be discarded, unless a checkpoint may name its Place.
type Batch struct {
	s      *Store
	fresh  bool    // what the store holds is not part of it
	w      *writer // nil: nothing was written
	change *change
	place  Place

	revision string
	objects  uint64 // that were put or deleted
	bytes    int64  // written
}

// Begin begins a batch. A fresh one begins with no objects, else with those of the store.
func (s *Store) Begin(fresh bool) *Batch {
	b := &Batch{s: s, fresh: fresh || s.log == nil, change: &change{}}
	if b.fresh {
		b.change.draft = index{}.draft()
	} else {
		b.place = s.place
		b.change.draft = s.View().draft()
	}
	return b
}

// Add takes the next event of the stream, of which the caller has proven that it continues the one before. An error that
// Refused knows is about the event, another one about the file.
func (b *Batch) Add(h events.Header, e events.Event) error {
	c := b.change
	switch e := e.(type) {
	case *events.Epoch:
		b.rollBack() // another writer: the one before did not come to the end of what it split
	case *events.Heartbeat:
	case *events.Mark:
		if c.open() {
			return fmt.Errorf("%w: a mark is between them", errApart)
		}
		b.revision = e.Revision
	case *events.Object:
		return b.object(h, e)
	case *events.Listed:
		return b.listed(h, e)
	default:
		return fmt.Errorf("%w: %s", errNoPlace, e.Kind())
	}
	return nil
}

// Refused tells whether err of Add says that the event itself can't be.
func Refused(err error) bool {
	return errors.Is(err, errApart) || errors.Is(err, errPart) || errors.Is(err, errNoPlace)
}

func (b *Batch) rollBack() {
	if len(b.change.parts) > 0 {
		b.w.back(b.change.parts[0].off)
	}
	b.change.abandon()
}

func (b *Batch) object(h events.Header, o *events.Object) error {
	if err := b.change.follows(o); err != nil {
		return err
	}
	k, n := split(o.Key)
	if held, ok := b.change.draft.kinds[k][n]; o.Verb == events.Delete && (!ok || !same(held.uid, o.UID)) {
		return nil // there is nothing to delete
	}
	at, err := b.append(h, o)
	if err != nil {
		return err
	}
	b.change.take(o, at)
	if !b.change.open() {
		b.objects++
	}
	return nil
}

// listed notes a part of a list; the last one deletes what isn't listed.
func (b *Batch) listed(h events.Header, l *events.Listed) error {
	c, last := b.change, b.change.list
	switch {
	case c.object != nil, last == nil && l.Part != 0:
		return fmt.Errorf("%w: part %d of %d of the list of %s", errPart, l.Part, l.Parts, l.Resource)
	case last != nil && (l.Part != last.Part+1 || l.Parts != last.Parts || l.Group != last.Group || l.Version != last.Version ||
		l.Resource != last.Resource || l.Revision != last.Revision):
		return fmt.Errorf("%w: part %d of %d of the list of %s behind part %d of %d of that of %s",
			errApart, l.Part, l.Parts, l.Resource, last.Part, last.Parts, last.Resource)
	}
	if last == nil {
		c.exist = make(map[name]string)
	}
	for _, o := range l.Objects {
		c.exist[name{o.Namespace, o.Name}] = o.UID
	}
	if l.Part+1 < l.Parts {
		c.list = &events.Listed{Group: l.Group, Version: l.Version, Resource: l.Resource, Revision: l.Revision, Part: l.Part, Parts: l.Parts}
		return nil
	}
	k := kind{l.Group, l.Resource}
	exist := c.exist
	c.abandon()
	for _, gone := range c.draft.missing(k, exist) {
		if err := b.object(h, &events.Object{Verb: events.Delete, Key: gone.Key, UID: gone.UID, Parts: 1}); err != nil {
			return err
		}
	}
	return nil
}

// append writes a record. The first one of a batch is written behind what the store holds.
func (b *Batch) append(h events.Header, e events.Event) (extent, error) {
	if b.w == nil && b.fresh {
		w, err := b.s.create()
		if err != nil {
			return extent{}, err
		}
		b.w = w
	} else if b.w == nil {
		b.w = &writer{log: b.s.log, at: b.s.place.Length}
	}
	at, err := b.w.append(h, e)
	b.bytes += int64(at.length)
	return at, err
}

// Finish makes the batch durable, so that a checkpoint may name its Place. A log that holds mostly what is no longer wanted
// is written anew on the way; where that fails it is tried again later.
func (b *Batch) Finish() error {
	if b.w == nil {
		return nil // nothing changed, or nothing is left
	}
	if err := b.w.flush(); err != nil {
		return err
	}
	if b.wasteful() {
		err := b.compact()
		if err == nil {
			return nil
		}
		b.s.slog.Warn("the log of the objects was not written anew, trying again later", "file", b.w.log.name, "error", err)
		b.s.paused = b.w.end() + b.w.end()/4
	}
	return b.seal(b.w, b.fresh)
}

// seal makes what a writer wrote durable and the batch's place.
func (b *Batch) seal(w *writer, made bool) error {
	if err := w.flush(); err != nil {
		return err
	}
	if err := w.log.file.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", w.log.name, err)
	}
	if made {
		if err := b.s.fs.SyncDir(b.s.dir); err != nil {
			return fmt.Errorf("sync directory of %s: %w", w.log.name, err)
		}
	}
	b.place = Place{filepath.Base(w.log.name), w.end()}
	return nil
}

// wasteful tells whether the log is to be written anew. One that this batch made holds little else than what is wanted.
func (b *Batch) wasteful() bool {
	end, live := b.w.end(), b.change.draft.live
	return !b.fresh && end >= b.s.paused && end-live > live+b.s.slack
}

// compact copies what is wanted into a new file, in the order in which it was written.
func (b *Batch) compact() (err error) {
	w, err := b.s.create()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.log.file.Close(), b.s.fs.Remove(w.log.name))
		}
	}()
	type record struct {
		at extent
		to *extent
	}
	var records []record
	moved := index{}.draft()
	for k, names := range b.change.draft.kinds {
		for n, o := range names {
			old := o.at
			o.at = make([]extent, len(old))
			for i, e := range old {
				o.at[i] = e // of the same length, so that the draft counts right
				records = append(records, record{e, &o.at[i]})
			}
			moved.put(k, n, o)
		}
	}
	slices.SortFunc(records, func(a, b record) int { return cmp.Compare(a.at.off, b.at.off) })
	for _, r := range records {
		if *r.to, err = w.copy(b.w.log, r.at); err != nil {
			return err
		}
	}
	if err := b.seal(w, true); err != nil {
		return err
	}
	b.w, b.change.draft = w, moved
	return nil
}

// log returns the file that holds the batch's objects; nil: there are none.
func (b *Batch) log() *log {
	switch {
	case b.w != nil:
		return b.w.log
	case b.fresh:
		return nil
	}
	return b.s.log
}

// Place returns where the batch's objects are, once it is finished.
func (b *Batch) Place() Place { return b.place }

// Revision returns the resourceVersion that the last mark proved.
func (b *Batch) Revision() string { return b.revision }

// Objects returns how many changes of objects the batch made.
func (b *Batch) Objects() uint64 { return b.objects }

// Bytes returns how many bytes it wrote for them.
func (b *Batch) Bytes() int64 { return b.bytes }

// Discard gives back the room that the batch took. It is only about room: what it wrote counts for nothing.
func (b *Batch) Discard() {
	if b.w == nil {
		return
	}
	var err error
	if !b.fresh {
		err = b.s.log.file.Truncate(b.s.place.Length)
	}
	if b.w.log != b.s.log {
		err = errors.Join(err, b.w.log.file.Close(), b.s.fs.Remove(b.w.log.name))
	}
	if err != nil {
		b.s.slog.Debug("room that the objects took was not given back yet", "file", b.w.log.name, "error", err)
	}
	b.w = nil
}
