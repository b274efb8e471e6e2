package transform

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// namespaceFields is where the kinds of Kubernetes name a namespace, beside their own and those of Pods and selectors.
var namespaceFields = map[kind][]string{
	{"", "PersistentVolume"}: volumeNamespaces("spec"),
	{"", "PersistentVolumeClaim"}: {
		"spec.dataSourceRef.namespace",
	},
	{"", "Endpoints"}: {
		"subsets.*.addresses.*.targetRef.namespace",
		"subsets.*.notReadyAddresses.*.targetRef.namespace",
	},
	{"", "Event"}:              {"involvedObject.namespace", "related.namespace"},
	{"", "ServiceAccount"}:     {"secrets.*.namespace"},
	{"events.k8s.io", "Event"}: {"regarding.namespace", "related.namespace"},
	{"discovery.k8s.io", "EndpointSlice"}: {
		"endpoints.*.targetRef.namespace",
	},
	{"apps", "StatefulSet"}: {
		"spec.volumeClaimTemplates.*.metadata.namespace",
		"spec.volumeClaimTemplates.*.spec.dataSourceRef.namespace",
	},
	{"batch", "CronJob"}:                                                 {"spec.jobTemplate.metadata.namespace"},
	{"resource.k8s.io", "ResourceClaimTemplate"}:                         {"spec.metadata.namespace"},
	{"rbac.authorization.k8s.io", "RoleBinding"}:                         {"subjects.*.namespace"},
	{"rbac.authorization.k8s.io", "ClusterRoleBinding"}:                  {"subjects.*.namespace"},
	{"admissionregistration.k8s.io", "ValidatingWebhookConfiguration"}:   {"webhooks.*.clientConfig.service.namespace"},
	{"admissionregistration.k8s.io", "MutatingWebhookConfiguration"}:     {"webhooks.*.clientConfig.service.namespace"},
	{"admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding"}: {"spec.paramRef.namespace"},
	{"admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding"}:   {"spec.paramRef.namespace"},
	{"apiregistration.k8s.io", "APIService"}:                             {"spec.service.namespace"},
	{"apiextensions.k8s.io", "CustomResourceDefinition"}:                 {"spec.conversion.webhook.clientConfig.service.namespace"},
	{"networking.k8s.io", "IngressClass"}:                                {"spec.parameters.namespace"},
	{"networking.k8s.io", "IPAddress"}:                                   {"spec.parentRef.namespace"},
	{"storage.k8s.io", "VolumeAttachment"}:                               volumeNamespaces("spec.source.inlineVolumeSpec"),
	{"snapshot.storage.k8s.io", "VolumeSnapshotContent"}:                 {"spec.volumeSnapshotRef.namespace"},
	{"groupsnapshot.storage.k8s.io", "VolumeGroupSnapshotContent"}:       {"spec.volumeGroupSnapshotRef.namespace"},
	{"flowcontrol.apiserver.k8s.io", "FlowSchema"}:                       {"spec.rules.*.subjects.*.serviceAccount.namespace", "spec.rules.*.resourceRules.*.namespaces.*"},
}

func volumeNamespaces(spec string) []string {
	var out []string
	for _, field := range []string{
		"claimRef.namespace",
		"csi.controllerPublishSecretRef.namespace", "csi.nodeStageSecretRef.namespace", "csi.nodePublishSecretRef.namespace",
		"csi.controllerExpandSecretRef.namespace", "csi.nodeExpandSecretRef.namespace",
		"azureFile.secretNamespace", "glusterfs.endpointsNamespace", "cephfs.secretRef.namespace", "cinder.secretRef.namespace", "rbd.secretRef.namespace",
		"iscsi.secretRef.namespace", "flexVolume.secretRef.namespace", "scaleIO.secretRef.namespace", "storageos.secretRef.namespace",
	} {
		out = append(out, spec+"."+field)
	}
	return out
}

// accountFields is where a service account is named as a user, or all those of a namespace as a group.
var accountFields = map[kind][]string{
	{"rbac.authorization.k8s.io", "RoleBinding"}:        {"subjects.*.name"},
	{"rbac.authorization.k8s.io", "ClusterRoleBinding"}: {"subjects.*.name"},
	{"flowcontrol.apiserver.k8s.io", "FlowSchema"}:      {"spec.rules.*.subjects.*.user.name", "spec.rules.*.subjects.*.group.name"},
}

// secretNamespaces is the annotations and parameters that hold the namespace of a storage driver's Secret.
var secretNamespaces = map[kind]string{
	{"storage.k8s.io", "StorageClass"}:                           "parameters",
	{"snapshot.storage.k8s.io", "VolumeSnapshotClass"}:           "parameters",
	{"snapshot.storage.k8s.io", "VolumeSnapshotContent"}:         "metadata.annotations",
	{"groupsnapshot.storage.k8s.io", "VolumeGroupSnapshotClass"}: "parameters",
	{"", "PersistentVolume"}:                                     "metadata.annotations",
}

const (
	nameLabel    = "kubernetes.io/metadata.name"
	gatewayGroup = "gateway.networking.k8s.io"
)

// namespaces maps the namespace that obj lies in or is, and the references to others.
func (t *Transformer) namespaces(obj *unstructured.Unstructured) {
	if len(t.rules.Namespaces) == 0 {
		return
	}
	k, o := kindOf(obj), obj.Object
	replace(o, "metadata.namespace", t.Namespace)
	if k == (kind{"", "Namespace"}) {
		replace(o, "metadata.name", t.Namespace)
		visit(o, "metadata.labels", t.nameLabel)
	}
	for _, path := range namespaceFields[k] {
		replace(o, path, t.Namespace)
	}
	for _, path := range accountFields[k] {
		replace(o, path, t.account)
	}
	if path, ok := secretNamespaces[k]; ok {
		visit(o, path, func(m map[string]any) {
			for key, value := range m {
				if name, ok := value.(string); ok && (strings.HasSuffix(key, "secret-namespace") || strings.HasSuffix(key, "ecretNamespace")) {
					m[key] = t.Namespace(name)
				}
			}
		})
	}
	if path, ok := podTemplates[k]; ok && path != "" {
		replace(o, path+".metadata.namespace", t.Namespace)
	}
	podSpecs(obj, t.podNamespaces)
	if k == (kind{"rbac.authorization.k8s.io", "ClusterRole"}) {
		visit(o, "rules.*", t.namespaceRule)
	}
	if k.group == gatewayGroup {
		t.everyNamespace(o["spec"])
	}
	if ofKubernetes(k.group) {
		t.selectors(o)
	}
}

// account maps the user that a service account is, or the group that all of a namespace are.
func (t *Transformer) account(name string) string {
	if rest, ok := strings.CutPrefix(name, "system:serviceaccount:"); ok {
		namespace, account, _ := strings.Cut(rest, ":")
		return "system:serviceaccount:" + t.Namespace(namespace) + ":" + account
	}
	if namespace, ok := strings.CutPrefix(name, "system:serviceaccounts:"); ok {
		return "system:serviceaccounts:" + t.Namespace(namespace)
	}
	return name
}

// podNamespaces maps the namespaces whose Pods a Pod wants to be near to, or far from.
func (t *Transformer) podNamespaces(spec map[string]any) {
	for _, affinity := range []string{"podAffinity", "podAntiAffinity"} {
		at := "affinity." + affinity
		replace(spec, at+".requiredDuringSchedulingIgnoredDuringExecution.*.namespaces.*", t.Namespace)
		replace(spec, at+".preferredDuringSchedulingIgnoredDuringExecution.*.podAffinityTerm.namespaces.*", t.Namespace)
	}
	replace(spec, "volumes.*.ephemeral.volumeClaimTemplate.metadata.namespace", t.Namespace)
	replace(spec, "volumes.*.ephemeral.volumeClaimTemplate.spec.dataSourceRef.namespace", t.Namespace)
}

// namespaceRule maps the names of a rule that is about namespaces alone: of others a name may be anything's.
func (t *Transformer) namespaceRule(rule map[string]any) {
	resources, _ := rule["resources"].([]any)
	for _, r := range resources {
		if name, _ := r.(string); name != "namespaces" && !strings.HasPrefix(name, "namespaces/") {
			return
		}
	}
	if len(resources) > 0 {
		replaceAll(rule["resourceNames"], t.Namespace)
	}
}

// everyNamespace maps each field that is called namespace: in the Gateway API they all are references. What
// users label and annotate is left alone.
func (t *Transformer) everyNamespace(node any) {
	switch n := node.(type) {
	case map[string]any:
		for key, value := range n {
			switch name, ok := value.(string); {
			case key == "labels" || key == "annotations" || key == "matchLabels" || key == "options":
			case key == "namespace" && ok:
				n[key] = t.Namespace(name)
			default:
				t.everyNamespace(value)
			}
		}
	case []any:
		for _, e := range n {
			t.everyNamespace(e)
		}
	}
}

// ofKubernetes tells whether a group is one of Kubernetes' own, whose selectors are LabelSelectors.
func ofKubernetes(group string) bool {
	return !strings.Contains(group, ".") || strings.HasSuffix(group, ".k8s.io")
}

// selectors maps the names that selectors of namespaces have, wherever they are: the label says that they mean namespaces.
func (t *Transformer) selectors(node any) {
	switch n := node.(type) {
	case map[string]any:
		if labels, ok := n["matchLabels"].(map[string]any); ok {
			t.nameLabel(labels)
		}
		visit(n, "matchExpressions.*", func(e map[string]any) {
			if e["key"] == nameLabel {
				replaceAll(e["values"], t.Namespace)
			}
		})
		for key, value := range n {
			if key != "matchLabels" && key != "matchExpressions" {
				t.selectors(value)
			}
		}
	case []any:
		for _, e := range n {
			t.selectors(e)
		}
	}
}

func (t *Transformer) nameLabel(labels map[string]any) {
	if name, ok := labels[nameLabel].(string); ok {
		labels[nameLabel] = t.Namespace(name)
	}
}
