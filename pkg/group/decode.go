package group

import (
	"encoding"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Problem is one thing that is wrong with a document.
type Problem struct {
	Path    string // of the field, as in "spec.volumes[1].size"; empty where the document itself is meant
	Message string // for people
}

// String writes the problem on one line.
func (p Problem) String() string {
	if p.Path == "" {
		return p.Message
	}
	return p.Path + ": " + p.Message
}

// ProblemsError is a document that can't be used, with every reason.
type ProblemsError struct{ Problems []Problem }

// Error lists every problem, one a line.
func (e *ProblemsError) Error() string {
	if len(e.Problems) == 1 {
		return e.Problems[0].String()
	}
	lines := make([]string, 0, len(e.Problems)+1)
	lines = append(lines, fmt.Sprintf("%d problems:", len(e.Problems)))
	for _, p := range e.Problems {
		lines = append(lines, "  "+p.String())
	}
	return strings.Join(lines, "\n")
}

// parse turns a document into a Group: defaults, then the document, then the environment, then
// the checks. Problems of every step are reported together.
func parse(data []byte, getenv func(string) string) (*Group, error) {
	doc, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, &ProblemsError{[]Problem{{Message: "no valid YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}}}
	}
	var tree any
	if err := json.UnmarshalCaseSensitivePreserveInts(doc, &tree); err != nil {
		return nil, &ProblemsError{[]Problem{{Message: "no valid document: " + err.Error()}}}
	}
	g := Default()
	d := decoder{bad: make(map[string]bool)}
	d.value("", tree, reflect.ValueOf(g).Elem())
	g.environ(getenv)
	v := validator(d) // goes on with the same problems
	v.group(g)
	if len(v.problems) > 0 {
		slices.SortStableFunc(v.problems, func(a, b Problem) int { return strings.Compare(a.Path, b.Path) })
		return nil, &ProblemsError{v.problems}
	}
	return g, nil
}

// decoder fills a struct from a decoded JSON tree. Other than a JSON package's decoder it goes on
// behind every problem, so that all of them are found in one go.
type decoder struct {
	problems []Problem
	bad      map[string]bool // paths with a problem: the checks behind leave them alone
}

// defaulter is a part that a document may lack. Where it has it, defaults goes before what it says there.
type defaulter interface{ defaults() }

func (d *decoder) fail(path, format string, args ...any) {
	d.problems = append(d.problems, Problem{path, fmt.Sprintf(format, args...)})
	d.bad[path] = true
}

func (d *decoder) value(path string, in any, out reflect.Value) {
	if in == nil {
		return // "field:" with nothing behind it: as if it were not there
	}
	if u, ok := out.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(path, in, u)
		return
	}
	switch out.Kind() {
	case reflect.Pointer:
		out.Set(reflect.New(out.Type().Elem()))
		if part, ok := out.Interface().(defaulter); ok {
			part.defaults()
		}
		d.value(path, in, out.Elem())
	case reflect.Interface:
		out.Set(reflect.ValueOf(in)) // free JSON
	case reflect.Struct:
		d.object(path, in, out)
	case reflect.Map:
		object, ok := in.(map[string]any)
		if !ok {
			d.fail(path, "must be an object, is %s", kindOf(in))
			return
		}
		out.Set(reflect.MakeMap(out.Type()))
		for name, v := range object {
			e := reflect.New(out.Type().Elem()).Elem()
			d.value(fmt.Sprintf("%s[%q]", path, name), v, e)
			out.SetMapIndex(reflect.ValueOf(name), e)
		}
	case reflect.Bool:
		b, ok := in.(bool)
		if !ok {
			d.fail(path, "must be true or false, is %s", kindOf(in))
			return
		}
		out.SetBool(b)
	case reflect.Slice:
		list, ok := in.([]any)
		if !ok {
			d.fail(path, "must be a list, is %s", kindOf(in))
			return
		}
		out.Set(reflect.MakeSlice(out.Type(), len(list), len(list)))
		for i, e := range list {
			d.value(path+"["+strconv.Itoa(i)+"]", e, out.Index(i))
		}
	case reflect.String:
		s, ok := in.(string)
		if !ok {
			d.fail(path, "must be a string, is %s", kindOf(in))
			return
		}
		out.SetString(s)
	case reflect.Int:
		n, ok := in.(int64)
		if !ok {
			d.fail(path, "must be a whole number, is %s", kindOf(in))
			return
		}
		out.SetInt(n)
	default:
		// A field type that documents don't have yet: a mistake in this package, found by
		// the first test that decodes one.
		panic("group: no decoding for " + out.Type().String())
	}
}

func (d *decoder) text(path string, in any, out encoding.TextUnmarshaler) {
	var s string
	switch in := in.(type) {
	case string:
		s = in
	case int64:
		s = strconv.FormatInt(in, 10)
	default:
		d.fail(path, "must be a string or a whole number, is %s", kindOf(in))
		return
	}
	if err := out.UnmarshalText([]byte(s)); err != nil {
		d.fail(path, "%v", err)
	}
}

func (d *decoder) object(path string, in any, out reflect.Value) {
	object, ok := in.(map[string]any)
	if !ok {
		d.fail(path, "must be an object, is %s", kindOf(in))
		return
	}
	fields := make(map[string]reflect.Value)
	var names []string
	for name, field := range fieldsOf(out) {
		fields[name] = field
		names = append(names, name)
	}
	for name, v := range object {
		field, ok := fields[name]
		if !ok {
			d.fail(join(path, name), "unknown field; known here: %s", strings.Join(names, ", "))
			continue
		}
		d.value(join(path, name), v, field)
	}
}

// fieldsOf yields the fields of a struct by the names that documents give them, those of an embedded struct among them.
func fieldsOf(v reflect.Value) iter.Seq2[string, reflect.Value] {
	return func(yield func(string, reflect.Value) bool) {
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.Anonymous {
				for name, field := range fieldsOf(v.Field(i)) {
					if !yield(name, field) {
						return
					}
				}
			} else if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); !yield(name, v.Field(i)) {
				return
			}
		}
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func kindOf(in any) string {
	switch in.(type) {
	case bool:
		return "a boolean"
	case string:
		return "a string"
	case int64, float64:
		return "a number"
	case []any:
		return "a list"
	}
	return "an object"
}
