package selection

import (
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The API groups whose objects are looked at.
const (
	groupRBAC      = "rbac.authorization.k8s.io"
	groupStorage   = "storage.k8s.io"
	groupResource  = "resource.k8s.io"
	groupAdmission = "admissionregistration.k8s.io"
	groupCRD       = "apiextensions.k8s.io"
	groupGateway   = "gateway.networking.k8s.io"
)

// clusterScoped are the cluster-scoped kinds that something in a namespace can need.
var clusterScoped = []string{
	"namespaces", "persistentvolumes",
	"clusterroles." + groupRBAC, "clusterrolebindings." + groupRBAC,
	"customresourcedefinitions." + groupCRD, "apiservices.apiregistration.k8s.io",
	"validatingwebhookconfigurations." + groupAdmission, "mutatingwebhookconfigurations." + groupAdmission,
	"validatingadmissionpolicies." + groupAdmission, "validatingadmissionpolicybindings." + groupAdmission,
	"mutatingadmissionpolicies." + groupAdmission, "mutatingadmissionpolicybindings." + groupAdmission,
	"storageclasses." + groupStorage, "volumeattributesclasses." + groupStorage,
	"priorityclasses.scheduling.k8s.io", "runtimeclasses.node.k8s.io", "ingressclasses.networking.k8s.io",
	"deviceclasses." + groupResource, "clustertrustbundles.certificates.k8s.io", "gatewayclasses." + groupGateway,
}

// builtIn are the groups with a dot that an API server has without definitions of custom resources.
var builtIn = []string{
	"admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io", "authentication.k8s.io",
	"authorization.k8s.io", "certificates.k8s.io", "coordination.k8s.io", "discovery.k8s.io", "events.k8s.io",
	"flowcontrol.apiserver.k8s.io", "internal.apiserver.k8s.io", "networking.k8s.io", "node.k8s.io", "rbac.authorization.k8s.io",
	"resource.k8s.io", "scheduling.k8s.io", "storage.k8s.io", "storagemigration.k8s.io",
}

// kindOf names a kind that a field's name tells.
type kindOf struct{ group, kind string }

// namesOf are the fields that hold the name of an object, wherever they stand.
var namesOf = map[string]kindOf{
	"secretName": {"", "Secret"}, "configMapName": {"", "ConfigMap"}, "claimName": {"", "PersistentVolumeClaim"},
	"serviceAccountName": {"", "ServiceAccount"}, "serviceName": {"", "Service"},
	"storageClassName":          {groupStorage, "StorageClass"},
	"volumeAttributesClassName": {groupStorage, "VolumeAttributesClass"},
	"priorityClassName":         {"scheduling.k8s.io", "PriorityClass"},
	"runtimeClassName":          {"node.k8s.io", "RuntimeClass"},
	"ingressClassName":          {"networking.k8s.io", "IngressClass"},
	"gatewayClassName":          {groupGateway, "GatewayClass"},
	"deviceClassName":           {groupResource, "DeviceClass"},
	"resourceClaimName":         {groupResource, "ResourceClaim"},
	"resourceClaimTemplateName": {groupResource, "ResourceClaimTemplate"},
}

// objectsOf are the fields that hold a map with the name of an object, or a list of such maps. Where the map
// tells a kind itself, that holds.
var objectsOf = map[string]kindOf{
	"secret": {"", "Secret"}, "secretRef": {"", "Secret"}, "secretKeyRef": {"", "Secret"}, "imagePullSecrets": {"", "Secret"},
	"certificateRefs": {"", "Secret"},
	"configMap":       {"", "ConfigMap"}, "configMapRef": {"", "ConfigMap"}, "configMapKeyRef": {"", "ConfigMap"},
	"service": {"", "Service"}, "backendRef": {"", "Service"}, "backendRefs": {"", "Service"},
	"parentRefs":         {groupGateway, "Gateway"},
	"clusterTrustBundle": {"certificates.k8s.io", "ClusterTrustBundle"},
}

// references adds what an object needs and serves.
func (s *Selection) references(k Kind, obj *unstructured.Unstructured, f *Facts) {
	c := collector{selection: s, facts: f, seen: map[Ref]bool{f.Ref: true}, served: map[Ref]bool{f.Ref: true}}
	if strings.Contains(k.Group, ".") && !slices.Contains(builtIn, k.Group) {
		c.need(Ref{Group: groupCRD, Kind: "CustomResourceDefinition", Name: k.Resource + "." + k.Group})
	}
	o := obj.Object
	switch k.Group + "/" + k.Kind {
	case "/ConfigMap", "/Secret", "/Namespace", "/Service", "/Endpoints", "discovery.k8s.io/EndpointSlice", "policy/PodDisruptionBudget":
	case groupRBAC + "/Role":
	case groupRBAC + "/ClusterRole":
		c.aggregation(obj)
	case groupRBAC + "/RoleBinding", groupRBAC + "/ClusterRoleBinding":
		c.binding(o)
	case groupCRD + "/CustomResourceDefinition":
		c.service(child(o, "spec", "conversion", "webhook", "clientConfig", "service"), c.need)
	case groupAdmission + "/ValidatingWebhookConfiguration", groupAdmission + "/MutatingWebhookConfiguration":
		for _, hook := range maps(o["webhooks"]) {
			c.service(child(hook, "clientConfig", "service"), c.serve)
		}
	case groupAdmission + "/ValidatingAdmissionPolicyBinding", groupAdmission + "/MutatingAdmissionPolicyBinding":
		c.policy(k, child(o, "spec"))
	case "apiregistration.k8s.io/APIService":
		c.service(child(o, "spec", "service"), c.serve)
	case groupStorage + "/StorageClass":
		c.parameters(child(o, "parameters"))
	default:
		c.own(k, obj)
		for name, v := range o {
			if name != "metadata" && name != "status" {
				c.walk(name, v)
			}
		}
	}
	// Maps have no order; the same object gives the same facts.
	slices.SortFunc(f.Needs, Ref.compare)
	slices.SortFunc(f.Serves, Ref.compare)
}

func (r Ref) compare(o Ref) int {
	for _, pair := range [][2]string{{r.Group, o.Group}, {r.Kind, o.Kind}, {r.Namespace, o.Namespace}, {r.Name, o.Name}} {
		if n := strings.Compare(pair[0], pair[1]); n != 0 {
			return n
		}
	}
	return 0
}

// collector gathers the references of one object.
type collector struct {
	selection    *Selection
	facts        *Facts
	seen, served map[Ref]bool
}

// need adds a reference to what the object needs; other namespaces are none of the group's business.
func (c *collector) need(r Ref) {
	if r.Name != "" && !c.seen[r] && (r.Namespace == "" || c.selection.namespaces[r.Namespace]) {
		c.seen[r] = true
		c.facts.Needs = append(c.facts.Needs, r)
	}
}

// serve adds a reference to what makes the object belong to the group.
func (c *collector) serve(r Ref) {
	if r.Name != "" && !c.served[r] && (r.Namespace == "" || c.selection.namespaces[r.Namespace]) {
		c.served[r] = true
		c.facts.Serves = append(c.facts.Serves, r)
	}
}

// either adds a reference to a kind that may lie in a namespace or in none: only one of the two can exist.
func (c *collector) either(group, kind, namespace, name string) {
	if namespace == "" {
		namespace = c.facts.Key.Namespace
	}
	if namespace != "" {
		c.need(Ref{group, kind, namespace, name})
	}
	c.need(Ref{Group: group, Kind: kind, Name: name})
}

// walk follows a field and whatever lies in it.
func (c *collector) walk(field string, v any) {
	switch v := v.(type) {
	case string:
		if k, ok := namesOf[field]; ok {
			c.either(k.group, k.kind, "", v)
		}
	case []any:
		for _, e := range v {
			if _, ok := e.(string); !ok {
				c.walk(field, e)
			}
		}
	case map[string]any:
		c.named(field, v)
		if list, ok := v["containers"].([]any); ok && len(list) > 0 && text(v, "serviceAccountName") == "" {
			c.either("", "ServiceAccount", "", "default")
		}
		for name, e := range v {
			c.walk(name, e)
		}
	}
}

// named adds the object that a map names: by the kind that it tells, or by that of the field's name.
func (c *collector) named(field string, m map[string]any) {
	name := text(m, "name")
	if name == "" {
		return
	}
	k, ok := objectsOf[field]
	if !ok && strings.HasSuffix(field, "SecretRef") {
		k, ok = kindOf{"", "Secret"}, true
	}
	if kind := text(m, "kind"); kind != "" {
		group := k.group
		if _, is := m["group"]; is {
			group = text(m, "group")
		}
		if _, is := m["apiGroup"]; is {
			group = text(m, "apiGroup")
		}
		if version := text(m, "apiVersion"); version != "" {
			if group, _, ok = strings.Cut(version, "/"); !ok {
				group = ""
			}
		}
		k, ok = kindOf{group, kind}, true
	}
	if ok {
		c.either(k.group, k.kind, text(m, "namespace"), name)
	}
}

// own adds what only one kind names in its way.
func (c *collector) own(k Kind, obj *unstructured.Unstructured) {
	o, ns := obj.Object, obj.GetNamespace()
	switch k.Group + "/" + k.Kind {
	case "/ServiceAccount":
		for _, m := range maps(o["secrets"]) {
			c.need(Ref{"", "Secret", ns, text(m, "name")})
		}
	case "/PersistentVolumeClaim":
		c.need(Ref{Kind: "PersistentVolume", Name: text(child(o, "spec"), "volumeName")})
		c.need(Ref{Group: groupStorage, Kind: "StorageClass", Name: obj.GetAnnotations()["volume.beta.kubernetes.io/storage-class"]})
	case "networking.k8s.io/Ingress":
		c.need(Ref{Group: "networking.k8s.io", Kind: "IngressClass", Name: obj.GetAnnotations()["kubernetes.io/ingress.class"]})
	case "apps/StatefulSet":
		c.claims(obj)
	}
}

// mostClaims bounds how many claims of one template are named.
const mostClaims = 1000

// claims adds the claims that a StatefulSet has made of its templates.
func (c *collector) claims(obj *unstructured.Unstructured) {
	spec := child(obj.Object, "spec")
	replicas, first := int64(1), int64(0)
	if n, ok := spec["replicas"].(int64); ok {
		replicas = min(n, mostClaims)
	}
	if n, ok := child(spec, "ordinals")["start"].(int64); ok {
		first = n
	}
	for _, template := range maps(spec["volumeClaimTemplates"]) {
		name := text(child(template, "metadata"), "name") + "-" + obj.GetName() + "-"
		for i := range replicas {
			c.need(Ref{"", "PersistentVolumeClaim", obj.GetNamespace(), name + strconv.FormatInt(first+i, 10)})
		}
	}
}

// binding makes a binding belong to the service accounts that it names, and need its role.
func (c *collector) binding(o map[string]any) {
	role := child(o, "roleRef")
	c.either(groupRBAC, text(role, "kind"), "", text(role, "name"))
	for _, subject := range maps(o["subjects"]) {
		name, namespace := text(subject, "name"), text(subject, "namespace")
		switch text(subject, "kind") {
		case "ServiceAccount":
			if namespace == "" {
				namespace = c.facts.Key.Namespace
			}
			if namespace != "" {
				c.serve(Ref{"", "ServiceAccount", namespace, name})
			}
		case "User":
			if ns, account, ok := strings.Cut(strings.TrimPrefix(name, "system:serviceaccount:"), ":"); ok && strings.HasPrefix(name, "system:serviceaccount:") {
				c.serve(Ref{"", "ServiceAccount", ns, account})
			}
		case "Group":
			if ns, ok := strings.CutPrefix(name, "system:serviceaccounts:"); ok && c.selection.namespaces[ns] {
				c.serve(Ref{Kind: "Namespace", Name: ns})
			}
		}
	}
}

// labelled stands for all ClusterRoles with a label: an aggregating role needs it, and a role serves it.
func labelled(key, value string) Ref {
	return Ref{Group: groupRBAC, Kind: "ClusterRole with a label", Name: key + "=" + value}
}

// aggregation relates a ClusterRole to those that it is gathered from. One that has any of the labels asked
// for is taken for one of them.
func (c *collector) aggregation(obj *unstructured.Unstructured) {
	for _, selector := range maps(child(obj.Object, "aggregationRule")["clusterRoleSelectors"]) {
		for key, value := range child(selector, "matchLabels") {
			if value, ok := value.(string); ok {
				c.need(labelled(key, value))
			}
		}
	}
	for key, value := range obj.GetLabels() {
		c.serve(labelled(key, value))
	}
}

// policy relates an admission policy's binding to its policy, and to the namespaces that it is made for.
func (c *collector) policy(k Kind, spec map[string]any) {
	c.need(Ref{Group: k.Group, Kind: strings.TrimSuffix(k.Kind, "Binding"), Name: text(spec, "policyName")})
	if ns := text(child(spec, "paramRef"), "namespace"); c.selection.namespaces[ns] {
		c.serve(Ref{Kind: "Namespace", Name: ns})
	}
	ns := text(child(spec, "matchResources", "namespaceSelector", "matchLabels"), "kubernetes.io/metadata.name")
	if c.selection.namespaces[ns] {
		c.serve(Ref{Kind: "Namespace", Name: ns})
	}
}

// service adds a Service that a webhook's configuration names.
func (c *collector) service(m map[string]any, add func(Ref)) {
	if ns := text(m, "namespace"); ns != "" {
		add(Ref{"", "Service", ns, text(m, "name")})
	}
}

// parameters adds the Secrets that a StorageClass names for its driver.
func (c *collector) parameters(p map[string]any) {
	for key := range p {
		if prefix, ok := strings.CutSuffix(key, "-secret-name"); ok {
			if ns := text(p, prefix+"-secret-namespace"); ns != "" {
				c.need(Ref{"", "Secret", ns, text(p, key)})
			}
		}
	}
}

// child returns the map that lies under the fields; nil where there is none.
func child(m map[string]any, fields ...string) map[string]any {
	for _, f := range fields {
		m, _ = m[f].(map[string]any)
	}
	return m
}

// maps returns the maps of a list.
func maps(v any) (out []map[string]any) {
	list, _ := v.([]any)
	for _, e := range list {
		if m, ok := e.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

func text(m map[string]any, field string) string {
	s, _ := m[field].(string)
	return s
}
