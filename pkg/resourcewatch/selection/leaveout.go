package selection

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Rule is one of the rules by which objects are left out although they lie in the group's namespaces.
type Rule struct {
	Name string // as Facts.Rule tells it
	What string // it leaves out, for people

	kinds []string // resource.group, or "*.group"; whole kinds need not be watched
	holds func(k Kind, obj *unstructured.Unstructured) bool
	// passes: what such an object names may be needed all the same, since something that is sent names it.
	passes bool
}

// ruleLeaveOut is the name of the rule that the document makes.
const ruleLeaveOut = "leaveOut"

// defaults are the rules that hold without a document saying so.
var defaults = []Rule{
	{Name: "events", What: "what was reported about objects", kinds: []string{"events", "events.events.k8s.io"}},
	{Name: "leases", What: "who is elected now", kinds: []string{"leases.coordination.k8s.io", "leasecandidates.coordination.k8s.io"}},
	{Name: "revisions", What: "the history of StatefulSets and DaemonSets", kinds: []string{"controllerrevisions.apps"}},
	{Name: "measured", What: "metrics", kinds: []string{"*.metrics.k8s.io", "*.custom.metrics.k8s.io", "*.external.metrics.k8s.io"}},
	{Name: "storage-capacity", What: "how much room the site's storage has", kinds: []string{"csistoragecapacities.storage.k8s.io"}},
	{Name: "reviews", What: "questions that are answered and not kept", kinds: []string{
		"bindings", "*.authorization.k8s.io", "*.authentication.k8s.io",
	}},
	{
		Name: "owned", What: "Pods, ReplicaSets, Jobs and ResourceClaims that a controller makes, and whatever a Pod, a ReplicaSet, a Job or a Node owns",
		holds: owned,
	},
	{Name: "endpoints", What: "Endpoints and EndpointSlices that a controller keeps", holds: managedEndpoints},
	{
		Name: "root-ca", What: "the ConfigMap kube-root-ca.crt that every namespace is given",
		holds: func(k Kind, obj *unstructured.Unstructured) bool {
			return k.Group == "" && k.Kind == "ConfigMap" && obj.GetName() == "kube-root-ca.crt"
		},
	},
	{
		Name: "default-account", What: "the ServiceAccount default that every namespace is given, unless somebody has put something into it",
		holds: untouchedAccount, passes: true,
	},
	{
		Name: "account-tokens", What: "Secrets of the types kubernetes.io/service-account-token and bootstrap.kubernetes.io/token, which are no good in another cluster",
		holds: func(k Kind, obj *unstructured.Unstructured) bool {
			t, _, _ := unstructured.NestedString(obj.Object, "type")
			return secret(k) && (t == "kubernetes.io/service-account-token" || t == "bootstrap.kubernetes.io/token")
		},
	},
	{
		Name: "static-pods", What: "Pods that a node's kubelet runs from a file",
		holds: func(k Kind, obj *unstructured.Unstructured) bool {
			return k.Group == "" && k.Kind == "Pod" && obj.GetAnnotations()["kubernetes.io/config.mirror"] != ""
		},
	},
	{
		Name: "bootstrap", What: "ClusterRoles, Roles and their bindings that every API server makes for itself, and the PriorityClasses system-…",
		holds: func(k Kind, obj *unstructured.Unstructured) bool {
			return obj.GetLabels()["kubernetes.io/bootstrapping"] != "" && k.Group == groupRBAC ||
				k.Kind == "PriorityClass" && strings.HasPrefix(obj.GetName(), "system-")
		},
		passes: true,
	},
}

// Defaults lists the rules that hold unless the document excepts an object from them.
func Defaults() []Rule { return slices.Clone(defaults) }

func passes(rule string) bool {
	return slices.ContainsFunc(defaults, func(r Rule) bool { return r.Name == rule && r.passes })
}

// leftOut names the rule that leaves an object out; "": none.
func (s *Selection) leftOut(k Kind, obj *unstructured.Unstructured) string {
	if matchesAny(s.rules.LeaveOut, k, obj.GetNamespace(), obj.GetName()) {
		return ruleLeaveOut
	}
	if s.kept(k, obj.GetNamespace(), obj.GetName()) {
		return ""
	}
	for i := range defaults {
		if r := &defaults[i]; r.whole(k) || r.holds != nil && r.holds(k, obj) {
			return r.Name
		}
	}
	return ""
}

func (s *Selection) kept(k Kind, namespace, name string) bool {
	return matchesAny(s.rules.Keep, k, namespace, name)
}

// whole tells whether the rule leaves a whole kind out.
func (r *Rule) whole(k Kind) bool {
	for _, kind := range r.kinds {
		resource, group, _ := strings.Cut(kind, ".")
		if group == k.Group && (resource == "*" || resource == k.Resource) {
			return true
		}
	}
	return false
}

// Watches tells whether any object of a kind can belong to the group. A kind that isn't watched need not be
// readable.
func (s *Selection) Watches(k Kind) bool {
	if matchesAny(whole(s.rules.LeaveOut), k, "", "") {
		return false
	}
	if slices.ContainsFunc(s.rules.Keep, func(p Pattern) bool { return p.kind(k) && (k.Namespaced || p.Resource != "*") }) {
		return true
	}
	if !k.Namespaced {
		return slices.ContainsFunc(clusterScoped, func(one string) bool {
			resource, group, _ := strings.Cut(one, ".")
			return resource == k.Resource && group == k.Group
		})
	}
	return !slices.ContainsFunc(defaults, func(r Rule) bool { return r.whole(k) })
}

// whole returns those that name no object.
func whole(patterns []Pattern) []Pattern {
	var out []Pattern
	for _, p := range patterns {
		if (p.Namespace == "" || p.Namespace == "*") && (p.Name == "" || p.Name == "*") {
			out = append(out, p)
		}
	}
	return out
}

func matchesAny(patterns []Pattern, k Kind, namespace, name string) bool {
	for _, p := range patterns {
		if p.kind(k) && fits(p.Namespace, namespace) && fits(p.Name, name) {
			return true
		}
	}
	return false
}

func (p Pattern) kind(k Kind) bool {
	return (p.Group == "*" || p.Group == k.Group) && (p.Resource == "*" || p.Resource == k.Resource)
}

func fits(pattern, s string) bool { return pattern == "" || pattern == "*" || pattern == s }

// owned tells whether a controller makes the object again.
func owned(k Kind, obj *unstructured.Unstructured) bool {
	owner := metav1.GetControllerOf(obj)
	if owner == nil {
		return false
	}
	switch owner.Kind {
	case "Pod", "ReplicaSet", "Job", "Node", "ReplicationController":
		return true
	}
	switch k.Group + "/" + k.Kind {
	case "/Pod", "apps/ReplicaSet", "batch/Job", "resource.k8s.io/ResourceClaim":
		return true
	}
	return false
}

func managedEndpoints(k Kind, obj *unstructured.Unstructured) bool {
	switch {
	case k.Group == "" && k.Kind == "Endpoints":
		// Older servers don't label what their controller keeps; they date it.
		return obj.GetLabels()["endpoints.kubernetes.io/managed-by"] != "" ||
			obj.GetAnnotations()["endpoints.kubernetes.io/last-change-trigger-time"] != "" ||
			obj.GetAnnotations()["control-plane.alpha.kubernetes.io/leader"] != ""
	case k.Group == "discovery.k8s.io" && k.Kind == "EndpointSlice":
		return strings.HasSuffix(obj.GetLabels()["endpointslice.kubernetes.io/managed-by"], ".k8s.io")
	}
	return false
}

func untouchedAccount(k Kind, obj *unstructured.Unstructured) bool {
	if k.Group != "" || k.Kind != "ServiceAccount" || obj.GetName() != "default" {
		return false
	}
	for _, field := range []string{"secrets", "imagePullSecrets", "automountServiceAccountToken"} {
		if _, is := obj.Object[field]; is {
			return false
		}
	}
	return len(obj.GetLabels()) == 0 && len(obj.GetAnnotations()) == 0
}
