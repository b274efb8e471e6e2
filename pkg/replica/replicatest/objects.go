package replicatest

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica/objects"
)

// Objects is what a group's objects are: by key, its version left out.
type Objects map[events.ObjectKey]Object

// Object is one of them.
type Object struct {
	Version, UID, Revision string
	Raw                    []byte
}

func identity(key events.ObjectKey) events.ObjectKey {
	key.Version = ""
	return key
}

// churn makes up the history of a group's objects: one stream of events, and what they amount to.
type churn struct {
	rand     *rand.Rand
	now      Objects
	revision int
}

// Kinds of the objects that are made up. The first one is there in two versions.
var churnKinds = []events.ObjectKey{
	{Group: "apps", Version: "v1", Resource: "deployments"},
	{Version: "v1", Resource: "configmaps"},
	{Version: "v1", Resource: "secrets"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"},
}

func newChurn(seed uint64) *churn {
	return &churn{rand: rand.New(rand.NewPCG(seed, 11)), now: make(Objects)}
}

// key picks one of a few objects, so that each is changed often.
func (c *churn) key() events.ObjectKey {
	key := churnKinds[c.rand.IntN(len(churnKinds))]
	if key.Resource != "clusterroles" {
		key.Namespace = fmt.Sprintf("ns-%d", c.rand.IntN(2))
	}
	if key.Resource == "deployments" && c.rand.IntN(3) == 0 {
		key.Version = "v1beta1"
	}
	key.Name = fmt.Sprintf("o-%d", c.rand.IntN(6))
	return key
}

// next returns the events of one change, which stand behind each other in the stream.
func (c *churn) next() []events.Event {
	c.revision++
	switch c.rand.IntN(10) {
	case 0:
		return c.list()
	case 1, 2:
		return c.delete(c.key())
	}
	return c.put(c.key(), c.rand.IntN(200), 1+c.rand.IntN(3)/2)
}

// put makes or changes an object of about so many bytes, sent in so many parts.
func (c *churn) put(key events.ObjectKey, size, parts int) (out []events.Event) {
	o, ok := c.now[identity(key)]
	if !ok || c.rand.IntN(5) == 0 { // made anew, which the watcher may not have seen
		o.UID = fmt.Sprintf("uid-%d", c.revision)
	}
	o.Version, o.Revision = key.Version, fmt.Sprint(c.revision)
	o.Raw = fmt.Appendf(nil, "{%q:%q,%q:%q}", "name", key.Name, "filler", bytes.Repeat([]byte{'a' + byte(c.rand.IntN(26))}, size))
	c.now[identity(key)] = o
	parts = min(parts, len(o.Raw))
	for i := range parts {
		part := o.Raw[i*len(o.Raw)/parts : (i+1)*len(o.Raw)/parts]
		out = append(out, &events.Object{
			Verb: events.Upsert, Key: key, UID: o.UID, Revision: o.Revision, Part: uint32(i), Parts: uint32(parts), Raw: part,
		})
	}
	return out
}

// delete deletes an object, or says so of one that isn't there, or is another one by now.
func (c *churn) delete(key events.ObjectKey) []events.Event {
	o := c.now[identity(key)]
	d := &events.Object{Verb: events.Delete, Key: key, UID: o.UID, Revision: fmt.Sprint(c.revision), Parts: 1}
	switch c.rand.IntN(4) {
	case 0:
		d.UID = "uid-of-another"
		if o.UID != "" {
			return []events.Event{d}
		}
	case 1:
		d.UID = ""
	}
	delete(c.now, identity(key))
	return []events.Event{d}
}

// list says what exists of a kind, some of it gone meanwhile, in several parts.
func (c *churn) list() (out []events.Event) {
	kind := churnKinds[c.rand.IntN(len(churnKinds))]
	var exist []events.ListedObject
	for _, key := range slices.SortedFunc(maps.Keys(c.now), compareKeys) {
		if key.Group != kind.Group || key.Resource != kind.Resource {
			continue
		}
		o := c.now[key]
		switch c.rand.IntN(5) {
		case 0: // deleted
			delete(c.now, key)
			continue
		case 1: // and made anew; that is sent later
			delete(c.now, key)
			o.UID = "uid-of-the-next"
		}
		exist = append(exist, events.ListedObject{Namespace: key.Namespace, Name: key.Name, UID: o.UID})
	}
	parts := 1 + c.rand.IntN(3)
	for i := range parts {
		out = append(out, &events.Listed{
			Group: kind.Group, Version: kind.Version, Resource: kind.Resource, Revision: fmt.Sprint(c.revision), Part: uint32(i), Parts: uint32(parts),
			Objects: exist[i*len(exist)/parts : (i+1)*len(exist)/parts],
		})
	}
	return out
}

// forget deletes objects that nobody is told of.
func (c *churn) forget() {
	for i, key := range slices.SortedFunc(maps.Keys(c.now), compareKeys) {
		if i%3 == 0 {
			delete(c.now, key)
		}
	}
}

func compareKeys(a, b events.ObjectKey) int {
	return bytes.Compare([]byte(objects.Name(a)), []byte(objects.Name(b)))
}

// clone returns what there is now, as it stays.
func (c *churn) clone() Objects { return maps.Clone(c.now) }

// Change appends so many changes of objects.
func (h *History) Change(changes int) error {
	for range changes {
		for _, e := range h.objects.next() {
			if _, err := h.Sink(journal.Objects, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// Put appends an object of about so many bytes under a name of its own, in so many parts.
func (h *History) Put(name string, size, parts int) error {
	key := churnKinds[1]
	key.Namespace, key.Name = "ns-0", name
	h.objects.revision++
	for _, e := range h.objects.put(key, size, parts) {
		if _, err := h.Sink(journal.Objects, e); err != nil {
			return err
		}
	}
	return nil
}

// RenewObjects begins a new generation of the objects on their state at a commit, or, with nil, on none. What the old
// generation got behind that is lost: what there is now is sent again, but for some that are deleted meanwhile. Behind a base it is
// said to be all.
func (h *History) RenewObjects(c *events.Commit) error {
	h.Renewed(journal.Objects)
	h.objects.forget()
	e := h.Epoch(journal.Objects)
	e.Base = objectsBase(c)
	if _, err := h.Sink(journal.Objects, e); err != nil {
		return err
	}
	return h.ResendObjects(c != nil)
}

func objectsBase(c *events.Commit) *events.Base {
	if c == nil {
		return nil
	}
	return &events.Base{Generation: c.Objects.Generation, Seq: c.Objects.Seq, Barrier: c.Token.Barrier}
}

// ResendObjects appends every object there is, and, if wanted, lists of them.
func (h *History) ResendObjects(lists bool) error {
	exist := make(map[events.ObjectKey][]events.ListedObject)
	for _, key := range slices.SortedFunc(maps.Keys(h.objects.now), compareKeys) {
		o := h.objects.now[key]
		kind := events.ObjectKey{Group: key.Group, Resource: key.Resource}
		exist[kind] = append(exist[kind], events.ListedObject{Namespace: key.Namespace, Name: key.Name, UID: o.UID})
		key.Version = o.Version
		if _, err := h.Sink(journal.Objects, &events.Object{Verb: events.Upsert, Key: key, UID: o.UID, Revision: o.Revision, Parts: 1, Raw: o.Raw}); err != nil {
			return err
		}
	}
	for _, kind := range churnKinds {
		if !lists {
			break
		}
		l := &events.Listed{Group: kind.Group, Version: kind.Version, Resource: kind.Resource, Parts: 1, Objects: exist[events.ObjectKey{Group: kind.Group, Resource: kind.Resource}]}
		if _, err := h.Sink(journal.Objects, l); err != nil {
			return err
		}
	}
	return nil
}

// ObjectsAt returns the objects at a barrier; nil: its commit has none.
func (h *History) ObjectsAt(barrier uint64) Objects {
	if barrier == 0 {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.objectsAt[barrier-1]
}

// SameObjects fails unless a view has exactly the objects it should, which is read from its store.
func SameObjects(t testing.TB, v *objects.View, want Objects) {
	t.Helper()
	if v == nil {
		t.Fatalf("there is no view, want %d objects", len(want))
	}
	n := 0
	for e := range v.All() {
		n++
		o, ok := want[identity(e.Key)]
		if !ok {
			t.Fatalf("%s is there at barrier %d", objects.Name(e.Key), v.Barrier())
		}
		if e.Key.Version != o.Version || e.UID != o.UID || e.Revision != o.Revision {
			t.Fatalf("%s is %+v at barrier %d, want version %s, uid %s, revision %s", objects.Name(e.Key), e, v.Barrier(), o.Version, o.UID, o.Revision)
		}
		raw, err := v.Raw(e.Key)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(raw, o.Raw) {
			t.Fatalf("%s holds %q at barrier %d, want %q", objects.Name(e.Key), raw, v.Barrier(), o.Raw)
		}
	}
	if n != len(want) || v.Len() != n {
		t.Fatalf("%d objects at barrier %d, Len says %d, want %d", n, v.Barrier(), v.Len(), len(want))
	}
}
