package objects

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
)

// ErrNotFound says that a view has no such object.
var ErrNotFound = errors.New("no such object")

// Entry is one object of a View.
type Entry struct {
	Key      events.ObjectKey
	UID      string
	Revision string // resourceVersion
}

// View is the objects of a group at one commit. It never changes, and stays readable while the store moves on, is
// compacted and is closed. Its methods may be called concurrently.
type View struct {
	index
	point    group.Point
	revision string
	log      *log // nil: there is no object
}

// Point returns the commit that the view is of.
func (v *View) Point() group.Point { return v.point }

// Barrier returns the number of that commit's barrier; 0: of a store that never was at one.
func (v *View) Barrier() uint64 { return v.point.Barrier }

// Revision returns the resourceVersion that the capturer had proven at that commit; "" where none is known.
func (v *View) Revision() string { return v.revision }

// Len returns how many objects there are.
func (v *View) Len() int { return v.count }

// All returns the objects, ordered by group, resource, namespace and name.
func (v *View) All() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		kinds := slices.SortedFunc(maps.Keys(v.kinds), func(a, b kind) int {
			return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.resource, b.resource))
		})
		for _, k := range kinds {
			names := slices.SortedFunc(maps.Keys(v.kinds[k]), func(a, b name) int {
				return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
			})
			for _, n := range names {
				if !yield(entry(k, n, v.kinds[k][n])) {
					return
				}
			}
		}
	}
}

// Get returns the object that key names. The key's version doesn't matter: an object is the same one in whatever
// version it is read. That of the Entry is the one that Raw has.
func (v *View) Get(key events.ObjectKey) (Entry, bool) {
	k, n := split(key)
	o, ok := v.kinds[k][n]
	if !ok {
		return Entry{}, false
	}
	return entry(k, n, o), true
}

// Raw returns the object that key names as the capturer sent it, its parts joined: JSON without managedFields, or, of a
// Secret, an age file with that in it. The key's version doesn't matter. It is read from disk and verified; what was
// damaged there gives an error that names the file. An object that isn't there gives ErrNotFound.
func (v *View) Raw(key events.ObjectKey) ([]byte, error) {
	k, n := split(key)
	o, ok := v.kinds[k][n]
	if !ok {
		return nil, fmt.Errorf("read object %s: %w", Name(key), ErrNotFound)
	}
	var raw []byte
	for _, e := range o.at {
		_, event, err := v.log.read(e)
		if err != nil {
			return nil, fmt.Errorf("read object %s: %w", Name(key), err)
		}
		part, ok := event.(*events.Object)
		if at, found := split(part.Key); !ok || at != k || found != n {
			return nil, fmt.Errorf("read object %s: %w: %s at %d holds something else", Name(key), ErrDamaged, v.log.name, e.off)
		}
		if len(o.at) == 1 {
			return part.Raw, nil
		}
		raw = append(raw, part.Raw...)
	}
	return raw, nil
}

// Name writes a key for people: resource.group namespace/name, what isn't there left out.
func Name(key events.ObjectKey) string {
	s := key.Resource
	if key.Group != "" {
		s += "." + key.Group
	}
	if key.Namespace != "" {
		return s + " " + key.Namespace + "/" + key.Name
	}
	return s + " " + key.Name
}

func entry(k kind, n name, o object) Entry {
	return Entry{
		Key: events.ObjectKey{Group: k.group, Version: o.version, Resource: k.resource, Namespace: n.namespace, Name: n.name},
		UID: o.uid, Revision: o.revision,
	}
}
