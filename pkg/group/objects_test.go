package group

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/farshore/farshore/pkg/transform"
)

// onlyObjects is a group without volumes.
const onlyObjects = `
apiVersion: farshore.dev/v1alpha1
kind: ProtectionGroup
metadata: {name: shop}
spec:
  objects:
    namespaces: [bank]
    selector: "app=bank,tier in (web,db)"
    leaveOut: [{group: apps, resource: daemonsets}, {resource: configmaps, namespace: bank, name: scratch}]
    keep: [{group: "*", resource: "*", name: kept}]
    recipients: [age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]
  recovery:
    objects:
      identities: [/etc/farshore/age.txt]
      inert: [{group: example.com, resource: ledgers}]
      namespaces: {bank: bank-dr}
      storageClasses: {gold: silver}
      patches:
      - target: {group: apps, kind: Deployment, name: web}
        when: object.spec.replicas > 1
        patch:
        - {op: add, path: /spec/strategy, value: {type: Recreate, list: [1, 2.5, true, x]}}
        - {op: replace, path: /spec/replicas, value: 1}
`

func TestObjectsAreRead(t *testing.T) {
	g, err := Parse([]byte(onlyObjects))
	if err != nil {
		t.Fatal(err)
	}
	want := &Objects{
		Namespaces: []string{"bank"},
		Selector:   "app=bank,tier in (web,db)",
		LeaveOut:   []ObjectPattern{{Group: "apps", Resource: "daemonsets"}, {Resource: "configmaps", Namespace: "bank", Name: "scratch"}},
		Keep:       []ObjectPattern{{Group: "*", Resource: "*", Name: "kept"}},
		Recipients: []string{"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"},
	}
	if !reflect.DeepEqual(g.Spec.Objects, want) {
		t.Errorf("got  %+v\nwant %+v", g.Spec.Objects, want)
	}
	recovery := RecoveryObjects{
		Apply: true, Identities: []string{"/etc/farshore/age.txt"}, Inert: []GroupResource{{"example.com", "ledgers"}},
		Rules: transform.Rules{
			Namespaces:     map[string]string{"bank": "bank-dr"},
			StorageClasses: map[string]string{"gold": "silver"},
			Patches: []transform.Patch{{
				Target: transform.Target{Group: "apps", Kind: "Deployment", Name: "web"},
				When:   "object.spec.replicas > 1",
				Patch: []transform.Operation{
					{Op: "add", Path: "/spec/strategy", Value: map[string]any{"type": "Recreate", "list": []any{int64(1), 2.5, true, "x"}}},
					{Op: "replace", Path: "/spec/replicas", Value: int64(1)},
				},
			}},
		},
	}
	if !reflect.DeepEqual(g.Spec.Recovery.Objects, recovery) {
		t.Errorf("got  %+v\nwant %+v", g.Spec.Recovery.Objects, recovery)
	}
	if !g.AppliesObjects() {
		t.Error("the DR site needs no API server")
	}
	for _, doc := range []string{minimal, strings.Replace(onlyObjects, "      identities:", "      apply: false\n      identities:", 1)} {
		if g, err := Parse([]byte(doc)); err != nil || g.AppliesObjects() {
			t.Errorf("the DR site needs an API server (%v) for %s", err, doc)
		}
	}
}

var editsOfObjects = []edit{
	{"no namespace", "namespaces: [bank]", "namespaces: []", []string{"spec.objects.namespaces: is missing; objects are captured from at least one namespace"}},
	{"namespaces", "namespaces: [bank]", "namespaces: [bank, Bank, '', bank, 7]", []string{
		`spec.objects.namespaces[1]: "Bank" is no namespace; its name has at most 63 lower-case letters, digits and inner hyphens`,
		"spec.objects.namespaces[2]: is missing",
		`spec.objects.namespaces[3]: "bank" is already given by spec.objects.namespaces[0]`,
		"spec.objects.namespaces[4]: must be a string, is a number",
	}},
	{"selector", "app=bank,tier in (web,db)", "app in bank", []string{
		`spec.objects.selector: "app in bank" is no label selector: unable to parse requirement: found 'bank' expected: '('`,
	}},
	{"patterns", "{group: apps, resource: daemonsets}", "{group: apps/v1, resource: DaemonSets, namespace: A, name: 'web*%'}, {}, {kind: x, resource: '*'}", []string{
		`spec.objects.leaveOut[0].group: "apps/v1" is no API group; write it without a version, as in apps or networking.k8s.io, or leave it empty for the core's`,
		`spec.objects.leaveOut[0].name: "web*%" is no object's name; only a whole name or * can be given`,
		`spec.objects.leaveOut[0].namespace: "A" is no namespace; its name has at most 63 lower-case letters, digits and inner hyphens`,
		`spec.objects.leaveOut[0].resource: "DaemonSets" is no resource; write the plural in lower case, as in deployments`,
		"spec.objects.leaveOut[1].resource: is missing; write the plural, as in deployments",
		"spec.objects.leaveOut[2].kind: unknown field; known here: group, resource, namespace, name",
	}},
	{"recipient", "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p", "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8q, ''", []string{
		`spec.objects.recipients[0]: "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8q" is no age recipient; age-keygen prints one (age1…) beside each identity`,
		"spec.objects.recipients[1]: is missing",
	}},
	{"an identity is no recipient", "[age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]", "[AGE-SECRET-KEY-1]", []string{
		"spec.objects.recipients[0]: is no age recipient but an identity, which belongs to the DR site alone; its recipient begins with age1",
	}},
	{"inert", "{group: example.com, resource: ledgers}", "{resource: pods}, {group: a.b, resource: x}, {group: a.b, resource: x}", []string{
		"spec.recovery.objects.inert[0].group: is missing; only custom kinds are listed, and they have one",
		"spec.recovery.objects.inert[2]: is already given by spec.recovery.objects.inert[1]",
	}},
	{"identities", "/etc/farshore/age.txt", "age.txt", []string{`spec.recovery.objects.identities[0]: "age.txt" must be an absolute path`}},
	{"apply", "identities:", "apply: maybe\n      identities:", []string{"spec.recovery.objects.apply: must be true or false, is a string"}},
	{"unknown rule", "storageClasses:", "storageClass:", []string{
		"spec.recovery.objects.storageClass: unknown field; known here: apply, identities, inert, namespaces, storageClasses, ingressClasses, registries, hosts, names, patches",
	}},
	{"mapping", "{bank: bank-dr}", "{bank: Bank-DR, other: , list: []}", []string{
		`spec.recovery.objects.namespaces["bank"]: "Bank-DR" is no namespace; its name has at most 63 lower-case letters, digits and inner hyphens`,
		`spec.recovery.objects.namespaces["list"]: must be a string, is a list`,
		`spec.recovery.objects.namespaces["other"]: is missing; write what other becomes at the DR site`,
	}},
	{"no mapping", "{gold: silver}", "gold", []string{"spec.recovery.objects.storageClasses: must be an object, is a string"}},
	{"onto another of the group's", "namespaces: {bank: bank-dr}", "namespaces: {shop: bank}", []string{
		`spec.recovery.objects.namespaces["shop"]: "bank" is one of the group's own namespaces and keeps its name: objects of the same name would be one`,
	}},
	{"condition", "object.spec.replicas > 1", "object.spec.replicas >", []string{
		"spec.recovery.objects.patches[0].when: Syntax error: mismatched input '<EOF>' expecting",
	}},
	{"patch", "{op: replace, path: /spec/replicas, value: 1}", "{op: replace, path: spec/replicas, value: 1, why: x}", []string{
		`spec.recovery.objects.patches[0].patch[1].path: "spec/replicas" is no JSON pointer; write /spec/replicas, with ~1 for a slash in a name and ~0 for a tilde`,
		"spec.recovery.objects.patches[0].patch[1].why: unknown field; known here: op, path, from, value",
	}},
	{"null", "value: 1}", "value: }", []string{"spec.recovery.objects.patches[0].patch[1].value: is missing; replace needs it, and it can't be null"}},
	{"nothing captured", "  objects:\n    namespaces: [bank]", "  volumes:\n  - {name: a, uid: u, capturer: c, path: /a, listen: \"unix:/a\"}\n  x:\n    namespaces: [bank]", []string{
		"spec.recovery.objects: is given, but no objects are captured; spec.objects says which",
		"spec.x: unknown field; known here: sites, volumes, objects, journal, capture, barriers, recovery",
	}},
}

func TestProblemsOfObjects(t *testing.T) {
	for _, tt := range editsOfObjects {
		t.Run(tt.name, func(t *testing.T) {
			doc := strings.Replace(onlyObjects, tt.old, tt.new, 1)
			if doc == onlyObjects {
				t.Fatal("the edit changes nothing")
			}
			_, err := Parse([]byte(doc))
			var problems *ProblemsError
			if !errors.As(err, &problems) {
				t.Fatalf("got %v, want problems", err)
			}
			same := slices.EqualFunc(problems.Problems, tt.want, func(p Problem, want string) bool { return strings.HasPrefix(p.String(), want) })
			if !same {
				t.Errorf("got:\n%v\nwant:\n  %s", problems, strings.Join(tt.want, "\n  "))
			}
			if strings.Contains(err.Error(), "AGE-SECRET-KEY") {
				t.Errorf("the identity is told: %v", err)
			}
		})
	}
}

func TestUpdateOfObjects(t *testing.T) {
	before, err := Parse([]byte(onlyObjects))
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer("selector: \"app=bank,tier in (web,db)\"", "selector: app=bank", "{gold: silver}", "{gold: bronze}",
		"      identities:", "      apply: false\n      identities:").Replace(onlyObjects)
	next, err := Parse([]byte(changed))
	if err != nil {
		t.Fatal(err)
	}
	merged, later, err := before.Update(next)
	if err != nil {
		t.Fatal(err)
	}
	if merged.Spec.Objects.Selector != "app=bank" || merged.Spec.Recovery.Objects.StorageClasses["gold"] != "bronze" {
		t.Errorf("what is captured and how it is mapped did not change: %+v", merged.Spec)
	}
	if !merged.Spec.Recovery.Objects.Apply || !slices.Equal(later, []string{"spec.recovery.objects.apply"}) {
		t.Errorf("apply is %v, later %v", merged.Spec.Recovery.Objects.Apply, later)
	}
	if none, _, err := before.Update(mustParse(t, minimal)); err != nil || none.Spec.Objects != nil {
		t.Errorf("objects that are captured no more: %v", err)
	}
}

func mustParse(t *testing.T, doc string) *Group {
	t.Helper()
	g, err := Parse([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return g
}
