package transform

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
)

// filler makes objects that have every field, as the types of Kubernetes define them.
type filler struct {
	random *rand.Rand
	word   func(path string) string // what a string field holds
}

// builtIn returns every kind of Kubernetes that has metadata, in order.
func builtIn() []schema.GroupVersionKind {
	var out []schema.GroupVersionKind
	for gvk, typ := range scheme.Scheme.AllKnownTypes() {
		meta, ok := typ.FieldByName("ObjectMeta")
		if ok && meta.Anonymous && gvk.Version != runtime.APIVersionInternal && gvk.Group != "extensions" && // which no server has any more
			!strings.HasSuffix(gvk.Kind, "Review") && gvk.Kind != "Eviction" && gvk.Kind != "Binding" && gvk.Kind != "TokenRequest" {
			out = append(out, gvk)
		}
	}
	slices.SortFunc(out, func(a, b schema.GroupVersionKind) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// object returns an object of the kind with every field set.
func (f filler) object(t *testing.T, gvk schema.GroupVersionKind) *unstructured.Unstructured {
	t.Helper()
	typed, err := scheme.Scheme.New(gvk)
	if err != nil {
		t.Fatal(err)
	}
	f.fill("", reflect.ValueOf(typed).Elem())
	text, err := json.Marshal(typed)
	if err != nil {
		t.Fatal(err)
	}
	obj := new(unstructured.Unstructured)
	if err := json.Unmarshal(text, &obj.Object); err != nil {
		t.Fatal(err)
	}
	// Numbers are read as an API's client reads them.
	if obj.Object, err = numbers(text); err != nil {
		t.Fatal(err)
	}
	obj.SetGroupVersionKind(gvk)
	return obj
}

func numbers(text []byte) (map[string]any, error) {
	var u unstructured.Unstructured
	withKind := append([]byte(`{"apiVersion":"x","kind":"x",`), text[1:]...)
	if err := u.UnmarshalJSON(withKind); err != nil {
		return nil, err
	}
	return u.Object, nil
}

func (f filler) fill(path string, v reflect.Value, above ...reflect.Type) {
	if slices.Contains(above, v.Type()) {
		return // a type that contains itself is filled once
	}
	if v.Kind() == reflect.Struct {
		above = append(slices.Clone(above), v.Type())
	}
	switch at := v.Addr().Interface().(type) {
	case *metav1.Time:
		*at = metav1.NewTime(time.Unix(1, 0))
		return
	case *metav1.MicroTime:
		*at = metav1.NewMicroTime(time.Unix(1, 0))
		return
	case *resource.Quantity:
		*at = resource.MustParse("3")
		return
	case *intstr.IntOrString:
		*at = intstr.FromString(f.word(path))
		return
	case *runtime.RawExtension:
		at.Raw = []byte(`{}`)
		return
	case *metav1.FieldsV1:
		*at = *metav1.NewFieldsV1(`{}`)
		return
	case *[]byte:
		*at = []byte(f.word(path))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(path, v.Elem(), above...)
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Type().Field(i)
			if !field.IsExported() {
				continue
			}
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name == "" {
				f.fill(path, v.Field(i), above...)
				continue
			}
			f.fill(path+"."+name, v.Field(i), above...)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		f.fill(path+"[]", v.Index(0), above...)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		f.fill(path+"{key}", key, above...)
		f.fill(path+"{}", value, above...)
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString(f.word(path))
	case reflect.Bool:
		v.SetBool(f.random.IntN(2) == 0)
	case reflect.Int32, reflect.Int64, reflect.Int:
		v.SetInt(1 + f.random.Int64N(100))
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(1 + uint64(f.random.Int64N(100)))
	case reflect.Float64:
		v.SetFloat(1.5)
	default:
		panic("no filling for " + v.Type().String() + " at " + path)
	}
}

func newRandom(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// A mapping reaches every place in the kinds of Kubernetes that holds such a name: each string field that is called like one is
// filled with a name that the rules map, and then nothing of it may be left. What comes out may be put in again.
func TestMappingIsComplete(t *testing.T) {
	transformer := compile(t, Rules{
		Namespaces:     map[string]string{"bank": "bank-dr"},
		StorageClasses: map[string]string{"gold": "silver"},
		IngressClasses: map[string]string{"outer": "inner"},
		Registries:     map[string]string{"registry.example": "mirror.example/copies"},
		Hosts:          map[string]string{"*.bank.example": "*.dr.example"},
	})
	mapped := []string{"bank", "gold", "outer", "registry.example/app:1", "www.bank.example"}
	seen := make(map[string]int)
	for _, gvk := range builtIn() {
		f := filler{random: newRandom(t), word: func(path string) string {
			value := nameAt(gvk.Kind, path)
			seen[value]++
			return value
		}}
		obj := f.object(t, gvk)
		check := func() {
			t.Helper()
			if err := transformer.Apply(obj); err != nil {
				t.Errorf("%v: %v", gvk, err)
			}
			walkStrings("", obj.Object, func(path, value string) {
				if slices.Contains(mapped, value) {
					t.Errorf("%v: %s is left at %s", gvk, value, path)
				}
			})
		}
		check()
		once := obj.DeepCopy()
		check()
		if d := differences("", once.Object, obj.Object); len(d) > 0 {
			t.Errorf("%v: a second time changed %v", gvk, d)
		}
	}
	for _, name := range mapped {
		if seen[name] == 0 {
			t.Errorf("nothing was filled with %s", name)
		}
	}
}

// nameAt is a name that is to be mapped, where the field at path is called as if it held one; else it is "x".
func nameAt(kind, path string) string {
	last := path[strings.LastIndexByte(path, '.')+1:]
	switch {
	case strings.HasSuffix(path, ".storageos.volumeNamespace"): // StorageOS's own
	case strings.Contains(path, ".scopeSelector."): // of a quota, by properties of Pods
	case strings.HasSuffix(path, "abels{key}") || last == "key":
		return nameLabel
	case strings.HasSuffix(path, "atchLabels{}") || strings.HasSuffix(path, "atchExpressions[].values[]"):
		return "bank"
	case strings.Contains(strings.ToLower(last), "namespace") && !strings.Contains(last, "{"):
		return "bank"
	case kind == "Namespace" && path == ".metadata.name":
		return "bank"
	case last == "storageClassName":
		return "gold"
	case last == "ingressClassName":
		return "outer"
	case strings.Contains(path, "ontainers[]") && last == "image" || strings.HasSuffix(path, ".image.reference"):
		return "registry.example/app:1"
	case kind == "Ingress" && (last == "host" || last == "hosts[]"):
		return "www.bank.example"
	}
	return "x"
}

// An object that no rule is for loses what a server owns and nothing else, and a second time nothing at all.
func TestOnlyOwnedFieldsGo(t *testing.T) {
	transformer := compile(t, Rules{
		Namespaces: map[string]string{"elsewhere": "there"}, StorageClasses: map[string]string{"a": "b"}, IngressClasses: map[string]string{"a": "b"},
		Registries: map[string]string{"a.example": "b.example"}, Hosts: map[string]string{"*.a.example": "*.b.example"}, Names: map[string]string{"*.a.example": "*.b.example"},
		Patches: []Patch{{Target: Target{Group: "*", Kind: "*"}, When: "object.metadata.name == 'nobody'", Patch: []Operation{{Op: "remove", Path: "/spec"}}}},
	})
	random := newRandom(t)
	f := filler{random: random, word: func(string) string { return fmt.Sprintf("w%d", random.IntN(1000)) }}
	for _, gvk := range builtIn() {
		obj := f.object(t, gvk)
		before := obj.DeepCopy()
		if err := transformer.Apply(obj); err != nil {
			t.Fatalf("%v: %v", gvk, err)
		}
		owned := slices.Concat(ownedFields["*"], ownedFields[gvk.Kind])
		gone := differences("", before.Object, obj.Object)
		for _, path := range gone {
			if !slices.Contains(owned, path) {
				t.Errorf("%v: %s changed", gvk, path)
			}
		}
		for _, path := range owned {
			if has(before.Object, path) && !slices.Contains(gone, path) && gvk.Kind != "Job" { // whose selector may be its own
				t.Errorf("%v: %s is left", gvk, path)
			}
		}
		once := obj.DeepCopy()
		if err := transformer.Apply(obj); err != nil {
			t.Fatalf("%v: %v", gvk, err)
		}
		if d := differences("", once.Object, obj.Object); len(d) > 0 {
			t.Errorf("%v: a second time changed %v", gvk, d)
		}
	}
}

// ownedFields is what goes, by kind.
var ownedFields = map[string][]string{
	"*": {".status", ".metadata.uid", ".metadata.resourceVersion", ".metadata.generation", ".metadata.creationTimestamp", ".metadata.deletionTimestamp",
		".metadata.deletionGracePeriodSeconds", ".metadata.selfLink", ".metadata.managedFields", ".metadata.ownerReferences"},
	"Namespace":                 {".spec"},
	"Service":                   {".spec.clusterIP", ".spec.clusterIPs", ".spec.healthCheckNodePort", ".spec.ports[0].nodePort"},
	"Pod":                       {".spec.nodeName", ".spec.ephemeralContainers", ".spec.priority", ".spec.overhead"},
	"PersistentVolumeClaim":     {".spec.volumeName"},
	"PersistentVolume":          {".spec.claimRef.uid", ".spec.claimRef.resourceVersion"},
	"Job":                       {".spec.selector", ".spec.template.metadata.creationTimestamp"},
	"CronJob":                   {".spec.jobTemplate.metadata.creationTimestamp", ".spec.jobTemplate.spec.template.metadata.creationTimestamp"},
	"StatefulSet":               {".spec.template.metadata.creationTimestamp", ".spec.volumeClaimTemplates[0].status", ".spec.volumeClaimTemplates[0].metadata.creationTimestamp"},
	"Deployment":                {".spec.template.metadata.creationTimestamp"},
	"DaemonSet":                 {".spec.template.metadata.creationTimestamp"},
	"ReplicaSet":                {".spec.template.metadata.creationTimestamp"},
	"ReplicationController":     {".spec.template.metadata.creationTimestamp"},
	"PodTemplate":               {".template.metadata.creationTimestamp"},
	"ClusterRole":               {".rules"},
	"CertificateSigningRequest": {".spec.username", ".spec.uid", ".spec.groups", ".spec.extra"},
	"Node":                      {".spec.podCIDR", ".spec.podCIDRs", ".spec.providerID", ".spec.configSource", ".spec.externalID"},
}

func has(node any, path string) bool {
	if path == "" {
		return true
	}
	if rest, ok := strings.CutPrefix(path, "[0]"); ok {
		list, _ := node.([]any)
		return len(list) > 0 && has(list[0], rest)
	}
	name, rest := path[1:], ""
	if i := strings.IndexAny(name, ".["); i >= 0 {
		name, rest = name[:i], name[i:]
	}
	m, _ := node.(map[string]any)
	value, ok := m[name]
	return ok && has(value, rest)
}

// differences lists the paths that one of two trees has and the other hasn't, or has otherwise.
func differences(path string, a, b any) []string {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok {
			return []string{path}
		}
		keys := maps.Clone(x)
		maps.Copy(keys, y)
		var out []string
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			if _, ok := x[key]; !ok {
				out = append(out, path+"."+key)
			} else if _, ok := y[key]; !ok {
				out = append(out, path+"."+key)
			} else {
				out = append(out, differences(path+"."+key, x[key], y[key])...)
			}
		}
		return out
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return []string{path}
		}
		var out []string
		for i := range x {
			out = append(out, differences(fmt.Sprintf("%s[%d]", path, i), x[i], y[i])...)
		}
		return out
	}
	if !reflect.DeepEqual(a, b) {
		return []string{path}
	}
	return nil
}

func walkStrings(path string, node any, f func(path, value string)) {
	switch n := node.(type) {
	case map[string]any:
		for key, value := range n {
			f(path+"{key}", key)
			walkStrings(path+"."+key, value, f)
		}
	case []any:
		for _, value := range n {
			walkStrings(path+"[]", value, f)
		}
	case string:
		f(path, n)
	}
}

func compile(t *testing.T, r Rules) *Transformer {
	t.Helper()
	transformer, problems := Compile(r)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return transformer
}
