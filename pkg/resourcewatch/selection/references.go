package selection

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const groupRBAC = "rbac.authorization.k8s.io"

// clusterScoped are the cluster-scoped kinds that something in a namespace can need.
var clusterScoped = []string{
	"namespaces", "persistentvolumes",
	"clusterroles." + groupRBAC, "clusterrolebindings." + groupRBAC,
	"customresourcedefinitions.apiextensions.k8s.io", "apiservices.apiregistration.k8s.io",
	"validatingwebhookconfigurations.admissionregistration.k8s.io", "mutatingwebhookconfigurations.admissionregistration.k8s.io",
	"validatingadmissionpolicies.admissionregistration.k8s.io", "validatingadmissionpolicybindings.admissionregistration.k8s.io",
	"mutatingadmissionpolicies.admissionregistration.k8s.io", "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
	"storageclasses.storage.k8s.io", "volumeattributesclasses.storage.k8s.io",
	"priorityclasses.scheduling.k8s.io", "runtimeclasses.node.k8s.io", "ingressclasses.networking.k8s.io",
	"deviceclasses.resource.k8s.io", "clustertrustbundles.certificates.k8s.io", "gatewayclasses.gateway.networking.k8s.io",
}

// references adds what an object needs and serves.
func (s *Selection) references(k Kind, obj *unstructured.Unstructured, f *Facts) {
}
