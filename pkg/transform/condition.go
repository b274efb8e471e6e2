package transform

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/ext"
)

// environment is what conditions are written in: CEL's standard library, optional fields (object.?spec.?replicas.orValue(1))
// and the functions for strings, over the variable object.
func environment() (*cel.Env, error) {
	return cel.NewEnv(
		cel.Variable("object", cel.DynType),
		cel.OptionalTypes(),
		cel.CrossTypeNumericComparisons(true),
		ext.Strings(ext.StringsVersion(4)),
		cel.CustomTypeAdapter(ordered{types.DefaultTypeAdapter}),
	)
}

// condition compiles an expression; the error is on one line.
func condition(env *cel.Env, text string) (cel.Program, error) {
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		var all []string
		for _, e := range issues.Errors() {
			all = append(all, fmt.Sprintf("%s (column %d)", e.Message, e.Location.Column()+1))
		}
		return nil, fmt.Errorf("%s", strings.Join(all, "; "))
	}
	if out := ast.OutputType(); !out.IsEquivalentType(cel.BoolType) && !out.IsEquivalentType(cel.DynType) {
		return nil, fmt.Errorf("a condition is true or false, this one is %s", out)
	}
	program, err := env.Program(ast, cel.CostLimit(maxCost))
	if err != nil {
		return nil, fmt.Errorf("prepare the condition: %w", err)
	}
	return program, nil
}

// ordered gives the entries of maps to conditions in the order of their keys: with Go's order a condition could be true once and
// false the next time.
type ordered struct{ types.Adapter }

// NativeToValue wraps maps, also inside of lists and maps.
func (o ordered) NativeToValue(value any) ref.Val {
	switch v := value.(type) {
	case map[string]any:
		return orderedMap{types.NewStringInterfaceMap(o, v), v}
	case []any:
		return types.NewDynamicList(o, v)
	}
	return o.Adapter.NativeToValue(value)
}

type orderedMap struct {
	traits.Mapper
	entries map[string]any
}

// Iterator goes through the keys in order.
func (m orderedMap) Iterator() traits.Iterator {
	keys := make([]string, 0, len(m.entries))
	for key := range m.entries {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return types.NewStringList(types.DefaultTypeAdapter, keys).Iterator()
}
