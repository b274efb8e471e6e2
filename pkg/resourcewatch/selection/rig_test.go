package selection

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// scopes are the kinds of the tests' manifests that don't lie in a namespace.
var scopes = map[string]bool{
	"Namespace": true, "PersistentVolume": true, "ClusterRole": true, "ClusterRoleBinding": true, "CustomResourceDefinition": true,
	"APIService": true, "ValidatingWebhookConfiguration": true, "MutatingWebhookConfiguration": true, "StorageClass": true,
	"ValidatingAdmissionPolicy": true, "ValidatingAdmissionPolicyBinding": true, "PriorityClass": true, "RuntimeClass": true,
	"IngressClass": true, "GatewayClass": true, "ClusterIssuer": true, "VolumeAttributesClass": true, "Node": true,
}

var plurals = map[string]string{
	"Ingress": "ingresses", "NetworkPolicy": "networkpolicies", "StorageClass": "storageclasses", "PriorityClass": "priorityclasses",
	"RuntimeClass": "runtimeclasses", "IngressClass": "ingressclasses", "GatewayClass": "gatewayclasses", "Endpoints": "endpoints",
	"ValidatingAdmissionPolicy": "validatingadmissionpolicies",
}

// parse reads manifests that are separated as kubectl wants it.
func parse(t testing.TB, manifests string) (out []*unstructured.Unstructured) {
	t.Helper()
	for _, one := range strings.Split(manifests, "\n---") {
		obj := new(unstructured.Unstructured)
		data, err := yaml.YAMLToJSON([]byte(one))
		if err == nil {
			err = obj.UnmarshalJSON(data)
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, one)
		}
		out = append(out, obj)
	}
	return out
}

func kindFor(obj *unstructured.Unstructured) Kind {
	gvk := obj.GroupVersionKind()
	plural := plurals[gvk.Kind]
	if plural == "" {
		plural = strings.ToLower(gvk.Kind) + "s"
	}
	return Kind{gvk.Group, gvk.Version, plural, gvk.Kind, !scopes[gvk.Kind]}
}

func mustSelect(t testing.TB, r Rules) *Selection {
	t.Helper()
	s, err := New(r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// selected returns which of the manifests belong to the group, as Kind/name.
func selected(t testing.TB, s *Selection, manifests string) map[string]bool {
	t.Helper()
	c := NewClosure()
	out := make(map[string]bool)
	objects := parse(t, manifests)
	for _, obj := range objects {
		c.Put(s.Facts(kindFor(obj), obj))
	}
	for _, obj := range objects {
		if k := kindFor(obj); s.Watches(k) && c.Selected(s.Facts(k, obj).Key) {
			out[obj.GetKind()+"/"+obj.GetName()] = true
		}
	}
	return out
}
