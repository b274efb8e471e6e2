package rebuild

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/farshore/farshore/pkg/transform"
)

// unmapped is what an object goes through where no rules are given: what the primary's API server owns goes.
var unmapped = func() Transformer {
	t, problems := transform.Compile(transform.Rules{})
	if len(problems) > 0 {
		panic(problems[0].Message) // of no rules there is nothing to complain
	}
	return t
}()

// mendCommon removes what Farshore, kubelets or autoscalers wrote at the primary. Before a release finalizers go, too: whoever
// honours them is held, and they would keep what isn't wanted any more from being deleted.
func mendCommon(obj map[string]any, f form) {
	meta, _ := obj["metadata"].(map[string]any)
	if f == formHeld {
		delete(meta, "finalizers")
	}
	annotations, _ := meta["annotations"].(map[string]any)
	for name := range annotations {
		for _, prefix := range []string{"farshore.dev/", "kubernetes.io/config.", "autoscaling.alpha.kubernetes.io/"} {
			if strings.HasPrefix(name, prefix) {
				delete(annotations, name)
			}
		}
	}
	if len(annotations) == 0 {
		delete(meta, "annotations")
	}
	labels, _ := meta["labels"].(map[string]any)
	delete(labels, LabelGroup)
}

// volumeOf returns the volume that a claim is bound to.
func volumeOf(obj map[string]any) string {
	name, _, _ := unstructured.NestedString(obj, "spec", "volumeName")
	return name
}

// mendClaim asks for its volume by name where that comes along. Any other volume is at the primary; one that a patch names is kept.
func mendClaim(obj map[string]any, bound string, volumes map[string]bool) error {
	now := volumeOf(obj)
	if now != "" && now != bound {
		return nil
	}
	if !volumes[bound] {
		unstructured.RemoveNestedField(obj, "spec", "volumeName")
		return nil
	}
	return unstructured.SetNestedField(obj, bound, "spec", "volumeName")
}

// ended tells whether a Job or a Pod had ended at the primary: it is not run again.
func ended(kind string, obj map[string]any) bool {
	switch kind {
	case "Job":
		for _, c := range conditions(obj) {
			if c["status"] == "True" && (c["type"] == "Complete" || c["type"] == "Failed") {
				return true
			}
		}
	case "Pod":
		phase, _, _ := unstructured.NestedString(obj, "status", "phase")
		return phase == "Succeeded" || phase == "Failed"
	}
	return false
}
