package rebuild

import (
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/farshore/farshore/internal/kube/kubetest"
)

// What differs is named with its fields, and nothing is written.
func TestDiff(t *testing.T) {
	c := kubetest.Shared(t)
	ns := kubetest.Namespace(t, c, "diff")
	r, stop := start(t, c, "diff", nil)
	const more = `
apiVersion: v1
kind: Secret
metadata: {name: s, namespace: NS}
data: {k: b25l}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: extra, namespace: NS}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: NS}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`
	first := stateOf(t, ns, small, more)
	r.wantClean(first)
	stop()
	o := Options{Config: c.Config(), Group: "diff"}
	got, err := Diff(t.Context(), o, first, false)
	if err != nil || len(got) != 1 || got[0].Kind != DiffBack {
		t.Errorf("of the same: %+v, %v", got, err)
	}
	r.patch("v1", "configmaps", ns, "a", `{"data":{"k":"other"}}`)
	r.patch("v1", "secrets", ns, "s", `{"data":{"k":"dHdv"}}`)
	r.remove("v1", "configmaps", ns, "b")
	r.create(ns, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: foreign, namespace: NS}")
	later := stateOf(t, ns, small, strings.Replace(more, "name: extra", "name: foreign", 1))
	got, err = Diff(t.Context(), o, later, false)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]DiffKind{
		"configmaps a": DiffChanged, "configmaps b": DiffMissing, "configmaps extra": DiffExtra, "configmaps foreign": DiffForeign,
		"secrets s": DiffChanged, "persistentvolumeclaims data": DiffBack,
	}
	for _, d := range got {
		name := d.Object.Resource + " " + d.Object.Name
		if want[name] != d.Kind {
			t.Errorf("%s: %+v", name, d)
		}
		delete(want, name)
		switch name {
		case "configmaps a":
			if !slices.Equal(d.Fields, []FieldDiff{{"data.k", `"v"`, `"other"`}}) {
				t.Errorf("fields %+v", d.Fields)
			}
		case "secrets s":
			if !slices.Equal(d.Fields, []FieldDiff{{"data.k", "(secret)", "(secret)"}}) {
				t.Errorf("fields %+v", d.Fields)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("not found: %v", want)
	}
}

// Manifests are as at the primary, in an order in which they can be applied; a Secret that can't be opened stays as it is.
func TestManifests(t *testing.T) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	s := stateOf(t, "bank", application, definition)
	for key := range s.entries {
		if key.Resource == "secrets" {
			s.seal(t, key, identity.Recipient())
		}
	}
	closed, broken, err := Manifests(Rules{}, s)
	if err != nil || len(broken) > 0 {
		t.Fatal(broken, err)
	}
	open, _, err := Manifests(Rules{Identities: []age.Identity{identity}}, s)
	if err != nil || len(open) != len(closed) {
		t.Fatal(len(open), len(closed), err)
	}
	if open[0].Object.Kind != "CustomResourceDefinition" || open[1].Object.Kind != "Namespace" || open[len(open)-1].Phase != "webhooks" {
		t.Errorf("order: %v, %v … %v", open[0].Object, open[1].Object, open[len(open)-1].Object)
	}
	for i, m := range closed {
		if m.Object.Kind == "Secret" {
			if !m.Encrypted || !strings.HasPrefix(string(m.Content), "age-encryption.org/") || !strings.Contains(string(open[i].Content), "password: c2Vj") {
				t.Errorf("secret: %+v, opened\n%s", m, open[i].Content)
			}
			continue
		}
		text := string(m.Content)
		if strings.Contains(text, "farshore") || strings.Contains(text, "status:") || strings.Contains(text, "uid:") {
			t.Errorf("manifest of %s:\n%s", m.Object, text)
		}
		if m.Object.Name == "web" && m.Object.Kind == "Deployment" && !strings.Contains(text, "replicas: 3") ||
			m.Object.Name == "done" && !strings.Contains(text, "suspend: true") {
			t.Errorf("manifest of %s:\n%s", m.Object, text)
		}
	}
}
