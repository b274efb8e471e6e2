// Package selection tells which objects of a cluster belong to a protection group, and what of them leaves
// the cluster. It is pure: it talks to nobody and keeps no clock.
//
// An object belongs to the group if it lies in one of the group's namespaces and matches the group's label
// selector, or if something that belongs to the group needs it: what a workload mounts, names or runs as, the
// bindings and roles of its service accounts, the definition of a custom resource, the class and the volume
// of a claim, the webhook that one of the services answers. What a controller makes again by itself is left
// out; Defaults lists those rules, the document may add to them and except from them.
//
// Facts reduces an object to what the decision needs, and Closure keeps the decision for all objects while
// they come, change and go: after any history it selects exactly what it would select had it been told of
// the objects that exist, once, in any order.
package selection

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/farshore/farshore/pkg/events"
)

// Kind is one resource that an API server offers.
type Kind struct {
	Group, Version, Resource string // "apps", "v1", "deployments"
	Kind                     string // "Deployment"
	Namespaced               bool
}

// Pattern matches objects. An empty Group is the core group; "*" matches every group or resource; an empty
// Namespace or Name matches every one, as "*" does.
type Pattern struct {
	Group, Resource string
	Namespace, Name string
}

// Rules are a group's.
type Rules struct {
	Namespaces []string  // at least one
	Selector   string    // label selector; "" matches every object of the namespaces
	LeaveOut   []Pattern // never sent, whatever needs them
	// Keep excepts objects from Defaults. A cluster-scoped object that is kept belongs to the group although
	// nothing is known to need it.
	Keep []Pattern
}

// Selection applies Rules. Its methods may be called concurrently.
type Selection struct {
	rules      Rules
	namespaces map[string]bool
	selector   labels.Selector
}

// New checks the rules.
func New(r Rules) (*Selection, error) {
	s := &Selection{rules: r, namespaces: make(map[string]bool)}
	for _, n := range r.Namespaces {
		s.namespaces[n] = true
	}
	if len(s.namespaces) == 0 {
		return nil, fmt.Errorf("select objects: no namespace is given")
	}
	var err error
	if s.selector, err = labels.Parse(r.Selector); err != nil {
		return nil, fmt.Errorf("select objects: label selector %q: %w", r.Selector, err)
	}
	return s, nil
}

// Namespaces returns the group's namespaces, in the document's order.
func (s *Selection) Namespaces() []string { return s.rules.Namespaces }

// Ref names an object by its kind, as references between objects do. In one API group a kind has one resource.
type Ref struct {
	Group, Kind     string
	Namespace, Name string
}

// Facts are what the selection needs to know of an object, a fraction of its size.
type Facts struct {
	Key events.ObjectKey
	Ref Ref
	// Rule is the name of the rule that leaves the object out; "" means that it is sent if it is needed.
	Rule string
	// Root means that the object belongs to the group whether or not anything needs it.
	Root bool
	// Needs are the objects that belong to the group if this one does.
	Needs []Ref
	// Serves are the objects that make this one belong to the group if one of them does.
	Serves []Ref
}

// Facts reduces an object, as it was read, to what Closure needs. It keeps nothing of obj but strings.
func (s *Selection) Facts(k Kind, obj *unstructured.Unstructured) Facts {
	f := Facts{
		Key: events.ObjectKey{
			Group: k.Group, Version: k.Version, Resource: k.Resource, Namespace: obj.GetNamespace(), Name: obj.GetName(),
		},
		Ref: Ref{k.Group, k.Kind, obj.GetNamespace(), obj.GetName()},
	}
	f.Rule = s.leftOut(k, obj)
	if f.Rule != "" && !passes(f.Rule) {
		return f
	}
	f.Root = f.Rule == "" && s.root(k, obj)
	s.references(k, obj, &f)
	return f
}

// root tells whether an object that isn't left out belongs to the group by itself.
func (s *Selection) root(k Kind, obj *unstructured.Unstructured) bool {
	switch {
	case k.Namespaced:
		return s.namespaces[obj.GetNamespace()] && s.selector.Matches(labels.Set(obj.GetLabels()))
	case k.Group == "" && k.Kind == "Namespace":
		return s.namespaces[obj.GetName()]
	}
	return s.kept(k, obj.GetNamespace(), obj.GetName())
}
