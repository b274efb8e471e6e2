package objects

import (
	"cmp"
	"maps"
	"slices"

	"github.com/farshore/farshore/pkg/events"
)

// kind is a resource without its version: an object is the same one in whatever version it is read.
type kind struct{ group, resource string }

// name is an object's name within its kind.
type name struct{ namespace, name string }

// object is what is known of an object without reading it.
type object struct {
	version, uid, revision string
	at                     []extent // the records that hold its parts
}

// extent is a record of a log.
type extent struct {
	off    int64 // bytes from the start of the file
	length int   // bytes of the record, its length prefix included
}

// index is which objects there are and where. One that a View has is never changed.
type index struct {
	kinds map[kind]map[name]object
	count int
	live  int64 // bytes of the records that it names
}

func split(key events.ObjectKey) (kind, name) {
	return kind{key.Group, key.Resource}, name{key.Namespace, key.Name}
}

func (o *object) bytes() (n int64) {
	for _, e := range o.at {
		n += int64(e.length)
	}
	return n
}

// draft is an index that is being changed; it shares with the one it was made from what it leaves as it is.
type draft struct {
	index
	own map[kind]bool // kinds whose map is the draft's own
}

func (x index) draft() *draft {
	return &draft{index{maps.Clone(x.kinds), x.count, x.live}, make(map[kind]bool)}
}

// names returns the objects of a kind, to be changed.
func (d *draft) names(k kind) map[name]object {
	if d.own[k] {
		return d.kinds[k]
	}
	if d.kinds == nil {
		d.kinds = make(map[kind]map[name]object)
	}
	names := maps.Clone(d.kinds[k])
	if names == nil {
		names = make(map[name]object)
	}
	d.kinds[k], d.own[k] = names, true
	return names
}

// put replaces what there is of an object.
func (d *draft) put(k kind, n name, o object) {
	d.drop(k, n)
	d.names(k)[n] = o
	d.count++
	d.live += o.bytes()
}

// drop forgets an object.
func (d *draft) drop(k kind, n name) {
	o, ok := d.kinds[k][n]
	if !ok {
		return
	}
	names := d.names(k)
	delete(names, n)
	if len(names) == 0 {
		delete(d.kinds, k)
		delete(d.own, k)
	}
	d.count--
	d.live -= o.bytes()
}

// deleted drops an object if it is the one of the given identity. "" on either side is any.
func (d *draft) deleted(k kind, n name, uid string) {
	if o, ok := d.kinds[k][n]; ok && same(o.uid, uid) {
		d.drop(k, n)
	}
}

// missing returns the objects of a kind that aren't among those that exist, ordered.
func (d *draft) missing(k kind, exist map[name]string) (gone []Entry) {
	for n, o := range d.kinds[k] {
		if uid, ok := exist[n]; !ok || !same(o.uid, uid) {
			gone = append(gone, entry(k, n, o))
		}
	}
	slices.SortFunc(gone, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Key.Namespace, b.Key.Namespace), cmp.Compare(a.Key.Name, b.Key.Name))
	})
	return gone
}

func same(a, b string) bool { return a == b || a == "" || b == "" }
