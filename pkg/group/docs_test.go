package group

import (
	"encoding"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/farshore/farshore/pkg/transform"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestExamplesAreValidAndInTheDocumentation(t *testing.T) {
	for _, file := range []string{"deploy/examples/group.yaml", "deploy/examples/objects.yaml"} {
		example := read(t, "../../"+file)
		if _, err := Parse([]byte(example)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if !strings.Contains(read(t, "../../docs/configuration.md"), "```yaml\n"+example+"```") {
			t.Errorf("docs/configuration.md doesn't show %s as it is", file)
		}
	}
}

// Every field and every variable has a row in the documentation, and a row shows the real default.
func TestDocumentationIsComplete(t *testing.T) {
	text := read(t, "../../docs/configuration.md")
	g := Default()
	g.Spec.Volumes = []Volume{{}}
	g.Spec.Objects = &Objects{Namespaces: []string{""}, LeaveOut: []ObjectPattern{{}}, Keep: []ObjectPattern{{}}, Recipients: []string{""}}
	g.Spec.Recovery.Archive = new(Archive)
	g.Spec.Recovery.Archive.defaults()
	g.Spec.Recovery.Archive.S3, g.Spec.Recovery.Archive.Recipients = new(S3), []string{""}
	r := &g.Spec.Recovery.Objects
	r.Identities, r.Inert = []string{""}, []GroupResource{{}}
	r.Patches = []transform.Patch{{Patch: []transform.Operation{{Value: ""}}}}
	paths := make(map[string]bool)
	walk("", reflect.ValueOf(g).Elem(), func(path, value string) {
		paths[path] = true
		_, row, ok := strings.Cut(text, "\n| `"+path+"` | ")
		if !ok {
			t.Errorf("docs/configuration.md has no row for %s", path)
			return
		}
		shown, _, _ := strings.Cut(row, " |")
		switch shown {
		case "required", "none", "what `path` has":
			shown = ""
		}
		if value == "0" && shown == "" {
			value = ""
		}
		if shown = strings.Trim(shown, "`"); !sameValue(shown, value) {
			t.Errorf("docs/configuration.md shows %q as the default of %s, it is %q", shown, path, value)
		}
	})
	for variable, path := range EnvironVariables() {
		if !strings.Contains(text, "| `"+variable+"` | `"+path+"` |") {
			t.Errorf("docs/configuration.md has no row for %s", variable)
		}
		if !paths[path] {
			t.Errorf("%s overrides %s, which is no field", variable, path)
		}
	}
}

func sameValue(shown, value string) bool {
	if shown == value {
		return true
	}
	var a, b Duration
	return a.UnmarshalText([]byte(shown)) == nil && b.UnmarshalText([]byte(value)) == nil && a == b
}

// walk calls leaf for every field that holds a value.
func walk(path string, v reflect.Value, leaf func(path, value string)) {
	if _, ok := v.Interface().(encoding.TextMarshaler); ok {
		leaf(path, fmt.Sprint(v.Interface()))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		walk(path, v.Elem(), leaf)
	case reflect.Struct:
		for name, field := range fieldsOf(v) {
			walk(join(path, name), field, leaf)
		}
	case reflect.Map:
		leaf(path, "")
	case reflect.Slice:
		for i := range v.Len() {
			walk(path+"[]", v.Index(i), leaf)
		}
	default:
		leaf(path, fmt.Sprint(v.Interface()))
	}
}
