package objects

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/farshore/farshore/integration/harness"
)

// judge compares the namespaces of both API servers, object by object. It shares no code with what it judges: it knows
// what an API server fills in by itself, and what is held until a takeover.
type judge struct {
	kinds      []schema.GroupVersionResource
	namespaces map[string]string // at the primary, and what they are called at the DR site
	selected   func(*unstructured.Unstructured) bool
}

// compare tells how the DR site differs from the primary, nil where it doesn't.
func (j judge) compare(s *sites) error {
	s.t.Helper()
	var wrong []string
	for _, kind := range j.kinds {
		for from, to := range j.namespaces {
			want, have := make(map[string]string), make(map[string]string)
			for _, obj := range s.primary.list(kind, from) {
				if j.selected(&obj) {
					want[obj.GetName()] = held(canonical(&obj))
				}
			}
			for _, obj := range s.dr.list(kind, to) {
				if ofCluster(&obj) {
					continue
				}
				text := canonical(&obj)
				if obj.GetLabels()["farshore.dev/group"] != harness.Group {
					text = "not Farshore's: " + text
				}
				have[obj.GetName()] = text
			}
			wrong = append(wrong, differences(kind.Resource+" "+to, want, have)...)
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("%d objects differ, among them:\n%s", len(wrong), strings.Join(wrong[:min(len(wrong), 5)], "\n"))
}

func differences(where string, want, have map[string]string) (wrong []string) {
	for name, text := range want {
		switch got, ok := have[name]; {
		case !ok:
			wrong = append(wrong, fmt.Sprintf("%s/%s is missing", where, name))
		case got != text:
			wrong = append(wrong, fmt.Sprintf("%s/%s:\n  want %s\n  have %s", where, name, text, got))
		}
	}
	for name := range have {
		if _, ok := want[name]; !ok {
			wrong = append(wrong, fmt.Sprintf("%s/%s is not at the primary", where, name))
		}
	}
	slices.Sort(wrong)
	return wrong
}

// same waits until both API servers hold the same, and fails the test where they don't in the end.
func (j judge) same(s *sites) {
	s.t.Helper()
	if err := j.compare(s); err != nil {
		s.t.Errorf("the DR site is not as the primary: %v", err)
	}
}

// ofCluster tells of objects that every namespace gets from a cluster's controllers.
func ofCluster(obj *unstructured.Unstructured) bool {
	return obj.GetKind() == "ConfigMap" && obj.GetName() == "kube-root-ca.crt" || obj.GetKind() == "ServiceAccount" && obj.GetName() == "default"
}

// canonical is what of an object is somebody's will, as JSON.
func canonical(obj *unstructured.Unstructured) string {
	content := obj.DeepCopy().Object
	delete(content, "status")
	content["metadata"] = map[string]any{"name": obj.GetName(), "labels": foreign(obj.GetLabels()), "annotations": foreign(obj.GetAnnotations())}
	if obj.GetKind() == "Service" {
		for _, field := range []string{"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"} {
			unstructured.RemoveNestedField(content, "spec", field)
		}
	}
	text, err := json.Marshal(content)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// foreign leaves out what Farshore and controllers write.
func foreign(m map[string]string) map[string]string {
	out := make(map[string]string)
	for k, v := range m {
		if !strings.HasPrefix(k, "farshore.dev/") && !strings.HasPrefix(k, "deployment.kubernetes.io/") {
			out[k] = v
		}
	}
	return out
}

// held puts a canonical object of the primary into the form that it has before a takeover. Of the kinds that are compared only
// Deployments have one.
func held(text string) string {
	var content map[string]any
	if json.Unmarshal([]byte(text), &content) != nil || content["kind"] != "Deployment" {
		return text
	}
	_ = unstructured.SetNestedField(content, int64(0), "spec", "replicas") // there is a spec
	out, err := json.Marshal(content)
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// spellings are the forms in which a text may lie about: as it is, and in base64 at each of its three alignments.
func spellings(text string) (out []string) {
	out = append(out, text)
	for shift := range 3 {
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + text))
		// The first and the last characters depend on the neighbours.
		out = append(out, encoded[4:len(encoded)-4])
	}
	return out
}
