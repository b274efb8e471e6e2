package resourcewatch

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"

	"github.com/farshore/farshore/pkg/resourcewatch/selection"
)

// object is an object as the watcher keeps it: the JSON that is sent, and what is asked often.
type object struct {
	kind      *selection.Kind
	namespace string // "" for cluster-scoped kinds; shared by a feed's objects
	name      string
	uid       string
	revision  string
	raw       []byte // JSON without managedFields; nil where a rule leaves the object out

	facts *selection.Facts // until the closure was told; the tenure's once the object was taken
}

// GetObjectMeta lets the reflector tell objects apart.
func (o *object) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: o.namespace, Name: o.name, ResourceVersion: o.revision}
}

// same tells whether both are the same object, unchanged.
func (o *object) same(p *object) bool {
	return o != nil && p != nil && o.uid == p.uid && o.revision == p.revision && o.kind == p.kind
}

// change is one thing that became of a feed's objects.
type change struct {
	revision string
	at       time.Time          // when it was received
	object   *object            // as it is now; nil: it was deleted
	name     string             // of the deleted one
	all      map[string]*object // not nil: the whole that exists, by name, instead of one object
}

// overhead is about what a change takes in memory beside its JSON.
const overhead = 256 // bytes

func (c change) size() int64 {
	if c.object == nil {
		return overhead
	}
	return overhead + int64(len(c.object.raw))
}

// after tells whether revision a is newer than b. Everything is newer than "", and nothing compares with what is no
// revision.
func after(a, b string) bool {
	if b == "" {
		return a != ""
	}
	c, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && c > 0
}

// reaches tells whether revision a is b or newer.
func reaches(a, b string) bool {
	c, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && c >= 0
}

// feed is one kind in one namespace: what the API server has told of it, in the order in which it did. The reflector of
// client-go writes it, as its store, and a tenure takes from it.
//
// Either the queue holds every change since what was taken last, or whole is set and the tenure has to compare everything that
// exists with what it knows. The latter is the way on after anything that loses changes: a new list, a queue without
// room, a new tenure.
type feed struct {
	place     place
	selection *selection.Selection
	budget    *budget
	wake      func() // tells the tenure that there is something to take

	mu       sync.Mutex
	kind     *selection.Kind
	listed   bool               // the API server has told what exists
	latest   map[string]*object // by name, as received
	serves   map[string]served  // feed of CRDs: what each of latest adds to the API
	reached  string             // every change up to it was received
	queue    []change
	queued   int64              // bytes
	whole    bool               // the queue doesn't tell everything
	since    time.Time          // of whole
	relisted bool               // a list that has not been taken yet is why whole is set
	taking   bool               // something was taken and isn't applied yet
	applied  string             // every change up to it was applied by the tenure
	gone     bool               // the kind isn't served any more
	refused  map[string]Refused // by verb
	failing  error
	changed  chan struct{} // closed at each change of the fields above

	stop func() // ends the reflector and waits for it; belongs to the goroutine of kinds
}

func newFeed(p place, s *selection.Selection, b *budget, wake func()) *feed {
	return &feed{
		place: p, selection: s, budget: b, wake: wake, whole: true, since: time.Now(),
		latest: map[string]*object{}, serves: map[string]served{}, refused: map[string]Refused{}, changed: make(chan struct{}),
	}
}

var (
	_ cache.ReflectorStore         = (*feed)(nil)
	_ cache.TransformingStore      = (*feed)(nil)
	_ cache.ReflectorBookmarkStore = (*feed)(nil)
)

// Transformer implements cache.TransformingStore: objects are made small as they come in, also those of a long list.
func (f *feed) Transformer() cache.TransformFunc {
	return func(x any) (any, error) { return f.compact(x) }
}

// compact makes an object small.
func (f *feed) compact(x any) (*object, error) {
	switch x := x.(type) {
	case *object:
		return x, nil
	case cache.DeletedFinalStateUnknown:
		return f.compact(x.Obj)
	case *unstructured.Unstructured:
		raw, err := selection.Raw(x)
		if err != nil {
			return nil, fmt.Errorf("keep %s %s/%s: %w", f.place.resource, x.GetNamespace(), x.GetName(), err)
		}
		f.mu.Lock()
		k := f.kind
		f.mu.Unlock()
		facts := f.selection.Facts(*k, x)
		o := &object{
			kind: k, name: x.GetName(), uid: string(x.GetUID()), revision: x.GetResourceVersion(), raw: raw, facts: &facts,
		}
		if facts.Rule != "" {
			o.raw = nil // it is never sent
		}
		if o.namespace = x.GetNamespace(); o.namespace == f.place.namespace {
			o.namespace = f.place.namespace
		}
		if f.place.isCRDs() {
			f.learn(x)
		}
		return o, nil
	}
	return nil, fmt.Errorf("a reflector of %s hands over a %T", f.place.resource, x)
}

// Add implements cache.ReflectorStore.
func (f *feed) Add(x any) error {
	o, err := f.compact(x)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.latest[o.name] = o
	f.push(change{revision: o.revision, object: o})
	f.mu.Unlock()
	f.wake()
	return nil
}

// Update implements cache.ReflectorStore.
func (f *feed) Update(x any) error { return f.Add(x) }

// Delete implements cache.ReflectorStore.
func (f *feed) Delete(x any) error {
	o, err := f.compact(x)
	if err != nil {
		return err
	}
	f.mu.Lock()
	delete(f.latest, o.name)
	delete(f.serves, o.name)
	f.push(change{revision: o.revision, name: o.name})
	f.mu.Unlock()
	f.wake()
	return nil
}

// Replace implements cache.ReflectorStore: the API server told everything that exists, because the watch begins, or because
// changes were missed.
func (f *feed) Replace(list []any, revision string) error {
	all := make(map[string]*object, len(list))
	for _, x := range list {
		o, err := f.compact(x)
		if err != nil {
			return err
		}
		all[o.name] = o
	}
	f.mu.Lock()
	for name, o := range all {
		if known := f.latest[name]; o.same(known) {
			all[name] = known // so that nothing is held twice
		}
	}
	maps.DeleteFunc(f.serves, func(name string, _ served) bool { return all[name] == nil })
	f.takeWhole()
	if after(f.applied, revision) {
		f.applied = "" // the storage was set back: its revisions begin anew
	}
	f.latest, f.reached, f.listed = all, revision, true
	f.relisted = true
	delete(f.refused, "list") // a list by way of a watch
	f.notify()
	f.mu.Unlock()
	f.wake()
	return nil
}

// Bookmark implements cache.ReflectorBookmarkStore: every change up to the revision was received.
func (f *feed) Bookmark(revision string) error {
	f.mu.Lock()
	f.reach(revision)
	f.mu.Unlock()
	f.wake()
	return nil
}

// Resync implements cache.ReflectorStore.
func (f *feed) Resync() error { return nil }

// push adds a change that was received; f.mu is held.
func (f *feed) push(c change) {
	c.at = time.Now()
	if !f.whole {
		f.settle()
		if size := c.size(); f.budget.take(size) {
			f.queue = append(f.queue, c)
			f.queued += size
		} else {
			f.budget.overflow()
			f.takeWhole()
		}
	}
	f.reach(c.revision)
}

// settle notes that everything received was applied, if that is so; f.mu is held.
func (f *feed) settle() {
	if f.listed && !f.whole && !f.taking && len(f.queue) == 0 {
		f.applied = f.reached
	}
}

// reach notes that everything up to the revision was received; f.mu is held.
func (f *feed) reach(revision string) {
	if after(revision, f.reached) {
		f.reached = revision
	}
	f.notify()
}

// takeWhole gives the queue up; f.mu is held.
func (f *feed) takeWhole() {
	f.budget.give(f.queued)
	if !f.whole {
		f.settle()
		f.whole, f.since = true, time.Now()
		if len(f.queue) > 0 {
			f.since = f.queue[0].at
		}
	}
	f.queue, f.queued = nil, 0
}

// begin has the next tenure take everything.
func (f *feed) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takeWhole()
	f.since = time.Now()
	f.applied, f.taking = "", false
	f.notify()
}

// take returns the next change, if there is one and it isn't newer than limit; "" is no limit.
func (f *feed) take(limit string) (c change, relisted, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !f.listed:
		return change{}, false, false
	case f.whole && limit != "" && after(f.reached, limit):
		return change{}, false, false
	case f.whole:
		f.queue, f.whole = []change{{revision: f.reached, all: maps.Clone(f.latest)}}, false
	}
	if len(f.queue) == 0 || limit != "" && after(f.queue[0].revision, limit) {
		return change{}, false, false
	}
	c = f.queue[0]
	f.queue[0] = change{} // free it although the slice's array lives on
	f.queue = f.queue[1:]
	if c.all == nil {
		f.queued -= c.size()
		f.budget.give(c.size())
	} else {
		relisted, f.relisted = f.relisted, false
	}
	f.taking = true
	return c, relisted, true
}

// waits tells whether there is something to take.
func (f *feed) waits() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.listed && (f.whole || len(f.queue) > 0)
}

// apply notes that the change taken last, of the revision, was applied.
func (f *feed) apply(revision string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied, f.taking = revision, false
	f.notify()
}

// proven returns the revision up to which every change was applied. counts is false where nothing can be expected of the
// feed: the kind has gone, or the API server doesn't let it be watched.
func (f *feed) proven() (revision string, counts bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.counts() {
		return "", false
	}
	f.settle()
	return f.applied, true
}

// done tells whether every change up to the revision was received and applied; it notes that then.
func (f *feed) done(revision string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !f.counts():
		return true
	case !f.listed || f.whole || f.taking || !reaches(f.reached, revision) || len(f.queue) > 0 && !after(f.queue[0].revision, revision):
		return false
	}
	if f.settle(); after(revision, f.applied) {
		f.applied = revision
	}
	return true
}

// counts tells whether barriers wait for the feed; f.mu is held.
func (f *feed) counts() bool { return !f.gone && len(f.refused) == 0 }

// cut prepares that a whole is taken as it was at revision at, of which names is everything that existed then, with its
// resourceVersion. It returns false where a version that existed then is no longer known; f.mu is held.
func (f *feed) cut(at string, names map[string]stamp) bool {
	all := make(map[string]*object, len(names))
	for name, s := range names {
		o := f.latest[name]
		if o == nil || o.uid != s.uid || o.revision != s.revision {
			return false
		}
		all[name] = o
	}
	var later []change
	for name, o := range f.latest {
		if all[name] == nil {
			later = append(later, change{revision: o.revision, at: time.Now(), object: o})
		}
	}
	slices.SortFunc(later, func(a, b change) int {
		switch {
		case after(a.revision, b.revision):
			return 1
		case after(b.revision, a.revision):
			return -1
		}
		return 0
	})
	for _, c := range later {
		f.queued += c.size()
		f.budget.force(c.size())
	}
	f.queue, f.whole = append([]change{{revision: at, all: all}}, later...), false
	return true
}

// has tells whether everything that existed at revision at, with its resourceVersion, is received, and nothing that didn't exist
// any more is held; f.mu is held.
func (f *feed) has(at string, names map[string]stamp) bool {
	for name, s := range names {
		o := f.latest[name]
		if o == nil || o.uid != s.uid && !after(o.revision, at) || after(s.revision, o.revision) {
			return false
		}
	}
	for name, o := range f.latest {
		if _, ok := names[name]; !ok && !after(o.revision, at) {
			return false
		}
	}
	return true
}

// end tells that the kind isn't served any more: none of its objects exists.
func (f *feed) end() {
	f.mu.Lock()
	f.latest, f.serves, f.listed, f.gone = map[string]*object{}, map[string]served{}, true, true
	f.refused, f.failing = map[string]Refused{}, nil
	f.takeWhole()
	f.notify()
	f.mu.Unlock()
	f.wake()
}

// pending returns how many bytes wait to be taken, and since when.
func (f *feed) pending() (int64, time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.gone || !f.listed:
		return 0, time.Time{}
	case f.whole:
		var n int64
		for _, o := range f.latest {
			n += int64(len(o.raw))
		}
		return n, f.since
	case len(f.queue) == 0:
		return 0, time.Time{}
	}
	return f.queued, f.queue[0].at
}

// notify wakes everybody who waits for the feed; f.mu is held.
func (f *feed) notify() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// budget bounds what the queues of all feeds hold.
type budget struct {
	mu         sync.Mutex
	used, most int64 // bytes
	overflows  int64
}

func (b *budget) take(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+n > b.most {
		return false
	}
	b.used += n
	return true
}

func (b *budget) force(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used += n
}

func (b *budget) give(n int64) { b.force(-n) }

func (b *budget) overflow() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.overflows++
}

func (b *budget) state() (used, overflows int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used, b.overflows
}
