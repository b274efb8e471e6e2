package transform

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Compile checks the rules and prepares them. Where there are problems the Transformer is nil.
func Compile(r Rules) (*Transformer, []Problem) {
	var c checker
	c.namespaces(r.Namespaces)
	c.mapping("storageClasses", r.StorageClasses, c.subdomain("a storage class"))
	c.mapping("ingressClasses", r.IngressClasses, c.subdomain("an ingress class"))
	c.mapping("registries", r.Registries, c.registry)
	c.domains("hosts", r.Hosts, 0)
	c.domains("names", r.Names, 1)
	t := &Transformer{rules: r, hosts: r.Hosts, names: r.Names, registries: make(map[string]string)}
	for from, to := range r.Registries {
		t.registries[strings.Replace(from, "index.docker.io", "docker.io", 1)] = to
	}
	t.patches = c.patches(r.Patches)
	text, err := json.Marshal(r)
	if err != nil {
		c.fail("patches", "can't be written as JSON: %v", err)
	}
	if len(c.problems) > 0 {
		return nil, c.problems
	}
	sum := sha256.Sum256(append([]byte(version), text...))
	t.fingerprint = hex.EncodeToString(sum[:8])
	return t, nil
}

// checker gathers what is wrong with rules.
type checker struct{ problems []Problem }

func (c *checker) fail(path, format string, args ...any) {
	c.problems = append(c.problems, Problem{path, fmt.Sprintf(format, args...)})
}

// entry is the path of one entry of a map.
func entry(field, key string) string { return fmt.Sprintf("%s[%q]", field, key) }

// mapping checks both sides of every entry; check returns what is wrong, or nothing.
func (c *checker) mapping(field string, m map[string]string, check func(string) string) {
	for _, from := range slices.Sorted(maps.Keys(m)) {
		switch wrong := check(from); {
		case wrong != "":
			c.fail(entry(field, from), "%s", wrong)
		case m[from] == "":
			c.fail(entry(field, from), "is missing; write what %s becomes at the DR site", from)
		default:
			if wrong := check(m[from]); wrong != "" {
				c.fail(entry(field, from), "%s", wrong)
			}
		}
	}
}

func (c *checker) namespaces(m map[string]string) {
	c.mapping("namespaces", m, func(name string) string {
		if len(validation.IsDNS1123Label(name)) > 0 {
			return fmt.Sprintf("%q is no namespace; its name has at most 63 lower-case letters, digits and inner hyphens", name)
		}
		return ""
	})
	taken := make(map[string]string)
	for _, from := range slices.Sorted(maps.Keys(m)) {
		to := m[from]
		if to == "" {
			continue // which is a problem already
		}
		if first, ok := taken[to]; ok {
			c.fail(entry("namespaces", from), "%q is what %s becomes already: objects of the same name would be one", to, first)
		}
		taken[to] = from
		if next, ok := m[to]; ok && next != to {
			c.fail(entry("namespaces", from), "%q is mapped itself: it would not be clear whose objects lie in it", to)
		}
	}
}

func (*checker) subdomain(what string) func(string) string {
	return func(name string) string {
		if len(validation.IsDNS1123Subdomain(name)) > 0 {
			return fmt.Sprintf("%q is no name of %s", name, what)
		}
		return ""
	}
}

var registry = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$`)

func (*checker) registry(name string) string {
	if first, _, _ := strings.Cut(name, "/"); !registry.MatchString(name) || !isRegistry(first) {
		return fmt.Sprintf("%q is no registry; write a host, its port and the beginning of a path, as in registry.example:5000/team", name)
	}
	return ""
}

// domains checks rules for DNS names that have at least the given number of dots.
func (c *checker) domains(field string, m map[string]string, dots int) {
	c.mapping(field, m, func(name string) string {
		host := strings.TrimPrefix(name, "*.")
		switch {
		case len(validation.IsDNS1123Subdomain(host)) > 0:
			return fmt.Sprintf("%q is no DNS name; write it in lower case, *. in front stands for every name below it", name)
		case strings.Count(name, ".") < dots:
			return fmt.Sprintf("%q has no dot: a single word may be anything", name)
		}
		return ""
	})
	for _, from := range slices.Sorted(maps.Keys(m)) {
		if to := m[from]; to != "" && strings.HasPrefix(from, "*.") != strings.HasPrefix(to, "*.") {
			c.fail(entry(field, from), "both names begin with *. or neither does; this becomes %q", to)
		}
	}
}

func (c *checker) patches(list []Patch) []patch {
	if len(list) == 0 {
		return nil
	}
	env, err := environment()
	if err != nil {
		c.fail("patches", "conditions can't be read: %v", err)
		return nil
	}
	out := make([]patch, len(list))
	for i, p := range list {
		out[i] = c.patch(fmt.Sprintf("patches[%d]", i), p, env)
	}
	return out
}

var kindName = regexp.MustCompile(`^[A-Z][A-Za-z0-9]{0,62}$`)

func (c *checker) patch(path string, p Patch, env *cel.Env) patch {
	out := patch{path: path, target: p.Target}
	target := path + ".target"
	if g := p.Target.Group; g != "" && g != "*" && len(validation.IsDNS1123Subdomain(g)) > 0 {
		c.fail(target+".group", "%q is no API group; write it without a version, as in apps or networking.k8s.io, or leave it empty for the core's", g)
	}
	switch k := p.Target.Kind; {
	case k == "":
		c.fail(target+".kind", "is missing; write it as manifests do, as in Deployment, or * for every kind")
	case k != "*" && !kindName.MatchString(k):
		c.fail(target+".kind", "%q is no kind; write it as manifests do, as in Deployment", k)
	}
	if n := p.Target.Namespace; n != "" && n != "*" && len(validation.IsDNS1123Label(n)) > 0 {
		c.fail(target+".namespace", "%q is no namespace", n)
	}
	if strings.ContainsAny(p.Target.Name, "/% \t\n") {
		c.fail(target+".name", "%q is no object's name; only a whole name or * can be given", p.Target.Name)
	}
	if p.When != "" {
		var err error
		if out.when, err = condition(env, p.When); err != nil {
			c.fail(path+".when", "%v", err)
		}
	}
	if len(p.Patch) == 0 {
		c.fail(path+".patch", "is missing; a patch has at least one operation")
	}
	for i, op := range p.Patch {
		out.steps = append(out.steps, c.operation(fmt.Sprintf("%s.patch[%d]", path, i), op))
	}
	return out
}

func (c *checker) operation(path string, op Operation) jsonpatch.Patch {
	value, from := false, false
	switch op.Op {
	case "add", "replace", "test":
		value = true
	case "move", "copy":
		from = true
	case "remove":
	case "":
		c.fail(path+".op", "is missing; write add, remove, replace, move, copy or test")
		return nil
	default:
		c.fail(path+".op", "must be add, remove, replace, move, copy or test, is %q", op.Op)
		return nil
	}
	c.pointer(path+".path", op.Path, op.Op != "test")
	if from {
		c.pointer(path+".from", op.From, op.Op == "move")
	} else if op.From != "" {
		c.fail(path+".from", "is for move and copy; %s has none", op.Op)
	}
	switch {
	case value && op.Value == nil:
		c.fail(path+".value", "is missing; %s needs it, and it can't be null", op.Op)
	case !value && op.Value != nil:
		c.fail(path+".value", "is for add, replace and test; %s has none", op.Op)
	}
	text, err := json.Marshal([]map[string]any{{"op": op.Op, "path": op.Path, "from": op.From, "value": op.Value}})
	if err != nil {
		c.fail(path+".value", "can't be written as JSON: %v", err)
		return nil
	}
	step, err := jsonpatch.DecodePatch(text)
	if err != nil {
		c.fail(path, "is no operation of a JSON patch: %v", err)
	}
	return step
}

var escape = regexp.MustCompile(`~([^01]|$)`)

// kept is what a patch must not write: an object is found by it, or it is the API server's.
var kept = append([]string{"", "/apiVersion", "/kind", "/status", "/metadata", "/metadata/name", "/metadata/namespace"}, func() []string {
	out := make([]string, len(ownedMetadata))
	for i, field := range ownedMetadata {
		out[i] = "/metadata/" + field
	}
	return out
}()...)

func (c *checker) pointer(path, pointer string, writes bool) {
	switch {
	case pointer != "" && pointer[0] != '/' || escape.MatchString(pointer):
		c.fail(path, "%q is no JSON pointer; write /spec/replicas, with ~1 for a slash in a name and ~0 for a tilde", pointer)
	case pointer == "":
		c.fail(path, "is missing; write a JSON pointer, as in /spec/replicas")
	case writes && (slices.Contains(kept, pointer) || strings.HasPrefix(pointer, "/status/")):
		c.fail(path, "%s can't be patched: objects are found by their kind and name, and the API server owns the rest of this", pointer)
	}
}
