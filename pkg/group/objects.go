package group

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/farshore/farshore/pkg/transform"
)

// Objects is about the Kubernetes objects that belong to the group, at the primary.
type Objects struct {
	Namespaces []string        `json:"namespaces"`           // at least one
	Selector   string          `json:"selector,omitempty"`   // label selector; empty: every object of the namespaces
	LeaveOut   []ObjectPattern `json:"leaveOut,omitempty"`   // never captured, beyond the built-in rules
	Keep       []ObjectPattern `json:"keep,omitempty"`       // exceptions from the built-in rules
	Recipients []string        `json:"recipients,omitempty"` // age recipients; Secrets leave the capturer only encrypted for them
}

// ObjectPattern matches objects. "*" stands for everything.
type ObjectPattern struct {
	Group     string `json:"group,omitempty"`     // API group; empty: the core's
	Resource  string `json:"resource"`            // plural, as in "deployments"
	Namespace string `json:"namespace,omitempty"` // empty: every one, and none
	Name      string `json:"name,omitempty"`      // empty: every one
}

// RecoveryObjects is about the objects at the DR site.
type RecoveryObjects struct {
	// Apply keeps the DR site's API server at the newest commit. Without it only the durable copy is kept.
	Apply      bool            `json:"apply"`
	Identities []string        `json:"identities,omitempty"` // files with age identities
	Inert      []GroupResource `json:"inert,omitempty"`      // custom kinds that may be applied before a takeover

	transform.Rules
}

// GroupResource names a kind by its resource.
type GroupResource struct {
	Group    string `json:"group"`    // API group
	Resource string `json:"resource"` // plural
}

// AppliesObjects tells whether the DR site needs an API server.
func (g *Group) AppliesObjects() bool { return g.Spec.Objects != nil && g.Spec.Recovery.Objects.Apply }

func (v *validator) objects(path string, o *Objects) {
	if o == nil {
		return
	}
	if len(o.Namespaces) == 0 {
		v.fail(path+".namespaces", "is missing; objects are captured from at least one namespace")
	}
	v.each(path+".namespaces", o.Namespaces, v.label)
	if _, err := labels.Parse(o.Selector); err != nil {
		v.fail(path+".selector", "%q is no label selector: %v", o.Selector, err)
	}
	v.patterns(path+".leaveOut", o.LeaveOut)
	v.patterns(path+".keep", o.Keep)
	v.each(path+".recipients", o.Recipients, v.recipient)
}

// each checks the entries of a list, which must differ.
func (v *validator) each(path string, list []string, check func(path, value string)) {
	for i, value := range list {
		at := path + "[" + strconv.Itoa(i) + "]"
		check(at, value)
		if first := slices.Index(list, value); first < i && value != "" {
			v.fail(at, "%q is already given by %s[%d]", value, path, first)
		}
	}
}

func (v *validator) patterns(path string, list []ObjectPattern) {
	for i, p := range list {
		at := path + "[" + strconv.Itoa(i) + "]"
		if p.Group != "*" {
			v.apiGroup(at+".group", p.Group)
		}
		if p.Resource != "*" {
			v.resource(at+".resource", p.Resource)
		}
		if p.Namespace != "*" && p.Namespace != "" {
			v.label(at+".namespace", p.Namespace)
		}
		if strings.ContainsAny(p.Name, "/% \t\n") || p.Name == "." || p.Name == ".." || len(p.Name) > maxUID {
			v.fail(at+".name", "%q is no object's name; only a whole name or * can be given", p.Name)
		}
	}
}

func (v *validator) recoveryObjects(path string, r RecoveryObjects, o *Objects) {
	v.each(path+".identities", r.Identities, v.path)
	for i, kind := range r.Inert {
		at := path + ".inert[" + strconv.Itoa(i) + "]"
		if kind.Group == "" {
			v.fail(at+".group", "is missing; only custom kinds are listed, and they have one")
		}
		v.apiGroup(at+".group", kind.Group)
		v.resource(at+".resource", kind.Resource)
		if first := slices.Index(r.Inert, kind); first < i {
			v.fail(at, "is already given by %s.inert[%d]", path, first)
		}
	}
	_, problems := transform.Compile(r.Rules)
	for _, p := range problems {
		v.fail(path+"."+p.Path, "%s", p.Message)
	}
	if o == nil {
		if !reflect.DeepEqual(r, Default().Spec.Recovery.Objects) {
			v.fail(path, "is given, but no objects are captured; spec.objects says which")
		}
		return
	}
	for from, to := range r.Namespaces {
		if _, moves := r.Namespaces[to]; !moves && from != to && slices.Contains(o.Namespaces, to) {
			v.fail(fmt.Sprintf("%s.namespaces[%q]", path, from),
				"%q is one of the group's own namespaces and keeps its name: objects of the same name would be one", to)
		}
	}
}

func (v *validator) label(path, name string) {
	switch {
	case name == "":
		v.fail(path, "is missing")
	case len(validation.IsDNS1123Label(name)) > 0:
		v.fail(path, "%q is no namespace; its name has at most 63 lower-case letters, digits and inner hyphens", name)
	}
}

func (v *validator) apiGroup(path, name string) {
	if name != "" && len(validation.IsDNS1123Subdomain(name)) > 0 {
		v.fail(path, "%q is no API group; write it without a version, as in apps or networking.k8s.io, or leave it empty for the core's", name)
	}
}

func (v *validator) resource(path, name string) {
	switch {
	case name == "":
		v.fail(path, "is missing; write the plural, as in deployments")
	case len(validation.IsDNS1123Subdomain(name)) > 0:
		v.fail(path, "%q is no resource; write the plural in lower case, as in deployments", name)
	}
}
