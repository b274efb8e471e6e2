package rebuild

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// workers is how many requests of a phase are under way at a time.
	workers = 16
	// firstRetry and lastRetry bound the time to the next try of what was refused.
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute
)

// item is one object of the state and where it stands at the API server.
type item struct {
	entry Entry
	raw   []byte // of a namespace that no object of the state makes; else it is read when needed

	// From preparing.
	p        *prepared // nil where it never could be prepared
	broken   string    // why it can't be prepared as it is now
	twin     bool      // it is broken because another object has its name here
	prepared bool      // p.obj is there; it is let go of once it was applied

	// From the API server.
	uid, revision string // of the object there; empty: it isn't there
	have          string // hash of what was applied to it; empty: not known, or changed since
	settled       string // revision at which it was found or made as it should be
	released      bool   // it was released, and is not touched
	accepted      bool   // it is somebody else's and equal enough
	established   bool   // a definition is served

	refusal   string // why the API server doesn't take it
	told      string // the refusal as it was last logged
	since     time.Time
	failures  int
	next      time.Time // not before
	rehearsed string    // hash of what the last dry run sent
	rehearsal time.Time // when the next dry run of the same is due
}

// stray is an object that Farshore made and that should not exist any more.
type stray struct {
	ref           Ref
	gvr           schema.GroupVersionResource
	kind          kind
	uid, revision string

	refusal string
	since   time.Time
	next    time.Time
	fails   int
}

// reconciler makes an API server hold a state. It is used by one goroutine, which spreads the requests of a phase over others.
type reconciler struct {
	srv   *server
	group string
	log   *slog.Logger
	m     *instruments
	now   func() time.Time

	form form
	prep preparer

	state  State
	items  map[target]*item  // by the name at the primary
	at     map[target]*item  // by the name here
	strays map[target]*stray // by the name here
	kinds  []served
	denied map[schema.GroupResource]string // what can't be listed, and why
	after  func()                          // called after each phase of a pass that had something to do; nil: isn't
	only   map[target]bool                 // a release that is asked for again: these alone; nil: all
}

func newReconciler(srv *server, group string, sole bool, log *slog.Logger, m *instruments) *reconciler {
	return &reconciler{
		srv: srv, group: group, log: log, m: m, now: time.Now,
		prep:  preparer{group: group, sole: sole},
		items: make(map[target]*item), at: make(map[target]*item), strays: make(map[target]*stray),
	}
}

func sourceOf(e Entry) target {
	return target{e.Key.Group, e.Key.Resource, e.Key.Namespace, e.Key.Name}
}

// adopt makes state what is reconciled to. Only what differs from before is read and prepared, unless anew.
func (r *reconciler) adopt(state State, rules Rules, f form, anew bool) {
	volumes := make(map[string]bool)
	for e := range state.All() {
		if e.Key.Group == "" && e.Key.Resource == "persistentvolumes" {
			volumes[e.Key.Name] = true
		}
	}
	otherVolumes := !equal(volumes, r.prep.volumes)
	r.state, r.form, r.prep.rules, r.prep.volumes = state, f, rules, volumes
	seen := make(map[target]bool, len(r.items))
	for e := range state.All() {
		id := sourceOf(e)
		seen[id] = true
		it := r.items[id]
		stale := anew || otherVolumes && e.Key.Resource == "persistentvolumeclaims"
		if it != nil && it.entry == e && !stale {
			continue
		}
		if it == nil {
			it = &item{}
			r.items[id] = it
		}
		it.entry = e
		r.prepare(it)
	}
	r.adoptNamespaces(seen, anew)
	for id, it := range r.items {
		if !seen[id] {
			delete(r.items, id)
			r.leave(it)
		}
	}
	r.claimTargets()
}

// adoptNamespaces wants a namespace for every object that is in one that no object of the state makes.
func (r *reconciler) adoptNamespaces(seen map[target]bool, anew bool) {
	made, needed := make(map[string]bool), make(map[string]bool)
	for id, it := range r.items {
		if it.p == nil || it.raw != nil || !seen[id] || it.p.kind.never {
			continue
		}
		if it.p.kind.phase == phaseNamespaces {
			made[it.p.ref.Name] = true
		} else if it.p.ref.Namespace != "" {
			needed[it.p.ref.Namespace] = true
		}
	}
	for name := range needed {
		if made[name] {
			continue
		}
		id := target{group: "farshore.dev", resource: "namespaces", name: name} // no source has it
		seen[id] = true
		if r.items[id] != nil && !anew {
			continue
		}
		it := r.items[id]
		if it == nil {
			it = &item{}
			r.items[id] = it
		}
		it.entry, it.raw = namespaceEntry(name)
		r.prepare(it)
	}
}

// prepare makes it what is to be applied. What can't be prepared keeps what it had here.
func (r *reconciler) prepare(it *item) {
	p, err := r.make(it)
	if err != nil {
		if it.broken != err.Error() {
			it.broken = err.Error()
			r.refuse(it, it.broken)
		}
		return
	}
	if it.p != nil && it.p.target() != p.target() {
		r.leave(it)
		*it = item{entry: it.entry, raw: it.raw}
	}
	if it.p == nil || it.p.hash != p.hash {
		it.failures, it.next = 0, time.Time{} // another object: what was said of the one before doesn't count
	}
	if it.broken != "" {
		it.broken, it.refusal = "", ""
	}
	it.p, it.prepared = p, true
}

func (r *reconciler) make(it *item) (*prepared, error) {
	raw := it.raw
	if raw == nil {
		var err error
		if raw, err = r.state.Raw(it.entry.Key); err != nil {
			return nil, fmt.Errorf("read durable copy: %w", err)
		}
	}
	prep := r.prep
	if it.raw != nil {
		prep.rules.Transform = nil // its name is that of this site already
	}
	return prep.prepare(it.entry, raw, r.form)
}

// leave makes what was applied for it something to delete.
func (r *reconciler) leave(it *item) {
	if it.p == nil {
		return
	}
	t := it.p.target()
	if r.at[t] != it {
		return
	}
	delete(r.at, t)
	if it.uid != "" && !it.accepted && !it.released {
		r.strays[t] = &stray{ref: it.p.ref, gvr: it.p.gvr, kind: it.p.kind, uid: it.uid, revision: it.revision}
	}
}

// claimTargets gives each object the name here; of two that are mapped onto one name the second is refused.
func (r *reconciler) claimTargets() {
	for _, id := range sortedTargets(r.items) {
		it := r.items[id]
		if it.p == nil || it.p.kind.never {
			continue
		}
		if it.twin {
			it.twin, it.broken, it.refusal = false, "", ""
		}
		t := it.p.target()
		switch other := r.at[t]; {
		case other == nil:
			r.at[t] = it
			if s := r.strays[t]; s != nil {
				it.uid, it.revision = s.uid, s.revision
				delete(r.strays, t)
			}
		case other != it:
			it.twin = true
			it.broken = fmt.Sprintf("is mapped onto %s, as %s is", it.p.ref, refOf(other.entry.Key))
			r.refuse(it, it.broken)
		}
	}
}

// wants tells whether it should be applied, as far as anything is known.
func (r *reconciler) wants(it *item) bool {
	if it.p == nil || it.broken != "" || it.p.kind.never || it.released || it.p.ended && it.p.ref.Kind == "Pod" {
		return false
	}
	if r.only != nil && !r.only[it.p.target()] {
		return false
	}
	return (!it.p.kind.back || r.form == formReleased) && (it.have != it.p.hash || it.unserved())
}

// rehearses tells whether a dry run of it is due.
func (r *reconciler) rehearses(it *item) bool {
	if it.p == nil || it.broken != "" || it.p.kind.never || it.released || it.p.ended || !it.p.kind.back || r.form != formHeld {
		return false
	}
	return it.rehearsed != it.p.hash || !r.now().Before(it.rehearsal)
}

// unserved tells whether it is a definition whose kind isn't served yet.
func (it *item) unserved() bool { return it.p.kind.phase == phaseCRDs && !it.established }

// refuse notes why it isn't taken, and when it is tried again. Refusals of one pass count once.
func (r *reconciler) refuse(it *item, reason string) {
	if it.refusal == "" {
		it.since = r.now()
	}
	it.refusal = reason
	if !r.now().Before(it.next) {
		it.next = r.now().Add(retryIn(it.failures))
		it.failures++
	}
}

// tell logs what is refused, and what isn't any more, since it was last called.
func (r *reconciler) tell() {
	for _, it := range r.items {
		if it.refusal == it.told {
			continue
		}
		ref := refOf(it.entry.Key)
		if it.p != nil {
			ref = it.p.ref
		}
		if it.refusal != "" {
			r.log.Warn("object is refused", "object", ref.String(), "reason", it.refusal)
		} else {
			r.log.Info("object is not refused any more", "object", ref.String())
		}
		it.told = it.refusal
	}
}

// taken notes that it is as it should be.
func (it *item) taken() {
	it.refusal, it.failures, it.next = "", 0, time.Time{}
}

// forgive makes everything that was refused due at once, as if it had never been tried.
func (r *reconciler) forgive() { forgive(slices.Collect(maps.Values(r.items))) }

func forgive(items []*item) {
	for _, it := range items {
		it.failures, it.next = 0, time.Time{}
	}
}

func retryIn(failures int) time.Duration {
	return min(firstRetry<<min(failures, 20), lastRetry)
}

// found notes what is at the API server.
func (it *item) found(uid types.UID, revision string) {
	it.uid, it.revision = string(uid), revision
}

// lost notes that nothing is known of it at the API server.
func (it *item) lost() {
	it.uid, it.revision, it.have, it.settled, it.accepted, it.established = "", "", "", "", false, false
}
