package resourcewatch

import (
	"iter"
	"strings"

	"github.com/farshore/farshore/pkg/resourcewatch/selection"
)

// id names an object whatever version of its API it is read through.
type id struct{ group, resource, namespace, name string }

func (i id) place() place { return place{i.group, i.resource, i.namespace} }

func (i id) compare(j id) int {
	if c := i.place().compare(j.place()); c != 0 {
		return c
	}
	return strings.Compare(i.name, j.name)
}

// place is one kind in one namespace: it names a feed.
type place struct{ group, resource, namespace string }

func (p place) id(name string) id { return id{p.group, p.resource, p.namespace, name} }

func (p place) kind() kindID { return kindID{p.group, p.resource} }

func (p place) compare(q place) int {
	for _, pair := range [][2]string{{p.group, q.group}, {p.resource, q.resource}, {p.namespace, q.namespace}} {
		if c := strings.Compare(pair[0], pair[1]); c != 0 {
			return c
		}
	}
	return 0
}

// String is the kind and the namespace, for people.
func (p place) String() string {
	s := p.resource
	if p.group != "" {
		s += "." + p.group
	}
	if p.namespace != "" {
		s += " in " + p.namespace
	}
	return s
}

// kindID names a kind whatever version it is read in.
type kindID struct{ group, resource string }

// table holds something of each object, by place and name: that is half of what a map by id takes.
type table[T any] struct {
	rows map[place]map[string]T
	n    int
}

func newTable[T any]() *table[T] { return &table[T]{rows: make(map[place]map[string]T)} }

func (t *table[T]) get(i id) (T, bool) {
	v, ok := t.rows[i.place()][i.name]
	return v, ok
}

func (t *table[T]) put(i id, v T) {
	row := t.rows[i.place()]
	if row == nil {
		row = make(map[string]T)
		t.rows[i.place()] = row
	}
	if _, ok := row[i.name]; !ok {
		t.n++
	}
	row[i.name] = v
}

func (t *table[T]) delete(i id) {
	if _, ok := t.get(i); ok {
		t.n--
		delete(t.rows[i.place()], i.name)
	}
}

// all goes over everything.
func (t *table[T]) all() iter.Seq2[id, T] {
	return func(yield func(id, T) bool) {
		for p, row := range t.rows {
			for name, v := range row {
				if !yield(p.id(name), v) {
					return
				}
			}
		}
	}
}

// model is what the tenures know of the objects: every change that was taken from the feeds, and nothing else. It
// outlives them.
type model struct {
	closure *selection.Closure
	have    *table[*object]
	taken   map[place]bool // a whole was taken once
}

func newModel() *model {
	return &model{closure: selection.NewClosure(), have: newTable[*object](), taken: make(map[place]bool)}
}
