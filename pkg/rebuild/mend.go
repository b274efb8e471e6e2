package rebuild

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// ours are the fields of an object's metadata that may be sent; an API server owns the others. Owners are named by UIDs
// of the primary: the garbage collector here would delete what they own. Finalizers are added by who honours
// them, and would otherwise keep what nobody honours from being deleted.
var ours = []string{"name", "namespace", "labels", "annotations"}

// ofControllers are the annotations, by prefix, that controllers write on what they control: at each site its own ones.
var ofControllers = []string{
	"deployment.kubernetes.io/", "deprecated.daemonset.template.generation", "pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller",
	"pv.kubernetes.io/migrated-to", "volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner",
	"volume.kubernetes.io/selected-node", "volume.kubernetes.io/storage-resizer", "batch.kubernetes.io/job-tracking",
	"control-plane.alpha.kubernetes.io/", "endpoints.kubernetes.io/", "autoscaling.alpha.kubernetes.io/", "kubernetes.io/config.",
	"kubectl.kubernetes.io/last-applied-configuration", "farshore.dev/",
}

// mendCommon removes what an API server and its controllers own.
func mendCommon(obj map[string]any) {
	delete(obj, "status")
	meta, _ := obj["metadata"].(map[string]any)
	for field := range meta {
		if !slices.Contains(ours, field) {
			delete(meta, field)
		}
	}
	annotations, _ := meta["annotations"].(map[string]any)
	for name := range annotations {
		if slices.ContainsFunc(ofControllers, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			delete(annotations, name)
		}
	}
	if len(annotations) == 0 {
		delete(meta, "annotations")
	}
	if template, ok, _ := unstructured.NestedFieldNoCopy(obj, "spec", "template", "metadata"); ok {
		if m, ok := template.(map[string]any); ok && m["creationTimestamp"] == nil {
			delete(m, "creationTimestamp")
		}
	}
}

func mendNamespace(obj map[string]any) { delete(obj, "spec") }

// mendServiceAccount forgets the tokens that the primary's controller made.
func mendServiceAccount(obj map[string]any) { delete(obj, "secrets") }

// mendSecret makes the token of a service account one that the DR site's controller fills.
func mendSecret(obj map[string]any) {
	if obj["type"] == "kubernetes.io/service-account-token" {
		unstructured.RemoveNestedField(obj, "metadata", "annotations", "kubernetes.io/service-account.uid")
		delete(obj, "data")
	}
}

// mendService forgets the addresses and the ports of nodes that the primary allotted. A NodePort Service keeps its
// ports: whoever reaches it knows them.
func mendService(obj map[string]any) {
	spec, _ := obj["spec"].(map[string]any)
	if spec["clusterIP"] != "None" {
		delete(spec, "clusterIP")
		delete(spec, "clusterIPs")
	}
	delete(spec, "healthCheckNodePort")
	if spec["type"] != "LoadBalancer" {
		return
	}
	ports, _ := spec["ports"].([]any)
	for _, p := range ports {
		if port, ok := p.(map[string]any); ok {
			delete(port, "nodePort")
		}
	}
}

// mendVolume keeps whom a volume is for, and forgets the claim's identity at the primary: the claim here has another one.
func mendVolume(obj map[string]any) {
	for _, field := range []string{"uid", "resourceVersion"} {
		unstructured.RemoveNestedField(obj, "spec", "claimRef", field)
	}
}

// mendClaim has nothing to remove beyond the annotations of its binding; see preparer.prepare for its volume's name.
func mendClaim(map[string]any) {}

// mendPod forgets what the primary's scheduler and admission decided.
func mendPod(obj map[string]any) {
	spec, _ := obj["spec"].(map[string]any)
	for _, field := range []string{"nodeName", "priority", "ephemeralContainers", "overhead"} {
		delete(spec, field)
	}
}

func mendDaemonSet(obj map[string]any) {
	unstructured.RemoveNestedField(obj, "metadata", "annotations", "deprecated.daemonset.template.generation")
}

// byJobs are the labels and the selector that the API server makes of a Job's UID.
var byJobs = []string{"controller-uid", "batch.kubernetes.io/controller-uid", "job-name", "batch.kubernetes.io/job-name"}

func mendJob(obj map[string]any) {
	if manual, _, _ := unstructured.NestedBool(obj, "spec", "manualSelector"); manual {
		return
	}
	unstructured.RemoveNestedField(obj, "spec", "selector")
	for _, name := range byJobs {
		unstructured.RemoveNestedField(obj, "metadata", "labels", name)
		unstructured.RemoveNestedField(obj, "spec", "template", "metadata", "labels", name)
	}
}

// ended tells whether a Job or a Pod had ended at the primary: it is not run again.
func ended(kind string, obj map[string]any) bool {
	switch kind {
	case "Job":
		conditions, _, _ := unstructured.NestedSlice(obj, "status", "conditions")
		for _, c := range conditions {
			condition, _ := c.(map[string]any)
			if condition["status"] == "True" && (condition["type"] == "Complete" || condition["type"] == "Failed") {
				return true
			}
		}
	case "Pod":
		phase, _, _ := unstructured.NestedString(obj, "status", "phase")
		return phase == "Succeeded" || phase == "Failed"
	}
	return false
}
