package transform

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func manifest(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	doc, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	obj := new(unstructured.Unstructured)
	if err := obj.UnmarshalJSON(doc); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return obj
}

// one is what an object becomes, as YAML on both sides.
type one struct{ name, is, becomes string }

func (tt one) check(t *testing.T, transformer *Transformer) {
	t.Helper()
	t.Run(tt.name, func(t *testing.T) {
		got, want := manifest(t, tt.is), manifest(t, tt.becomes)
		if err := transformer.Apply(got); err != nil {
			t.Fatal(err)
		}
		if d := differences("", want.Object, got.Object); len(d) > 0 {
			text, err := yaml.Marshal(got.Object)
			if err != nil {
				t.Fatal(err)
			}
			t.Errorf("differs at %v:\n%s", d, text)
		}
	})
}

func TestOwned(t *testing.T) {
	transformer := compile(t, Rules{})
	for _, tt := range []one{
		{"a headless service stays one", `{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: None, clusterIPs: [None], ports: [{port: 1, nodePort: 0}]}}`,
			`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: None, clusterIPs: [None], ports: [{port: 1}]}}`},
		{"a service loses its addresses", `{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], healthCheckNodePort: 3, ports: [{port: 1, nodePort: 30001}]}, status: {loadBalancer: {}}}`,
			`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer, ports: [{port: 1}]}}`},
		{"annotations of others stay", `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, annotations: {mine: x, kubectl.kubernetes.io/last-applied-configuration: "{}"}}}`,
			`{apiVersion: v1, kind: ConfigMap, metadata: {name: a, annotations: {mine: x}}}`},
		{"no empty annotations are left", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, annotations: {deployment.kubernetes.io/revision: "3"}}}`,
			`{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}`},
		{"finalizers", `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, finalizers: [kubernetes.io/pvc-protection, external-attacher/disk, example.com/mine]}}`,
			`{apiVersion: v1, kind: ConfigMap, metadata: {name: a, finalizers: [example.com/mine]}}`},
		{"owners", `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, uid: u, ownerReferences: [{apiVersion: v1, kind: Pod, name: p, uid: u}]}}`,
			`{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}`},
		{"a claim is not bound", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a, finalizers: [kubernetes.io/pvc-protection], annotations: {pv.kubernetes.io/bind-completed: "yes", volume.kubernetes.io/selected-node: n}}, spec: {volumeName: pv, storageClassName: gold}, status: {phase: Bound}}`,
			`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}, spec: {storageClassName: gold}}`},
		{"a volume keeps whose it is", `{apiVersion: v1, kind: PersistentVolume, metadata: {name: a}, spec: {claimRef: {namespace: bank, name: a, uid: u, resourceVersion: "3"}}}`,
			`{apiVersion: v1, kind: PersistentVolume, metadata: {name: a}, spec: {claimRef: {namespace: bank, name: a}}}`},
		{"a job's selector", `{apiVersion: batch/v1, kind: Job, metadata: {name: a}, spec: {selector: {matchLabels: {batch.kubernetes.io/controller-uid: u}}, template: {metadata: {creationTimestamp: null, labels: {app: x, job-name: a, controller-uid: u, batch.kubernetes.io/job-name: a, batch.kubernetes.io/controller-uid: u}}}}}`,
			`{apiVersion: batch/v1, kind: Job, metadata: {name: a}, spec: {template: {metadata: {labels: {app: x}}}}}`},
		{"a job's own selector", `{apiVersion: batch/v1, kind: Job, metadata: {name: a}, spec: {manualSelector: true, selector: {matchLabels: {job-name: x}}, template: {metadata: {labels: {job-name: x}}}}}`,
			`{apiVersion: batch/v1, kind: Job, metadata: {name: a}, spec: {manualSelector: true, selector: {matchLabels: {job-name: x}}, template: {metadata: {labels: {job-name: x}}}}}`},
		{"tokens of a service account", `{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}, secrets: [{name: a-token-x2zbc}, {name: mine}]}`,
			`{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}, secrets: [{name: mine}]}`},
		{"a token", `{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, metadata: {name: a, annotations: {kubernetes.io/service-account.name: x, kubernetes.io/service-account.uid: u}}, data: {token: eA==, ca.crt: eA==, namespace: eA==}}`,
			`{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, metadata: {name: a, annotations: {kubernetes.io/service-account.name: x}}}`},
		{"a bare pod", `{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {nodeName: n, priority: 0, containers: [{name: c, volumeMounts: [{name: kube-api-access-x2zbc, mountPath: /var/run}]}], volumes: [{name: kube-api-access-x2zbc, projected: {}}]}}`,
			`{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c}]}}`},
		{"roles that are gathered", `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: a}, aggregationRule: {clusterRoleSelectors: []}, rules: [{verbs: [get]}]}`,
			`{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: a}, aggregationRule: {clusterRoleSelectors: []}}`},
		{"another's kind of the same name", `{apiVersion: example.com/v1, kind: Service, metadata: {name: a}, spec: {clusterIP: x}}`,
			`{apiVersion: example.com/v1, kind: Service, metadata: {name: a}, spec: {clusterIP: x}}`},
	} {
		tt.check(t, transformer)
	}
}

// What is read by a rule of its own instead of a field's name.
func TestNamespacesInOtherPlaces(t *testing.T) {
	transformer := compile(t, Rules{Namespaces: map[string]string{"bank": "bank-dr"}})
	for _, tt := range []one{
		{"a namespace", `{apiVersion: v1, kind: Namespace, metadata: {name: bank, labels: {kubernetes.io/metadata.name: bank, team: bank}}, spec: {finalizers: [kubernetes]}}`,
			`{apiVersion: v1, kind: Namespace, metadata: {name: bank-dr, labels: {kubernetes.io/metadata.name: bank-dr, team: bank}}}`},
		{"subjects", `{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: bank, namespace: bank}, roleRef: {name: bank}, subjects: [{kind: ServiceAccount, name: bank, namespace: bank}, {kind: ServiceAccount, name: x, namespace: other}, {kind: User, name: "system:serviceaccount:bank:bank"}, {kind: Group, name: "system:serviceaccounts:bank"}, {kind: Group, name: bank}]}`,
			`{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: bank, namespace: bank-dr}, roleRef: {name: bank}, subjects: [{kind: ServiceAccount, name: bank, namespace: bank-dr}, {kind: ServiceAccount, name: x, namespace: other}, {kind: User, name: "system:serviceaccount:bank-dr:bank"}, {kind: Group, name: "system:serviceaccounts:bank-dr"}, {kind: Group, name: bank}]}`},
		{"rules about namespaces", `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: a}, rules: [{resources: [namespaces, namespaces/status], resourceNames: [bank]}, {resources: [namespaces, secrets], resourceNames: [bank]}, {resourceNames: [bank]}]}`,
			`{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: a}, rules: [{resources: [namespaces, namespaces/status], resourceNames: [bank-dr]}, {resources: [namespaces, secrets], resourceNames: [bank]}, {resourceNames: [bank]}]}`},
		{"selectors", `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a, namespace: bank}, spec: {podSelector: {matchLabels: {app: bank}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: bank}, matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [bank, other]}, {key: app, operator: In, values: [bank]}]}}]}]}}`,
			`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a, namespace: bank-dr}, spec: {podSelector: {matchLabels: {app: bank}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: bank-dr}, matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [bank-dr, other]}, {key: app, operator: In, values: [bank]}]}}]}]}}`},
		{"secrets of drivers", `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: bank}, parameters: {csi.storage.k8s.io/provisioner-secret-namespace: bank, csi.storage.k8s.io/provisioner-secret-name: bank}}`,
			`{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: bank}, parameters: {csi.storage.k8s.io/provisioner-secret-namespace: bank-dr, csi.storage.k8s.io/provisioner-secret-name: bank}}`},
		{"routes", `{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a, namespace: bank}, spec: {parentRefs: [{name: g, namespace: bank}], rules: [{backendRefs: [{name: b, namespace: bank, filters: [{requestMirror: {backendRef: {namespace: bank}}}]}]}]}}`,
			`{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a, namespace: bank-dr}, spec: {parentRefs: [{name: g, namespace: bank-dr}], rules: [{backendRefs: [{name: b, namespace: bank-dr, filters: [{requestMirror: {backendRef: {namespace: bank-dr}}}]}]}]}}`},
		{"gateways", `{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: a, namespace: bank}, spec: {infrastructure: {labels: {namespace: bank}}, listeners: [{tls: {certificateRefs: [{name: c, namespace: bank}]}, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: bank}}}}}]}}`,
			`{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: a, namespace: bank-dr}, spec: {infrastructure: {labels: {namespace: bank}}, listeners: [{tls: {certificateRefs: [{name: c, namespace: bank-dr}]}, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: bank-dr}}}}}]}}`},
		{"a custom resource only moves", `{apiVersion: example.com/v1, kind: Ledger, metadata: {name: bank, namespace: bank}, spec: {namespace: bank, selector: {matchLabels: {kubernetes.io/metadata.name: bank}}}}`,
			`{apiVersion: example.com/v1, kind: Ledger, metadata: {name: bank, namespace: bank-dr}, spec: {namespace: bank, selector: {matchLabels: {kubernetes.io/metadata.name: bank}}}}`},
	} {
		tt.check(t, transformer)
	}
	if transformer.Namespace("bank") != "bank-dr" || transformer.Namespace("other") != "other" {
		t.Error("namespaces are not called what they become")
	}
}

func TestOtherMappings(t *testing.T) {
	transformer := compile(t, Rules{
		StorageClasses: map[string]string{"gold": "silver"},
		IngressClasses: map[string]string{"outer": "inner"},
		Hosts:          map[string]string{"*.bank.example": "*.dr.example", "www.bank.example": "bank.dr.example"},
		Names:          map[string]string{"db.bank.svc": "db.bank-dr.svc", "*.bank.svc.cluster.local": "*.bank-dr.svc.cluster.local"},
	})
	for _, tt := range []one{
		{"legacy annotation of storage", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a, annotations: {volume.beta.kubernetes.io/storage-class: gold}}, spec: {storageClassName: gold}}`,
			`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a, annotations: {volume.beta.kubernetes.io/storage-class: silver}}, spec: {storageClassName: silver}}`},
		{"quotas", `{apiVersion: v1, kind: ResourceQuota, metadata: {name: a}, spec: {hard: {gold.storageclass.storage.k8s.io/requests.storage: 1Gi, pods: "3"}}}`,
			`{apiVersion: v1, kind: ResourceQuota, metadata: {name: a}, spec: {hard: {silver.storageclass.storage.k8s.io/requests.storage: 1Gi, pods: "3"}}}`},
		{"ingress", `{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: a, annotations: {kubernetes.io/ingress.class: outer}}, spec: {ingressClassName: outer, rules: [{host: www.bank.example}, {host: a.b.bank.example}, {host: "*.bank.example"}, {host: bank.example}, {}], tls: [{hosts: [www.bank.example, api.bank.example]}]}}`,
			`{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: a, annotations: {kubernetes.io/ingress.class: inner}}, spec: {ingressClassName: inner, rules: [{host: bank.dr.example}, {host: a.b.dr.example}, {host: "*.dr.example"}, {host: bank.example}, {}], tls: [{hosts: [bank.dr.example, api.dr.example]}]}}`},
		{"route", `{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a}, spec: {hostnames: [api.bank.example], rules: [{filters: [{requestRedirect: {hostname: www.bank.example}}]}]}}`,
			`{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a}, spec: {hostnames: [api.dr.example], rules: [{filters: [{requestRedirect: {hostname: bank.dr.example}}]}]}}`},
		{"gateway", `{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: a}, spec: {listeners: [{hostname: "*.bank.example"}]}}`,
			`{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: a}, spec: {listeners: [{hostname: "*.dr.example"}]}}`},
		{"external name", `{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: ExternalName, externalName: db.bank.svc.cluster.local}}`,
			`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: ExternalName, externalName: db.bank-dr.svc.cluster.local}}`},
		{"configuration", `{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {url: "postgres://u@db.bank.svc:5432/x, db.bank.svc.other xdb.bank.svc db.bank.svc. DB.BANK.SVC"}}`,
			`{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {url: "postgres://u@db.bank-dr.svc:5432/x, db.bank.svc.other xdb.bank.svc db.bank-dr.svc. db.bank-dr.svc"}}`},
		{"secrets", `{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {url: aHR0cDovL2RiLmJhbmsuc3ZjLw==, key: /wA=}}`,
			`{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {url: aHR0cDovL2RiLmJhbmstZHIuc3ZjLw==, key: /wA=}}`},
		{"environment", `{apiVersion: batch/v1, kind: CronJob, metadata: {name: a}, spec: {jobTemplate: {spec: {template: {spec: {initContainers: [{args: ["--db=db.bank.svc"]}], containers: [{env: [{name: db.bank.svc, value: db.bank.svc}], command: [ping, db.bank.svc]}]}}}}}}`,
			`{apiVersion: batch/v1, kind: CronJob, metadata: {name: a}, spec: {jobTemplate: {spec: {template: {spec: {initContainers: [{args: ["--db=db.bank-dr.svc"]}], containers: [{env: [{name: db.bank.svc, value: db.bank-dr.svc}], command: [ping, db.bank-dr.svc]}]}}}}}}`},
		{"webhook", `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: a}, webhooks: [{clientConfig: {url: "https://db.bank.svc:8443/x"}}]}`,
			`{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: a}, webhooks: [{clientConfig: {url: "https://db.bank-dr.svc:8443/x"}}]}`},
	} {
		tt.check(t, transformer)
	}
}

func TestImages(t *testing.T) {
	transformer := compile(t, Rules{Registries: map[string]string{
		"registry.example": "mirror.example", "registry.example/team": "team.example/x", "index.docker.io": "mirror.example/hub", "registry.example:5000": "ported.example",
	}})
	for is, becomes := range map[string]string{
		"registry.example/app:1":                "mirror.example/app:1",
		"registry.example/team/app@sha256:00":   "team.example/x/app@sha256:00",
		"registry.example/team":                 "team.example/x",
		"registry.example/teams/app:1@sha256:0": "mirror.example/teams/app:1@sha256:0",
		"registry.example:5000/app:1":           "ported.example/app:1",
		"registry.example:5001/app:1":           "registry.example:5001/app:1",
		"registry.example.org/app":              "registry.example.org/app",
		"nginx":                                 "mirror.example/hub/library/nginx",
		"nginx:1.27":                            "mirror.example/hub/library/nginx:1.27",
		"grafana/grafana:11":                    "mirror.example/hub/grafana/grafana:11",
		"docker.io/nginx":                       "mirror.example/hub/library/nginx",
		"index.docker.io/a/b":                   "mirror.example/hub/a/b",
		"localhost/app":                         "localhost/app",
		"quay.io/a/b:c":                         "quay.io/a/b:c",
	} {
		if got := transformer.image(is); got != becomes {
			t.Errorf("%s becomes %s, want %s", is, got, becomes)
		}
	}
}

const deployment = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: bank, labels: {b: "2", a: "1"}}, spec: {replicas: 5}}`

func TestPatches(t *testing.T) {
	target := Target{Group: "apps", Kind: "Deployment", Namespace: "bank"}
	replicas := []Operation{{Op: "replace", Path: "/spec/replicas", Value: int64(2)}}
	for _, tt := range []struct {
		name  string
		patch Patch
		want  int64 // replicas; 0: an error
	}{
		{"always", Patch{Target: target, Patch: replicas}, 2},
		{"when true", Patch{Target: target, When: "object.spec.replicas > 4", Patch: replicas}, 2},
		{"when false", Patch{Target: target, When: "object.spec.replicas > 5", Patch: replicas}, 5},
		{"after the mapping", Patch{Target: target, When: "object.metadata.namespace == 'bank-dr'", Patch: replicas}, 2},
		{"optional fields", Patch{Target: target, When: "object.spec.?paused.orValue(false)", Patch: replicas}, 5},
		{"keys in order", Patch{Target: target, When: "object.metadata.labels.map(k, k).join() == 'ab'", Patch: replicas}, 2},
		{"another kind", Patch{Target: Target{Group: "apps", Kind: "StatefulSet"}, Patch: replicas}, 5},
		{"another namespace", Patch{Target: Target{Group: "apps", Kind: "Deployment", Namespace: "bank-dr"}, Patch: replicas}, 5},
		{"another name", Patch{Target: Target{Group: "apps", Kind: "Deployment", Name: "x"}, Patch: replicas}, 5},
		{"the core's", Patch{Target: Target{Kind: "Deployment"}, Patch: replicas}, 5},
		{"everything", Patch{Target: Target{Group: "*", Kind: "*", Namespace: "*", Name: "*"}, Patch: replicas}, 2},
		{"nothing to replace", Patch{Target: target, Patch: []Operation{{Op: "replace", Path: "/spec/none/x", Value: "y"}}}, 0},
		{"a test that fails", Patch{Target: target, Patch: []Operation{{Op: "test", Path: "/spec/replicas", Value: int64(1)}}}, 0},
		{"a field that isn't there", Patch{Target: target, When: "object.spec.paused", Patch: replicas}, 0},
		{"no condition", Patch{Target: target, When: "object.spec.replicas", Patch: replicas}, 0},
		{"a condition without end", Patch{Target: target, When: costly, Patch: replicas}, 0},
		{"growth without end", Patch{Target: target, Patch: doubling()}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			transformer := compile(t, Rules{Namespaces: map[string]string{"bank": "bank-dr"}, Patches: []Patch{tt.patch}})
			for range 20 { // Go's maps would have another order sooner or later
				obj := manifest(t, deployment)
				err := transformer.Apply(obj)
				if (err != nil) != (tt.want == 0) {
					t.Fatalf("got %v", err)
				}
				if err != nil {
					if !strings.Contains(err.Error(), "patches[0].") {
						t.Errorf("%v doesn't name the patch", err)
					}
					return
				}
				if got, _, _ := unstructured.NestedInt64(obj.Object, "spec", "replicas"); got != tt.want {
					t.Fatalf("%d replicas, want %d", got, tt.want)
				}
			}
		})
	}
}

const costly = `[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d,
	[1,2,3,4,5,6,7,8,9,10].all(e, [1,2,3,4,5,6,7,8,9,10].all(f, a + b + c + d + e + f > 0))))))`

func doubling() []Operation {
	ops := []Operation{{Op: "add", Path: "/spec/a", Value: map[string]any{"x": strings.Repeat("x", 1000)}}}
	for i := range 40 {
		ops = append(ops, Operation{Op: "copy", From: "/spec/a", Path: fmt.Sprintf("/spec/a/y%d", i)})
	}
	return ops
}

func TestFingerprint(t *testing.T) {
	a := compile(t, Rules{Namespaces: map[string]string{"a": "b", "c": "d"}})
	if b := compile(t, Rules{Namespaces: map[string]string{"c": "d", "a": "b"}}); a.Fingerprint() != b.Fingerprint() || a.Fingerprint() == "" {
		t.Error("equal rules differ")
	}
	if b := compile(t, Rules{Namespaces: map[string]string{"a": "b"}}); a.Fingerprint() == b.Fingerprint() {
		t.Error("other rules are equal")
	}
}

func TestProblems(t *testing.T) {
	deployments := Target{Group: "apps", Kind: "Deployment"}
	remove := []Operation{{Op: "remove", Path: "/spec/replicas"}}
	for _, tt := range []struct {
		rules Rules
		want  string
	}{
		{Rules{Namespaces: map[string]string{"bank": ""}}, `namespaces["bank"]: is missing; write what bank becomes at the DR site`},
		{Rules{Namespaces: map[string]string{"Bank": "x"}}, `namespaces["Bank"]: "Bank" is no namespace; its name has at most 63 lower-case letters, digits and inner hyphens`},
		{Rules{Namespaces: map[string]string{"bank": "a.b"}}, `namespaces["bank"]: "a.b" is no namespace; its name has at most 63 lower-case letters, digits and inner hyphens`},
		{Rules{Namespaces: map[string]string{"a": "x", "b": "x"}}, `namespaces["b"]: "x" is what a becomes already: objects of the same name would be one`},
		{Rules{Namespaces: map[string]string{"a": "b", "b": "c"}}, `namespaces["a"]: "b" is mapped itself: it would not be clear whose objects lie in it`},
		{Rules{StorageClasses: map[string]string{"gold": "_"}}, `storageClasses["gold"]: "_" is no name of a storage class`},
		{Rules{IngressClasses: map[string]string{"": "x"}}, `ingressClasses[""]: "" is no name of an ingress class`},
		{Rules{Registries: map[string]string{"https://r.example": "x.example"}}, `registries["https://r.example"]: "https://r.example" is no registry; write a host, its port and the beginning of a path, as in registry.example:5000/team`},
		{Rules{Registries: map[string]string{"r.example": "team/x"}}, `registries["r.example"]: "team/x" is no registry; write a host, its port and the beginning of a path, as in registry.example:5000/team`},
		{Rules{Hosts: map[string]string{"*.a": "b"}}, `hosts["*.a"]: both names begin with *. or neither does; this becomes "b"`},
		{Rules{Hosts: map[string]string{"A.b": "b"}}, `hosts["A.b"]: "A.b" is no DNS name; write it in lower case, *. in front stands for every name below it`},
		{Rules{Names: map[string]string{"db": "db.dr"}}, `names["db"]: "db" has no dot: a single word may be anything`},
		{Rules{Patches: []Patch{{Target: deployments}}}, `patches[0].patch: is missing; a patch has at least one operation`},
		{Rules{Patches: []Patch{{Patch: remove}}}, `patches[0].target.kind: is missing; write it as manifests do, as in Deployment, or * for every kind`},
		{Rules{Patches: []Patch{{Target: Target{Kind: "deployments"}, Patch: remove}}}, `patches[0].target.kind: "deployments" is no kind; write it as manifests do, as in Deployment`},
		{Rules{Patches: []Patch{{Target: Target{Group: "apps/v1", Kind: "X"}, Patch: remove}}}, `patches[0].target.group: "apps/v1" is no API group; write it without a version, as in apps or networking.k8s.io, or leave it empty for the core's`},
		{Rules{Patches: []Patch{{Target: Target{Kind: "X", Namespace: "A"}, Patch: remove}}}, `patches[0].target.namespace: "A" is no namespace`},
		{Rules{Patches: []Patch{{Target: Target{Kind: "X", Name: "a b"}, Patch: remove}}}, `patches[0].target.name: "a b" is no object's name; only a whole name or * can be given`},
		{Rules{Patches: []Patch{{Target: deployments, When: "object.x ==", Patch: remove}}}, `patches[0].when: Syntax error: `},
		{Rules{Patches: []Patch{{Target: deployments, When: "objekt.x == 1", Patch: remove}}}, `patches[0].when: undeclared reference to 'objekt' (in container '') (column 1)`},
		{Rules{Patches: []Patch{{Target: deployments, When: "1 + 1", Patch: remove}}}, `patches[0].when: a condition is true or false, this one is int`},
		{Rules{Patches: []Patch{{Target: deployments, Patch: []Operation{{Path: "/a"}}}}}, `patches[0].patch[0].op: is missing; write add, remove, replace, move, copy or test`},
		{Rules{Patches: []Patch{{Target: deployments, Patch: []Operation{{Op: "set", Path: "/a"}}}}}, `patches[0].patch[0].op: must be add, remove, replace, move, copy or test, is "set"`},
		{Rules{Patches: []Patch{{Target: deployments, Patch: []Operation{{Op: "add", Path: "/a"}}}}}, `patches[0].patch[0].value: is missing; add needs it, and it can't be null`},
		{Rules{Patches: []Patch{{Target: deployments, Patch: []Operation{{Op: "remove", Path: "/a", Value: 1}}}}}, `patches[0].patch[0].value: is for add, replace and test; remove has none`},
		{Rules{Patches: []Patch{{Target: deployments, Patch: []Operation{{Op: "remove", Path: "/a", From: "/b"}}}}}, `patches[0].patch[0].from: is for move and copy; remove has none`},
		{Rules{Patches: []Patch{{Target: deployments, Patch: []Operation{{Op: "move", Path: "/a"}}}}}, `patches[0].patch[0].from: is missing; write a JSON pointer, as in /spec/replicas`},
		{Rules{Patches: []Patch{{Target: deployments, Patch: []Operation{{Op: "remove", Path: "spec.replicas"}}}}}, `patches[0].patch[0].path: "spec.replicas" is no JSON pointer; write /spec/replicas, with ~1 for a slash in a name and ~0 for a tilde`},
		{Rules{Patches: []Patch{{Target: deployments, Patch: []Operation{{Op: "remove", Path: "/a~2"}}}}}, `patches[0].patch[0].path: "/a~2" is no JSON pointer; write /spec/replicas, with ~1 for a slash in a name and ~0 for a tilde`},
		{Rules{Patches: []Patch{{Target: deployments, Patch: []Operation{{Op: "replace", Path: "/metadata/name", Value: "x"}}}}}, `patches[0].patch[0].path: /metadata/name can't be patched: objects are found by their kind and name, and the API server owns the rest of this`},
		{Rules{Patches: []Patch{{Target: deployments, Patch: []Operation{{Op: "move", Path: "/spec/x", From: "/metadata/namespace"}}}}}, `patches[0].patch[0].from: /metadata/namespace can't be patched: objects are found by their kind and name, and the API server owns the rest of this`},
		{Rules{Patches: []Patch{{Target: deployments, Patch: []Operation{{Op: "add", Path: "/status/x", Value: "x"}}}}}, `patches[0].patch[0].path: /status/x can't be patched: objects are found by their kind and name, and the API server owns the rest of this`},
	} {
		transformer, problems := Compile(tt.rules)
		if transformer != nil || len(problems) != 1 {
			t.Errorf("want %s, got %v", tt.want, problems)
			continue
		}
		if got := problems[0].Path + ": " + problems[0].Message; !strings.HasPrefix(got, tt.want) || strings.Contains(got, "\n") {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}
