package rebuild

import (
	"encoding/json"
	"maps"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// heldKey is the label that nothing has: what selects by it selects nothing.
const (
	heldKey    = "farshore.dev/held"
	heldValue  = "never"
	heldPrefix = "farshore-held-" // of a scale target that doesn't exist
)

// The held forms. Each changes obj and returns what it replaced by path; an absent field is null.

// holdReplicas asks for no pods.
func holdReplicas(obj map[string]any) map[string]any {
	return put(obj, int64(0), "spec", "replicas")
}

// holdSuspended keeps a Job or CronJob from starting pods.
func holdSuspended(obj map[string]any) map[string]any {
	return put(obj, true, "spec", "suspend")
}

// holdNodes asks for nodes that don't exist.
func holdNodes(obj map[string]any) map[string]any {
	selector, _, _ := unstructured.NestedMap(obj, "spec", "template", "spec", "nodeSelector")
	if selector == nil {
		selector = make(map[string]any)
	}
	selector[heldKey] = heldValue
	return put(obj, selector, "spec", "template", "spec", "nodeSelector")
}

// holdScaling points an autoscaler at something that doesn't exist.
func holdScaling(obj map[string]any) map[string]any {
	name, _, _ := unstructured.NestedString(obj, "spec", "scaleTargetRef", "name")
	return put(obj, heldPrefix+name, "spec", "scaleTargetRef", "name")
}

// forBalancers are the fields of a Service that only one of type LoadBalancer may have.
var forBalancers = []string{
	"loadBalancerIP", "loadBalancerClass", "loadBalancerSourceRanges", "allocateLoadBalancerNodePorts", "healthCheckNodePort",
	"externalTrafficPolicy",
}

// holdService takes away what makes a Service reachable from outside of the cluster without a node's address.
func holdService(obj map[string]any) map[string]any {
	held := make(map[string]any)
	if typ, _, _ := unstructured.NestedString(obj, "spec", "type"); typ == "LoadBalancer" {
		maps.Copy(held, put(obj, "ClusterIP", "spec", "type"))
		for _, field := range forBalancers {
			maps.Copy(held, drop(obj, "spec", field))
		}
	}
	maps.Copy(held, drop(obj, "spec", "externalIPs"))
	return held
}

// holdWebhooks makes every webhook match nothing: neither the objects of any namespace nor, since the namespace
// selector says nothing of cluster-scoped objects, any object at all.
func holdWebhooks(obj map[string]any) map[string]any {
	held := make(map[string]any)
	hooks, _ := obj["webhooks"].([]any)
	for _, h := range hooks {
		hook, ok := h.(map[string]any)
		if !ok {
			continue
		}
		name, _ := hook["name"].(string)
		for _, field := range []string{"namespaceSelector", "objectSelector"} {
			held["webhooks["+name+"]."+field] = hook[field]
			hook[field] = map[string]any{"matchLabels": map[string]any{heldKey: heldValue}}
		}
	}
	return held
}

// put sets a field and returns what it replaced, or nothing where that is the same.
func put(obj map[string]any, value any, path ...string) map[string]any {
	before, found, err := unstructured.NestedFieldCopy(obj, path...)
	if found && err == nil && equal(before, value) {
		return nil
	}
	if unstructured.SetNestedField(obj, value, path...) != nil {
		return nil // the object has something else on the way there, which the API server will refuse
	}
	return map[string]any{join(path): before}
}

// drop removes a field and returns what it was, or nothing where it wasn't there.
func drop(obj map[string]any, path ...string) map[string]any {
	before, found, err := unstructured.NestedFieldCopy(obj, path...)
	if !found || err != nil {
		return nil
	}
	unstructured.RemoveNestedField(obj, path...)
	return map[string]any{join(path): before}
}

func join(path []string) string {
	out := path[0]
	for _, p := range path[1:] {
		out += "." + p
	}
	return out
}

// equal compares values as JSON.
func equal(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}
