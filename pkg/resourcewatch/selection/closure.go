package selection

import (
	"slices"
	"strings"

	"github.com/farshore/farshore/pkg/events"
)

// Change is an object that began or ceased to belong to the group.
type Change struct {
	Key      events.ObjectKey
	Selected bool
}

// Closure keeps which of the objects it was told of belong to the group. Its methods must not be called
// concurrently. What a call costs depends on what it changes, not on how many objects there are: an object
// whose facts didn't change costs a comparison.
type Closure struct {
	nodes map[Ref]*node
	keys  map[identity]*node
}

// identity is an object's key without the version that it was read in.
type identity struct{ group, resource, namespace, name string }

func identify(k events.ObjectKey) identity {
	return identity{k.Group, k.Resource, k.Namespace, k.Name}
}

// node is an object, or what a reference names whether or not it exists. There is a way from one node to
// another if the second belongs to the group where the first does; a way goes through what doesn't exist
// and through what is left out.
type node struct {
	ref     Ref
	key     events.ObjectKey
	exists  bool
	sent    bool // unless it isn't reached
	root    bool
	reached bool

	needs, serves       []*node // as its own facts say: ways from it, and ways to it
	neededBy, followers []*node // the same ways, seen from the other end
}

// NewClosure returns one that knows of no object.
func NewClosure() *Closure {
	return &Closure{nodes: make(map[Ref]*node), keys: make(map[identity]*node)}
}

// Selected tells whether an object exists and belongs to the group.
func (c *Closure) Selected(k events.ObjectKey) bool {
	n := c.keys[identify(k)]
	return n != nil && n.selected()
}

func (n *node) selected() bool { return n.exists && n.sent && n.reached }

// Put tells of an object as it is now. It returns what began or ceased to belong to the group by that, in the
// order of the keys; the object itself is among it only if that is so for it.
func (c *Closure) Put(f Facts) []Change {
	n := c.node(f.Ref)
	t := transaction{before: make(map[*node]bool)}
	t.touch(n)
	if n.exists && identify(n.key) != identify(f.Key) {
		delete(c.keys, identify(n.key))
	}
	n.key, n.exists, n.sent = f.Key, true, f.Rule == ""
	c.keys[identify(f.Key)] = n
	c.relate(&t, n, f.Root, f.Needs, f.Serves)
	return t.changes()
}

// Delete tells that an object exists no longer. It returns what ceased to belong to the group by that, the
// object itself included.
func (c *Closure) Delete(k events.ObjectKey) []Change {
	n := c.keys[identify(k)]
	if n == nil {
		return nil
	}
	t := transaction{before: make(map[*node]bool)}
	t.touch(n)
	delete(c.keys, identify(k))
	n.exists = false
	c.relate(&t, n, false, nil, nil)
	changes := t.changes()
	c.drop(n)
	return changes
}

func (c *Closure) node(r Ref) *node {
	n := c.nodes[r]
	if n == nil {
		n = &node{ref: r}
		c.nodes[r] = n
	}
	return n
}

// drop forgets a node that neither exists nor is named.
func (c *Closure) drop(n *node) {
	if !n.exists && len(n.neededBy) == 0 && len(n.followers) == 0 {
		delete(c.nodes, n.ref)
	}
}

// relate replaces the ways that n's own facts make.
func (c *Closure) relate(t *transaction, n *node, root bool, needs, serves []Ref) {
	if n.root == root && same(n.needs, needs) && same(n.serves, serves) {
		return
	}
	oldNeeds, oldServes := n.needs, n.serves
	n.root, n.needs, n.serves = root, c.named(needs, n), c.named(serves, n)
	for _, m := range n.needs {
		m.neededBy = append(m.neededBy, n)
	}
	for _, m := range n.serves {
		m.followers = append(m.followers, n)
	}
	for _, m := range oldNeeds {
		m.neededBy = without(m.neededBy, n)
	}
	for _, m := range oldServes {
		m.followers = without(m.followers, n)
	}
	// What was reached over a way that is no more is doubted, with all that lies behind it; n itself where
	// it was a root or served something else.
	t.doubt(append(slices.DeleteFunc(slices.Clone(oldNeeds), func(m *node) bool { return m.root }), n))
	for _, m := range slices.Concat(oldNeeds, oldServes) {
		c.drop(m)
	}
}

// named returns the nodes of refs without repetitions and without n itself.
func (c *Closure) named(refs []Ref, n *node) []*node {
	var out []*node
	for _, r := range refs {
		if m := c.node(r); m != n && !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}

func same(nodes []*node, refs []Ref) bool {
	return slices.EqualFunc(nodes, refs, func(n *node, r Ref) bool { return n.ref == r })
}

func without(list []*node, n *node) []*node {
	if i := slices.Index(list, n); i >= 0 {
		last := len(list) - 1
		list[i] = list[last]
		list[last] = nil
		return list[:last]
	}
	return list
}

// transaction remembers which nodes were selected before a call changed them.
type transaction struct{ before map[*node]bool }

func (t *transaction) touch(n *node) {
	if _, ok := t.before[n]; !ok {
		t.before[n] = n.selected()
	}
}

// doubt finds out anew whether the nodes, and whatever lies behind them, are reached. Nodes that are roots
// are never in doubt, so what lies behind them isn't either.
func (t *transaction) doubt(from []*node) {
	doubted := make(map[*node]bool)
	queue := slices.Clone(from)
	for len(queue) > 0 {
		n := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if doubted[n] {
			continue
		}
		doubted[n] = true
		if n.reached {
			t.touch(n)
			n.reached = false
			queue = n.next(queue, func(m *node) bool { return m.reached && !m.root })
		}
	}
	for n := range doubted {
		if n.root || slices.ContainsFunc(n.neededBy, isReached) || slices.ContainsFunc(n.serves, isReached) {
			t.reach(n)
		}
	}
}

// reach marks a node and what lies behind it.
func (t *transaction) reach(n *node) {
	queue := []*node{n}
	for len(queue) > 0 {
		n := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if n.reached {
			continue
		}
		t.touch(n)
		n.reached = true
		queue = n.next(queue, func(m *node) bool { return !m.reached })
	}
}

// next appends the nodes that a way from n leads to.
func (n *node) next(queue []*node, which func(*node) bool) []*node {
	for _, list := range [][]*node{n.needs, n.followers} {
		for _, m := range list {
			if which(m) {
				queue = append(queue, m)
			}
		}
	}
	return queue
}

func isReached(n *node) bool { return n.reached }

func (t *transaction) changes() []Change {
	var out []Change
	for n, was := range t.before {
		if is := n.selected(); is != was {
			out = append(out, Change{n.key, is})
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return compare(a.Key, b.Key) })
	return out
}

func compare(a, b events.ObjectKey) int {
	for _, pair := range [][2]string{{a.Group, b.Group}, {a.Resource, b.Resource}, {a.Namespace, b.Namespace}, {a.Name, b.Name}} {
		if n := strings.Compare(pair[0], pair[1]); n != 0 {
			return n
		}
	}
	return 0
}
