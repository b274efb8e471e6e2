package transform

import (
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// ownedMetadata is what an API server writes into every object. Owners go too: they are named by UID, and the garbage collector
// of another cluster would delete what belongs to an owner that it doesn't find.
var ownedMetadata = []string{
	"uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds",
	"selfLink", "managedFields", "ownerReferences",
}

// ownedAnnotations are written by an API server, its controllers or kubectl, on any kind.
var ownedAnnotations = []string{
	"kubectl.kubernetes.io/last-applied-configuration",
	"control-plane.alpha.kubernetes.io/leader",
	"endpoints.kubernetes.io/last-change-trigger-time",
	"deployment.kubernetes.io/revision",
	"deployment.kubernetes.io/revision-history",
	"deployment.kubernetes.io/desired-replicas",
	"deployment.kubernetes.io/max-replicas",
	"deprecated.daemonset.template.generation",
	"batch.kubernetes.io/job-tracking",
	"kubernetes.io/service-account.uid",
}

// boundAnnotations are how a claim and a volume came together: the binding is the other cluster's to make.
var boundAnnotations = []string{
	"pv.kubernetes.io/bind-completed",
	"pv.kubernetes.io/bound-by-controller",
	"pv.kubernetes.io/migrated-to",
	"volume.kubernetes.io/selected-node",
	"volume.kubernetes.io/storage-provisioner",
	"volume.beta.kubernetes.io/storage-provisioner",
	"volume.kubernetes.io/storage-resizer",
}

// ownedFinalizers are put on by an API server, its controllers or the sidecars of storage. Nobody at a site that stands by
// would take them off; what needs them puts them on again. Others stay: they may be what the application says.
var ownedFinalizers = []string{
	"orphan", "foregroundDeletion", "kubernetes",
	"kubernetes.io/pvc-protection", "kubernetes.io/pv-protection", "kubernetes.io/pv-controller",
	"external-provisioner.volume.kubernetes.io/finalizer", "external-attacher/",
	"service.kubernetes.io/load-balancer-cleanup", "batch.kubernetes.io/job-tracking",
	"customresourcecleanup.apiextensions.k8s.io", "resource.kubernetes.io/delete-protection",
	"snapshot.storage.kubernetes.io/", "networking.k8s.io/service-cidr-finalizer",
}

// jobLabels are what an API server writes into the template of a Job whose selector it makes.
var jobLabels = []string{
	"controller-uid", "batch.kubernetes.io/controller-uid", "job-name", "batch.kubernetes.io/job-name",
}

// generatedToken is how the token controller named Secrets of a service account.
var generatedToken = regexp.MustCompile(`-(token|dockercfg)-[bcdfghjklmnpqrstvwxz2456789]{5}$`)

// owned takes away what belongs to the API server that obj comes from.
func owned(obj *unstructured.Unstructured) {
	o := obj.Object
	delete(o, "status")
	remove(o, "metadata", ownedMetadata...)
	visit(o, "metadata", func(meta map[string]any) {
		without(meta, "annotations", func(key string) bool { return slices.Contains(ownedAnnotations, key) })
		filter(meta, "finalizers", func(f any) bool { return !ownedFinalizer(f) })
	})
	if clean, ok := ownedOf[kindOf(obj)]; ok {
		clean(o)
	}
	if path, ok := podTemplates[kindOf(obj)]; ok && path != "" {
		noTimestamp(o, join(path, "metadata"))
	}
}

func ownedFinalizer(f any) bool {
	name, _ := f.(string)
	return slices.ContainsFunc(ownedFinalizers, func(owned string) bool {
		return name == owned || strings.HasSuffix(owned, "/") && strings.HasPrefix(name, owned)
	})
}

// noTimestamp takes away the null that every template has where nobody writes a time.
func noTimestamp(o map[string]any, metadata string) { remove(o, metadata, "creationTimestamp") }

// ownedOf is what goes from single kinds, beside what goes from all.
var ownedOf = map[kind]func(map[string]any){
	{"", "Namespace"}:             ownedNamespace,
	{"", "Service"}:               ownedService,
	{"", "ServiceAccount"}:        ownedServiceAccount,
	{"", "Secret"}:                ownedSecret,
	{"", "Pod"}:                   ownedPod,
	{"", "PersistentVolumeClaim"}: ownedClaim,
	{"", "PersistentVolume"}:      ownedVolume,
	{"", "Node"}: func(o map[string]any) {
		remove(o, "spec", "podCIDR", "podCIDRs", "providerID", "configSource", "externalID")
	},
	{"apps", "StatefulSet"}: func(o map[string]any) {
		remove(o, "spec.volumeClaimTemplates.*", "status")
		noTimestamp(o, "spec.volumeClaimTemplates.*.metadata")
	},
	{"batch", "Job"}:     ownedJob,
	{"batch", "CronJob"}: ownedCronJob,
	{"rbac.authorization.k8s.io", "ClusterRole"}: func(o map[string]any) {
		if o["aggregationRule"] != nil {
			delete(o, "rules") // a controller gathers them
		}
	},
	{"certificates.k8s.io", "CertificateSigningRequest"}: func(o map[string]any) {
		remove(o, "spec", "username", "uid", "groups", "extra")
	},
}

func ownedNamespace(o map[string]any) {
	spec, _ := o["spec"].(map[string]any)
	delete(spec, "finalizers")
	if len(spec) == 0 {
		delete(o, "spec")
	}
}

// ownedService lets the other cluster choose addresses and ports. "None" stays: it is no address but what the Service is.
func ownedService(o map[string]any) {
	visit(o, "spec", func(spec map[string]any) {
		if spec["clusterIP"] != "None" {
			delete(spec, "clusterIP")
			delete(spec, "clusterIPs")
		}
		delete(spec, "healthCheckNodePort")
	})
	remove(o, "spec.ports.*", "nodePort")
}

func ownedServiceAccount(o map[string]any) {
	generated := func(ref any) bool {
		m, _ := ref.(map[string]any)
		name, _ := m["name"].(string)
		return generatedToken.MatchString(name)
	}
	filter(o, "secrets", func(ref any) bool { return !generated(ref) })
	filter(o, "imagePullSecrets", func(ref any) bool { return !generated(ref) })
}

// ownedSecret empties a service account's token: the other cluster's controller writes its own.
func ownedSecret(o map[string]any) {
	if o["type"] != "kubernetes.io/service-account-token" {
		return
	}
	without(o, "data", func(key string) bool { return key == "token" || key == "ca.crt" || key == "namespace" })
	visit(o, "metadata", func(meta map[string]any) {
		without(meta, "labels", func(key string) bool { return strings.HasPrefix(key, "kubernetes.io/legacy-token-") })
	})
}

// ownedPod takes away where a Pod was scheduled and what admission wrote into it. Admission computes these again, and refuses them if
// they differ.
func ownedPod(o map[string]any) {
	visit(o, "spec", func(spec map[string]any) {
		delete(spec, "nodeName")
		delete(spec, "ephemeralContainers") // can't be given when a Pod is made
		delete(spec, "priority")
		if spec["runtimeClassName"] != nil {
			delete(spec, "overhead")
		}
		token := func(e any) bool {
			m, _ := e.(map[string]any)
			name, _ := m["name"].(string)
			return strings.HasPrefix(name, "kube-api-access-")
		}
		filter(spec, "volumes", func(e any) bool { return !token(e) })
		containers(spec, func(c map[string]any) { filter(c, "volumeMounts", func(e any) bool { return !token(e) }) })
	})
}

func ownedClaim(o map[string]any) {
	remove(o, "spec", "volumeName")
	ownedBinding(o)
}

func ownedVolume(o map[string]any) {
	remove(o, "spec.claimRef", "uid", "resourceVersion")
	ownedBinding(o)
}

func ownedBinding(o map[string]any) {
	visit(o, "metadata", func(meta map[string]any) {
		without(meta, "annotations", func(key string) bool { return slices.Contains(boundAnnotations, key) })
	})
}

// ownedJob takes away the selector that an API server made of the Job's UID, and the labels that go with it.
func ownedJob(o map[string]any) {
	visit(o, "spec", func(s map[string]any) {
		if manual, _ := s["manualSelector"].(bool); manual {
			return
		}
		delete(s, "selector")
		visit(s, "template.metadata", func(meta map[string]any) {
			without(meta, "labels", func(key string) bool { return slices.Contains(jobLabels, key) })
		})
	})
}

func ownedCronJob(o map[string]any) { noTimestamp(o, "spec.jobTemplate.metadata") }
