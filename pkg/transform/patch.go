package transform

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/cel-go/cel"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "k8s.io/apimachinery/pkg/util/json"
)

// What patches may cost.
const (
	maxCost   = 1_000_000 // of a condition, in CEL's units: about 0.1 s, what Kubernetes lets one of its own cost
	maxObject = 4 << 20   // bytes of JSON that a patch may make: no API server takes more than half
)

// patch is a Patch made ready.
type patch struct {
	path   string // in the rules
	target Target
	when   cel.Program       // nil: always
	steps  []jsonpatch.Patch // one operation each
}

// identity is what an object is called at the primary.
type identity struct {
	kind
	namespace, name string
}

func identityOf(obj *unstructured.Unstructured) identity {
	return identity{kindOf(obj), obj.GetNamespace(), obj.GetName()}
}

func (t Target) matches(id identity) bool {
	is := func(want, value string) bool { return want == "*" || want == value }
	return is(t.Group, id.group) && is(t.Kind, id.kind.kind) &&
		(t.Namespace == "" || is(t.Namespace, id.namespace)) && (t.Name == "" || is(t.Name, id.name))
}

// apply patches obj, which was called id at the primary, if the patch is meant for it.
func (p patch) apply(id identity, obj *unstructured.Unstructured) error {
	if !p.target.matches(id) {
		return nil
	}
	if p.when != nil {
		yes, err := holds(p.when, obj.Object)
		if err != nil {
			return fmt.Errorf("evaluate %s.when: %w", p.path, err)
		}
		if !yes {
			return nil
		}
	}
	doc, err := json.Marshal(obj.Object)
	if err != nil {
		return fmt.Errorf("write the object as JSON: %w", err)
	}
	for i, step := range p.steps {
		if doc, err = step.Apply(doc); err != nil {
			return fmt.Errorf("apply %s.patch[%d]: %w", p.path, i, err)
		}
		if len(doc) > maxObject {
			return fmt.Errorf("apply %s.patch[%d]: it makes the object larger than %d bytes", p.path, i, maxObject)
		}
	}
	var patched map[string]any
	if err := kjson.Unmarshal(doc, &patched); err != nil {
		return fmt.Errorf("read the object that %s made: %w", p.path, err)
	}
	obj.Object = patched
	return nil
}

var errNoBool = errors.New("the condition is neither true nor false")

func holds(when cel.Program, object map[string]any) (bool, error) {
	out, _, err := when.Eval(map[string]any{"object": object})
	if err != nil {
		return false, err
	}
	yes, ok := out.Value().(bool)
	if !ok {
		return false, errNoBool
	}
	return yes, nil
}
