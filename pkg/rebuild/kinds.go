package rebuild

import (
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// phase is a step of the order: what is of one phase is independent of each other and goes in parallel.
type phase int

// The phases, in order. What must not act before what it acts on is there comes later.
const (
	phaseCRDs phase = iota
	phaseNamespaces
	phaseAccess
	phaseBindings
	phaseConfig
	phaseVolumes
	phaseClaims
	phaseServices
	phaseCustom
	phaseWorkloads
	phaseScaling
	phaseRouting
	phaseWebhooks
	phases // how many there are
)

var phaseNames = [phases]string{
	"crds", "namespaces", "access", "bindings", "config", "volumes", "claims", "services", "custom", "workloads", "scaling", "routing", "webhooks",
}

func (p phase) String() string { return phaseNames[p] }

// Phases returns the names of the order's phases: definitions first, webhooks last.
func Phases() []string { return slices.Clone(phaseNames[:]) }

// kind is how the objects of one resource are treated.
type kind struct {
	phase phase
	// back: not applied before a release, only rehearsed.
	back bool
	// never: belongs to a cluster and not to an application; not applied at all.
	never bool
	// hold changes an object into the form that doesn't act and returns what it replaced, by path. Nil: it acts in no way.
	hold func(obj map[string]any) map[string]any
	// shared: one that exists already and is equal enough is used as it is.
	shared bool
	// replace: nothing is lost where it is deleted and created again in its held form.
	replace bool
}

// The resources by their group and name.
var kinds = map[schema.GroupResource]kind{
	in("apiextensions.k8s.io", "customresourcedefinitions"): {phase: phaseCRDs, shared: true},
	in("", "namespaces"): {phase: phaseNamespaces, shared: true},

	in("", "serviceaccounts"):                              {phase: phaseAccess},
	in("rbac.authorization.k8s.io", "roles"):               {phase: phaseAccess},
	in("rbac.authorization.k8s.io", "clusterroles"):        {phase: phaseAccess, shared: true},
	in("rbac.authorization.k8s.io", "rolebindings"):        {phase: phaseBindings, replace: true},
	in("rbac.authorization.k8s.io", "clusterrolebindings"): {phase: phaseBindings, replace: true},

	in("", "configmaps"):                            {phase: phaseConfig, replace: true},
	in("", "secrets"):                               {phase: phaseConfig, replace: true},
	in("storage.k8s.io", "storageclasses"):          {phase: phaseConfig, replace: true, shared: true},
	in("storage.k8s.io", "volumeattributesclasses"): {phase: phaseConfig, replace: true, shared: true},
	in("storage.k8s.io", "csidrivers"):              {phase: phaseConfig, replace: true, shared: true},
	in("scheduling.k8s.io", "priorityclasses"):      {phase: phaseConfig, replace: true, shared: true},
	in("networking.k8s.io", "ingressclasses"):       {phase: phaseConfig, replace: true, shared: true},
	in("node.k8s.io", "runtimeclasses"):             {phase: phaseConfig, replace: true, shared: true},
	in("resource.k8s.io", "deviceclasses"):          {phase: phaseConfig, replace: true, shared: true},

	in("", "persistentvolumes"):              {phase: phaseVolumes, back: true},
	in("", "persistentvolumeclaims"):         {phase: phaseClaims, back: true},
	in("", "services"):                       {phase: phaseServices, hold: holdService, replace: true},
	in("", "endpoints"):                      {phase: phaseServices},
	in("discovery.k8s.io", "endpointslices"): {phase: phaseServices},

	in("", "pods"):                                {phase: phaseWorkloads, back: true},
	in("", "replicationcontrollers"):              {phase: phaseWorkloads, hold: holdReplicas, replace: true},
	in("apps", "deployments"):                     {phase: phaseWorkloads, hold: holdReplicas, replace: true},
	in("apps", "replicasets"):                     {phase: phaseWorkloads, hold: holdReplicas, replace: true},
	in("apps", "statefulsets"):                    {phase: phaseWorkloads, hold: holdReplicas, replace: true},
	in("apps", "daemonsets"):                      {phase: phaseWorkloads, hold: holdNodes, replace: true},
	in("batch", "cronjobs"):                       {phase: phaseWorkloads, hold: holdSuspended, replace: true},
	in("batch", "jobs"):                           {phase: phaseWorkloads, hold: holdSuspended, replace: true},
	in("autoscaling", "horizontalpodautoscalers"): {phase: phaseScaling, hold: holdScaling},

	in("networking.k8s.io", "ingresses"):                                    {phase: phaseRouting, back: true},
	in("admissionregistration.k8s.io", "validatingwebhookconfigurations"):   {phase: phaseWebhooks, hold: holdWebhooks},
	in("admissionregistration.k8s.io", "mutatingwebhookconfigurations"):     {phase: phaseWebhooks, hold: holdWebhooks},
	in("admissionregistration.k8s.io", "validatingadmissionpolicybindings"): {phase: phaseWebhooks, back: true},
	in("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"):   {phase: phaseWebhooks, back: true},
	in("apiregistration.k8s.io", "apiservices"):                             {phase: phaseWebhooks, back: true},
	in("flowcontrol.apiserver.k8s.io", "flowschemas"):                       {phase: phaseWebhooks, back: true},
	in("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"):       {phase: phaseWebhooks, back: true},

	in("resource.k8s.io", "resourceclaims"): {phase: phaseClaims, back: true},

	in("", "nodes"):                                           {never: true},
	in("", "events"):                                          {never: true},
	in("events.k8s.io", "events"):                             {never: true},
	in("coordination.k8s.io", "leases"):                       {never: true},
	in("coordination.k8s.io", "leasecandidates"):              {never: true},
	in("storage.k8s.io", "csinodes"):                          {never: true},
	in("storage.k8s.io", "csistoragecapacities"):              {never: true},
	in("storage.k8s.io", "volumeattachments"):                 {never: true},
	in("networking.k8s.io", "ipaddresses"):                    {never: true},
	in("networking.k8s.io", "servicecidrs"):                   {never: true},
	in("resource.k8s.io", "resourceslices"):                   {never: true},
	in("certificates.k8s.io", "certificatesigningrequests"):   {never: true},
	in("certificates.k8s.io", "podcertificaterequests"):       {never: true},
	in("storagemigration.k8s.io", "storageversionmigrations"): {never: true},
	in("internal.apiserver.k8s.io", "storageversions"):        {never: true},
	in("apps", "controllerrevisions"):                         {never: true},
}

// builtIn lists the API groups that every API server has: what is of another group is a custom resource.
var builtIn = []string{
	"", "admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io", "apps", "authentication.k8s.io",
	"authorization.k8s.io", "autoscaling", "batch", "certificates.k8s.io", "coordination.k8s.io", "discovery.k8s.io",
	"events.k8s.io", "flowcontrol.apiserver.k8s.io", "internal.apiserver.k8s.io", "networking.k8s.io", "node.k8s.io", "policy",
	"rbac.authorization.k8s.io", "resource.k8s.io", "scheduling.k8s.io", "storage.k8s.io", "storagemigration.k8s.io",
}

// gatewayGroup holds the Gateway API, which routes as an Ingress does.
const gatewayGroup = "gateway.networking.k8s.io"

func in(group, resource string) schema.GroupResource {
	return schema.GroupResource{Group: group, Resource: resource}
}

// kindOf tells how a resource is treated. A custom resource is held back unless it is listed as inert; a built-in
// one that isn't in the table, such as a NetworkPolicy or a ResourceQuota, does nothing by itself.
func kindOf(gr schema.GroupResource, inert []schema.GroupResource) kind {
	if k, ok := kinds[gr]; ok {
		return k
	}
	switch {
	case slices.Contains(builtIn, gr.Group):
		return kind{phase: phaseConfig}
	case gr.Group == gatewayGroup:
		return kind{phase: phaseRouting, back: !slices.Contains(inert, gr)}
	}
	return kind{phase: phaseCustom, back: !slices.Contains(inert, gr)}
}
