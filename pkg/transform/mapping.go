package transform

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// lookup returns a function that maps what m lists and leaves the rest.
func lookup(m map[string]string) func(string) string {
	return func(s string) string {
		if to, ok := m[s]; ok {
			return to
		}
		return s
	}
}

// legacyStorageClass and legacyIngressClass are where classes stood before they had fields.
const (
	legacyStorageClass = "volume.beta.kubernetes.io/storage-class"
	legacyIngressClass = "kubernetes.io/ingress.class"
	classQuota         = ".storageclass.storage.k8s.io/"
)

func (t *Transformer) storageClasses(obj *unstructured.Unstructured) {
	if len(t.rules.StorageClasses) == 0 {
		return
	}
	o, to := obj.Object, lookup(t.rules.StorageClasses)
	switch kindOf(obj) {
	case kind{"", "PersistentVolumeClaim"}, kind{"", "PersistentVolume"}:
		replace(o, "spec.storageClassName", to)
		visit(o, "metadata.annotations", func(m map[string]any) { legacy(m, legacyStorageClass, to) })
	case kind{"apps", "StatefulSet"}:
		replace(o, "spec.volumeClaimTemplates.*.spec.storageClassName", to)
		visit(o, "spec.volumeClaimTemplates.*.metadata.annotations", func(m map[string]any) { legacy(m, legacyStorageClass, to) })
	case kind{"storage.k8s.io", "VolumeAttachment"}:
		replace(o, "spec.source.inlineVolumeSpec.storageClassName", to)
	case kind{"storage.k8s.io", "CSIStorageCapacity"}:
		replace(o, "storageClassName", to)
	case kind{"", "ResourceQuota"}:
		visit(o, "spec.hard", func(hard map[string]any) { quota(hard, to) })
	}
	podSpecs(obj, func(spec map[string]any) {
		replace(spec, "volumes.*.ephemeral.volumeClaimTemplate.spec.storageClassName", to)
	})
}

// legacy maps the annotation of the given key, whose dots a path can't hold.
func legacy(annotations map[string]any, key string, to func(string) string) {
	if s, ok := annotations[key].(string); ok {
		annotations[key] = to(s)
	}
}

// quota maps the classes that limits are set for: they are part of the limits' names.
func quota(hard map[string]any, to func(string) string) {
	renamed := make(map[string]any, len(hard))
	for key, limit := range hard {
		if class, rest, ok := strings.Cut(key, classQuota); ok {
			key = to(class) + classQuota + rest
		}
		renamed[key] = limit
	}
	clear(hard)
	for key, limit := range renamed {
		hard[key] = limit
	}
}

func (t *Transformer) ingressClasses(obj *unstructured.Unstructured) {
	if len(t.rules.IngressClasses) == 0 || kindOf(obj) != (kind{"networking.k8s.io", "Ingress"}) {
		return
	}
	to := lookup(t.rules.IngressClasses)
	replace(obj.Object, "spec.ingressClassName", to)
	visit(obj.Object, "metadata.annotations", func(m map[string]any) { legacy(m, legacyIngressClass, to) })
}

// images maps the registries of every image that a Pod's spec names.
func (t *Transformer) images(obj *unstructured.Unstructured) {
	if len(t.rules.Registries) == 0 {
		return
	}
	podSpecs(obj, func(spec map[string]any) {
		containers(spec, func(c map[string]any) { replace(c, "image", t.image) })
		replace(spec, "volumes.*.image.reference", t.image)
	})
}

// image maps the longest beginning of an image's name that a rule is for. The rule for docker.io is for names without
// a registry, too. What no rule is for is left as it is written.
func (t *Transformer) image(image string) string {
	name, rest := image, ""
	if i := strings.IndexByte(name, '@'); i >= 0 {
		name, rest = image[:i], image[i:]
	}
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name, rest = image[:i], image[i:]
	}
	name = fullName(name)
	for prefix := name; prefix != ""; prefix = prefix[:max(strings.LastIndexByte(prefix, '/'), 0)] {
		if to, ok := t.registries[prefix]; ok {
			return to + name[len(prefix):] + rest
		}
	}
	return image
}

// fullName writes out what container runtimes add to a name without a registry.
func fullName(name string) string {
	first, rest, more := strings.Cut(name, "/")
	switch {
	case !more && isRegistry(first):
		return first
	case !more:
		return "docker.io/library/" + name
	case first == "index.docker.io":
		first = "docker.io"
	case !isRegistry(first):
		return "docker.io/" + name
	}
	if first == "docker.io" && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	return first + "/" + rest
}

func isRegistry(s string) bool { return strings.ContainsAny(s, ".:") || s == "localhost" }

// hostnames maps what an Ingress, a Gateway or a route answers to.
func (t *Transformer) hostnames(obj *unstructured.Unstructured) {
	if len(t.rules.Hosts) == 0 {
		return
	}
	o, to := obj.Object, t.hosts.name
	switch k := kindOf(obj); {
	case k == kind{"networking.k8s.io", "Ingress"}:
		replace(o, "spec.rules.*.host", to)
		replace(o, "spec.tls.*.hosts.*", to)
	case k.group == gatewayGroup:
		replace(o, "spec.listeners.*.hostname", to)
		replace(o, "spec.hostnames.*", to)
		for _, filters := range []string{"spec.rules.*.filters.*", "spec.rules.*.backendRefs.*.filters.*"} {
			replace(o, filters+".requestRedirect.hostname", to)
			replace(o, filters+".urlRewrite.hostname", to)
		}
	}
}
