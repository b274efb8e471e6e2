// Package transform makes of an object as the primary has it the object as the DR site is to have it.
//
// What an API server or its controllers own goes, so that another one takes the object; names of namespaces, classes,
// registries, hosts and DNS names are mapped, with the references to them; JSON patches with conditions in CEL do the rest.
// It is pure: what comes out depends on the rules and the object alone, so that all sites, and all
// times, make the same of the same. An object that no rule touches loses the fields that a server owns and nothing else.
// Where no rule maps a name to one that a rule maps again, and no patch is given, what came out comes out
// again if it is put in.
package transform

import "k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

// Transformer applies rules. Its methods may be called concurrently.
type Transformer struct {
	rules        Rules
	fingerprint  string
	hosts, names dnsNames
	registries   map[string]string // as the rules', with one name for docker.io
	patches      []patch
}

// version is raised with every change of what Apply makes of an object under the same rules.
const version = "1\n"

// Fingerprint differs for rules that differ, and for versions of this package that treat objects differently.
func (t *Transformer) Fingerprint() string { return t.fingerprint }

// Namespace returns what the namespace of the given name is called at the DR site.
func (t *Transformer) Namespace(name string) string {
	if to, ok := t.rules.Namespaces[name]; ok {
		return to
	}
	return name
}

// Apply changes obj in place. An error means that a patch can't be applied to it, or its condition can't be
// evaluated; obj is then in between and must not be used.
//
// The order is fixed: first what a server owns goes, then namespaces, storage classes, ingress classes, registries, hosts and DNS
// names are mapped, then the patches are applied, in the order of the rules. A patch's target is meant as at the primary, its condition and its
// operations see what everything before them has made. What no step but a patch may write, such as a Service's
// address, a patch may: it has the last word.
func (t *Transformer) Apply(obj *unstructured.Unstructured) error {
	id := identityOf(obj)
	owned(obj)
	t.namespaces(obj)
	t.storageClasses(obj)
	t.ingressClasses(obj)
	t.images(obj)
	t.hostnames(obj)
	t.dnsNames(obj)
	for _, p := range t.patches {
		if err := p.apply(id, obj); err != nil {
			return err
		}
	}
	return nil
}
