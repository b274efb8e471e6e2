package objects

import (
	"fmt"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/internal/kube/kubetest"
)

// mapped is an application whose parts name each other across namespaces.
func mapped() string {
	return manifest("v1", "ServiceAccount", "bank", "web", "") +
		manifest("v1", "Service", "bank", "web", "spec: {selector: {part: web}, ports: [{port: 443}]}") +
		manifest("v1", "Service", "bank", "database", "spec: {type: ExternalName, externalName: db.bank.svc.cluster.local}") +
		manifest("v1", "ConfigMap", "bank", "settings", `data: {url: "postgres://db.bank.svc.cluster.local:5432/x", other: "db.bank.svc"}`) +
		manifest("rbac.authorization.k8s.io/v1", "Role", "bank", "web", `rules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}]`) +
		manifest("rbac.authorization.k8s.io/v1", "RoleBinding", "bank", "web", `roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: web}
subjects: [{kind: ServiceAccount, name: web, namespace: bank}]`) +
		manifest("rbac.authorization.k8s.io/v1", "ClusterRole", "", "bank-web", `rules: [{apiGroups: [""], resources: [namespaces], resourceNames: [bank], verbs: [get]}]`) +
		manifest("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "", "bank-web", `roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: bank-web}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "system:serviceaccount:bank:web"}]`) +
		manifest("networking.k8s.io/v1", "NetworkPolicy", "bank", "inner", `spec: {podSelector: {}, ingress: [{from: [
  {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: bank}}},
  {namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [bank, watch]}]}}]}]}`) +
		manifest("networking.k8s.io/v1", "Ingress", "bank", "door", `spec: {ingressClassName: outer, tls: [{hosts: [www.bank.example]}], rules: [{host: www.bank.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 443}}}}]}}]}`) +
		manifest("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "", "bank", `webhooks: [{name: a.bank.example, admissionReviewVersions: [v1], sideEffects: None, failurePolicy: Ignore,
  clientConfig: {service: {name: web, namespace: bank, path: /x}}, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: bank}},
  rules: [{apiGroups: [bank.example], apiVersions: [v1], operations: [CREATE], resources: [nothing]}]}]`) +
		manifest("apps/v1", "Deployment", "bank", "web", `spec:
  replicas: 5
  selector: {matchLabels: {part: web}}
  template:
    metadata: {labels: {part: web}}
    spec:
      serviceAccountName: web
      initContainers: [{name: i, image: "registry.example/init:1"}]
      containers: [{name: c, image: nginx, env: [{name: DB, value: db.bank.svc.cluster.local}]}]`) +
		manifest("v1", "PersistentVolumeClaim", "bank", "data", `spec: {accessModes: [ReadWriteOnce], storageClassName: gold, resources: {requests: {storage: 1Mi}}}`)
}

const mapping = `namespaces: {bank: bank-dr}, storageClasses: {gold: silver}, ingressClasses: {outer: inner},
    registries: {docker.io: mirror.example/hub, registry.example: mirror.example}, hosts: {"*.bank.example": "*.dr.example"},
    names: {db.bank.svc.cluster.local: db.bank-dr.svc.cluster.local},
    patches: [{target: {group: apps, kind: Deployment, namespace: bank}, when: "object.spec.replicas > 2", patch: [{op: replace, path: /spec/replicas, value: 2}]},
      {target: {kind: Service, name: web}, patch: [{op: add, path: /metadata/labels/site, value: dr}]}]`

// An application with RBAC, network policies and webhooks arrives in a namespace of another name, with that site's classes, registries and hosts, and
// what it is allowed it is allowed there.
func TestMapping(t *testing.T) {
	s := start(t, options{recovery: mapping})
	s.primary.apply(mapped())
	s.applied("mapped")
	if s.dr.get(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, "", "bank") != nil {
		t.Error("the namespace has its old name at the DR site")
	}
	allowed(t, s.dr, "bank-dr", "configmaps", "", true)
	allowed(t, s.dr, "bank", "configmaps", "", false)
	allowed(t, s.dr, "bank-dr", "namespaces", "bank-dr", true)
	allowed(t, s.dr, "bank", "namespaces", "bank", false)
	s.release()
	rbac := schema.GroupVersion{Group: "rbac.authorization.k8s.io", Version: "v1"}
	hooks := schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingwebhookconfigurations"}
	policies := schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"}
	for _, tt := range []struct {
		obj  *unstructured.Unstructured
		want string // of the object's fields, as Go prints them
	}{
		{s.dr.get(rbac.WithResource("rolebindings"), "bank-dr", "web"), "kind:ServiceAccount name:web namespace:bank-dr"},
		{s.dr.get(rbac.WithResource("clusterrolebindings"), "", "bank-web"), "name:system:serviceaccount:bank-dr:web"},
		{s.dr.get(rbac.WithResource("clusterroles"), "", "bank-web"), "resourceNames:[bank-dr]"},
		{s.dr.get(policies, "bank-dr", "inner"), "matchLabels:map[kubernetes.io/metadata.name:bank-dr]"},
		{s.dr.get(policies, "bank-dr", "inner"), "values:[bank-dr watch]"},
		{s.dr.get(hooks, "", "bank"), "service:map[name:web namespace:bank-dr path:/x port:443]"},
		{s.dr.get(hooks, "", "bank"), "matchLabels:map[kubernetes.io/metadata.name:bank-dr]"},
		{s.dr.get(ingresses, "bank-dr", "door"), "ingressClassName:inner"},
		{s.dr.get(ingresses, "bank-dr", "door"), "host:www.dr.example"},
		{s.dr.get(ingresses, "bank-dr", "door"), "hosts:[www.dr.example]"},
		{s.dr.get(services, "bank-dr", "database"), "externalName:db.bank-dr.svc.cluster.local"},
		{s.dr.get(services, "bank-dr", "web"), "site:dr"},
		{s.dr.get(configMaps, "bank-dr", "settings"), "url:postgres://db.bank-dr.svc.cluster.local:5432/x"},
		{s.dr.get(configMaps, "bank-dr", "settings"), "other:db.bank.svc"},
		{s.dr.get(deployments, "bank-dr", "web"), "image:mirror.example/init:1"},
		{s.dr.get(deployments, "bank-dr", "web"), "image:mirror.example/hub/library/nginx"},
		{s.dr.get(deployments, "bank-dr", "web"), "value:db.bank-dr.svc.cluster.local"},
		{s.dr.get(deployments, "bank-dr", "web"), "replicas:2"},
		{s.dr.get(claims, "bank-dr", "data"), "storageClassName:silver"},
	} {
		if tt.obj == nil {
			t.Errorf("the object that should have %s is missing", tt.want)
			continue
		}
		delete(tt.obj.Object["metadata"].(map[string]any), "managedFields")
		if got := fmt.Sprint(tt.obj.Object); !strings.Contains(got, tt.want) {
			t.Errorf("%s %s has no %s: %s", tt.obj.GetKind(), tt.obj.GetName(), tt.want, got)
		}
	}
}

// allowed checks whether the service account "web" of a namespace may get something at a site: the API server itself is asked.
func allowed(t *testing.T, c *cluster, namespace, resource, name string, want bool) {
	t.Helper()
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User:               "system:serviceaccount:" + namespace + ":web",
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: resource, Name: name},
	}}
	if resource != "namespaces" {
		review.Spec.ResourceAttributes.Namespace = namespace
	}
	got, err := kubetest.Client(t, c.Cluster).AuthorizationV1().SubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Status.Allowed != want {
		t.Errorf("%s may get %s %s: %v, want %v", review.Spec.User, resource, name, got.Status.Allowed, want)
	}
}

// What can't be used is refused by every process before it starts, with the path of the field and exit code 2.
func TestBadDocuments(t *testing.T) {
	for _, tt := range []struct{ name, spec, recovery, want string }{
		{"selector", `{namespaces: [bank], selector: "app in bank"}`, "", "spec.objects.selector: "},
		{"recipient", `{namespaces: [bank], recipients: [age1x]}`, "", "spec.objects.recipients[0]: "},
		{"transform", `{namespaces: [bank]}`, `{patches: [{target: {group: apps, kind: Deployment}, when: "object.spec >", patch: [{op: remove, path: /spec/x}]}]}`,
			"spec.recovery.objects.patches[0].when: "},
		{"patch", `{namespaces: [bank]}`, `{patches: [{target: {group: apps, kind: Deployment}, patch: [{op: remove, path: spec}]}]}`,
			"spec.recovery.objects.patches[0].patch[0].path: "},
		{"mapping", `{namespaces: [bank]}`, `{namespaces: {bank: "Not A Name"}}`, `spec.recovery.objects.namespaces["bank"]: `},
		{"unknown field", `{namespaces: [bank]}`, `{namespace: {bank: x}}`, "spec.recovery.objects.namespace: unknown field"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := harness.New(t, harness.Options{Volumes: -1, Objects: &harness.Objects{Spec: tt.spec, Recovery: tt.recovery, Primary: "/none", DR: "/none"}})
			processes := []*harness.Process{p.Snapshotter, p.Watcher, p.Applier}
			for _, x := range processes {
				x.Start()
			}
			for _, x := range processes {
				if code := x.Wait(limit); code != 2 {
					t.Errorf("%s ended with %d, want 2", x.Name, code)
				}
				if log := x.WholeLog(); !strings.Contains(log, tt.want) {
					t.Errorf("%s doesn't say %q:\n%s", x.Name, tt.want, log)
				}
			}
		})
	}
}
