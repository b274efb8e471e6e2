package selection

import (
	"strings"
	"testing"
)

// TestClosesOverReferences: beside the labelled object, what it needs and nothing else.
func TestClosesOverReferences(t *testing.T) {
	for _, tt := range []struct{ name, manifests, want string }{
		{"workload", `
apiVersion: apps/v1
kind: Deployment
metadata: {name: ledger, namespace: bank, labels: {app: bank}}
spec:
  template:
    spec:
      serviceAccountName: runner
      priorityClassName: urgent
      runtimeClassName: sandbox
      imagePullSecrets: [{name: pull}]
      initContainers: [{name: i, envFrom: [{configMapRef: {name: env}}]}]
      containers:
      - name: c
        env: [{name: A, valueFrom: {secretKeyRef: {name: key, key: a}}}, {name: B, valueFrom: {configMapKeyRef: {name: one, key: b}}}]
      volumes:
      - {name: a, secret: {secretName: mounted}}
      - {name: b, configMap: {name: files}}
      - {name: c, persistentVolumeClaim: {claimName: data}}
      - {name: d, projected: {sources: [{secret: {name: proj-s}}, {configMap: {name: proj-c}}]}}
      - {name: e, csi: {driver: x, nodePublishSecretRef: {name: publish}}}
`, `Deployment/ledger ServiceAccount/runner PriorityClass/urgent RuntimeClass/sandbox Secret/pull ConfigMap/env Secret/key ConfigMap/one
			Secret/mounted ConfigMap/files PersistentVolumeClaim/data PersistentVolume/pv StorageClass/fast Secret/proj-s ConfigMap/proj-c
			Secret/publish Namespace/bank RoleBinding/rb Role/r ClusterRoleBinding/crb ClusterRole/cr ClusterRole/part Secret/sa-pull`},
		{"cron job that runs as default", `
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: bank, labels: {app: bank}}
spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: c, envFrom: [{secretRef: {name: key}}]}]}}}}}
`, `CronJob/nightly Secret/key Namespace/bank RoleBinding/for-default ClusterRole/cr ClusterRole/part`},
		{"stateful set", `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: bank, labels: {app: bank}}
spec:
  replicas: 2
  serviceName: front
  template: {spec: {serviceAccountName: none, containers: [{name: c}]}}
  volumeClaimTemplates: [{metadata: {name: data}, spec: {storageClassName: slow}}]
`, `StatefulSet/db Service/front PersistentVolumeClaim/data-db-0 PersistentVolumeClaim/data-db-1 StorageClass/slow Namespace/bank
			ValidatingWebhookConfiguration/hook APIService/v1.m.example`},
		{"ingress", `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: bank, labels: {app: bank}}
spec:
  ingressClassName: nginx
  tls: [{secretName: pull, hosts: [a]}]
  rules: [{http: {paths: [{backend: {service: {name: front}}}]}}]
`, `Ingress/web IngressClass/nginx Secret/pull Service/front Namespace/bank ValidatingWebhookConfiguration/hook APIService/v1.m.example`},
		{"autoscaler", `
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: h, namespace: bank, labels: {app: bank}}
spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: other}}
`, `HorizontalPodAutoscaler/h Deployment/other Namespace/bank ConfigMap/files ServiceAccount/runner RoleBinding/rb Role/r ClusterRoleBinding/crb
			ClusterRole/cr ClusterRole/part Secret/sa-pull`},
		{"custom resource", `
apiVersion: db.example.com/v1
kind: Database
metadata: {name: main, namespace: bank, labels: {app: bank}}
spec: {credentials: {secretRef: {name: key}}, storage: {storageClassName: fast}, issuerRef: {kind: ClusterIssuer, group: cert-manager.io, name: ca}}
`, `Database/main CustomResourceDefinition/databases.db.example.com Secret/key StorageClass/fast Service/convert Namespace/bank`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := mustSelect(t, Rules{Namespaces: []string{"bank"}, Selector: "app=bank"})
			compareSets(t, selected(t, s, tt.manifests+"\n---"+surroundings), tt.want)
		})
	}
}

// surroundings are objects without the group's label; each is needed by some test.
const surroundings = `
{apiVersion: v1, kind: Namespace, metadata: {name: bank}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: other}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: runner, namespace: bank}, imagePullSecrets: [{name: sa-pull}]}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: bank}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: idle, namespace: bank}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: r, namespace: bank}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: rb, namespace: bank},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}, subjects: [{kind: ServiceAccount, name: runner, namespace: bank}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: for-default, namespace: bank},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cr}, subjects: [{kind: ServiceAccount, name: default}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: for-idle, namespace: bank},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: unused}, subjects: [{kind: ServiceAccount, name: idle}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: crb},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cr}, subjects: [{kind: ServiceAccount, name: runner, namespace: bank}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: of-other},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: unused}, subjects: [{kind: ServiceAccount, name: runner, namespace: other}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: cr}, aggregationRule: {clusterRoleSelectors: [{matchLabels: {to: cr}}]}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: part, labels: {to: cr}}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: unused}}
---
{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: urgent}}
---
{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: sandbox}}
---
{apiVersion: v1, kind: Secret, metadata: {name: pull, namespace: bank}}
---
{apiVersion: v1, kind: Secret, metadata: {name: sa-pull, namespace: bank}}
---
{apiVersion: v1, kind: Secret, metadata: {name: key, namespace: bank}}
---
{apiVersion: v1, kind: Secret, metadata: {name: mounted, namespace: bank}}
---
{apiVersion: v1, kind: Secret, metadata: {name: proj-s, namespace: bank}}
---
{apiVersion: v1, kind: Secret, metadata: {name: publish, namespace: bank}}
---
{apiVersion: v1, kind: Secret, metadata: {name: unused, namespace: bank}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: env, namespace: bank}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: one, namespace: bank}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: files, namespace: bank}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: proj-c, namespace: bank}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: unused, namespace: bank}, data: {secretName: unused}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: bank}, spec: {volumeName: pv, storageClassName: fast}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data-db-0, namespace: bank}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data-db-1, namespace: bank}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data-db-2, namespace: bank}}
---
{apiVersion: v1, kind: PersistentVolume, metadata: {name: pv}, spec: {storageClassName: fast, claimRef: {kind: PersistentVolumeClaim, namespace: bank, name: data}}}
---
{apiVersion: v1, kind: PersistentVolume, metadata: {name: unused}}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: fast}}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: slow}}
---
{apiVersion: v1, kind: Service, metadata: {name: front, namespace: bank}}
---
{apiVersion: v1, kind: Service, metadata: {name: convert, namespace: bank}}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: nginx}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: other, namespace: bank},
 spec: {template: {spec: {serviceAccount: runner, serviceAccountName: runner, containers: [{name: c}], volumes: [{configMap: {name: files}}]}}}}
---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: databases.db.example.com},
 spec: {conversion: {webhook: {clientConfig: {service: {namespace: bank, name: convert}}}}}}
---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: unused.db.example.com}}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: hook},
 webhooks: [{clientConfig: {url: "https://elsewhere"}}, {clientConfig: {service: {namespace: bank, name: front}}}]}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: others},
 webhooks: [{clientConfig: {service: {namespace: other, name: front}}}]}
---
{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.m.example}, spec: {service: {namespace: bank, name: front}}}`

func compareSets(t *testing.T, got map[string]bool, want string) {
	t.Helper()
	wanted := make(map[string]bool)
	for _, w := range strings.Fields(want) {
		wanted[w] = true
		if !got[w] {
			t.Errorf("%s is not selected", w)
		}
	}
	for g := range got {
		if !wanted[g] {
			t.Errorf("%s is selected", g)
		}
	}
}

const leftOut = `
{apiVersion: v1, kind: Namespace, metadata: {name: bank}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: kept, namespace: bank}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: kube-root-ca.crt, namespace: bank}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: bank}}
---
{apiVersion: v1, kind: Secret, metadata: {name: token, namespace: bank}, type: kubernetes.io/service-account-token}
---
{apiVersion: v1, kind: Secret, metadata: {name: tls, namespace: bank}, type: kubernetes.io/tls}
---
{apiVersion: v1, kind: Pod, metadata: {name: bare, namespace: bank}}
---
{apiVersion: v1, kind: Pod, metadata: {name: owned, namespace: bank, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: rs, uid: u, controller: true}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: static, namespace: bank, annotations: {kubernetes.io/config.mirror: x}}}
---
{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: rs, namespace: bank, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: d, uid: u, controller: true}]}}
---
{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: bare, namespace: bank}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: of-cron, namespace: bank, ownerReferences: [{apiVersion: batch/v1, kind: CronJob, name: d, uid: u, controller: true}]}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: bare, namespace: bank}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: ephemeral, namespace: bank, ownerReferences: [{apiVersion: v1, kind: Pod, name: d, uid: u, controller: true}]}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: of-set, namespace: bank, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: d, uid: u}]}}
---
{apiVersion: v1, kind: Endpoints, metadata: {name: kept, namespace: bank, labels: {endpoints.kubernetes.io/managed-by: endpoint-controller}}}
---
{apiVersion: v1, kind: Endpoints, metadata: {name: by-hand, namespace: bank}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: kept, namespace: bank, labels: {endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: by-hand, namespace: bank}}
---
{apiVersion: v1, kind: Event, metadata: {name: e, namespace: bank}}
---
{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: l, namespace: bank}}
---
{apiVersion: apps/v1, kind: ControllerRevision, metadata: {name: c, namespace: bank}}
---
{apiVersion: metrics.k8s.io/v1, kind: PodMetrics, metadata: {name: c, namespace: bank}}
---
{apiVersion: v1, kind: Node, metadata: {name: n}}
---
{apiVersion: cert-manager.io/v1, kind: ClusterIssuer, metadata: {name: ca}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: rb, namespace: bank}, roleRef: {kind: ClusterRole, name: view}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: view, labels: {kubernetes.io/bootstrapping: rbac-defaults}}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: elsewhere, namespace: other}}`

func TestLeavesOut(t *testing.T) {
	const usual = `Namespace/bank ConfigMap/kept Secret/tls Pod/bare ReplicaSet/bare Job/bare PersistentVolumeClaim/of-set Endpoints/by-hand
		EndpointSlice/by-hand RoleBinding/rb`
	for _, tt := range []struct {
		name  string
		rules Rules
		want  string
	}{
		{"defaults", Rules{}, usual},
		{"an owned object is kept", Rules{Keep: []Pattern{{"", "pods", "bank", "owned"}}}, usual + " Pod/owned"},
		{"whole kinds are kept", Rules{Keep: []Pattern{{"coordination.k8s.io", "leases", "", ""}, {"apps", "*", "*", "*"}}},
			usual + " Lease/l ReplicaSet/rs ControllerRevision/c"},
		{"a cluster-scoped object is kept", Rules{Keep: []Pattern{{"cert-manager.io", "clusterissuers", "", "ca"}}}, usual + " ClusterIssuer/ca"},
		{"everything kept leaves other namespaces alone", Rules{Keep: []Pattern{{"*", "*", "", "kept"}}},
			usual + " Endpoints/kept EndpointSlice/kept"},
		{"a kind is left out", Rules{LeaveOut: []Pattern{{"*", "secrets", "", ""}, {"", "configmaps", "bank", "kept"}}, Keep: []Pattern{{"", "secrets", "", ""}}},
			strings.NewReplacer("ConfigMap/kept ", "", "Secret/tls ", "").Replace(usual)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.rules.Namespaces = []string{"bank"}
			compareSets(t, selected(t, mustSelect(t, tt.rules), leftOut), tt.want)
		})
	}
}

func TestTouchedDefaultAccountIsSent(t *testing.T) {
	s := mustSelect(t, Rules{Namespaces: []string{"bank"}})
	compareSets(t, selected(t, s, `{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: bank}, imagePullSecrets: [{name: p}]}`),
		"ServiceAccount/default")
}

func TestRulesAreChecked(t *testing.T) {
	for _, r := range []Rules{{}, {Namespaces: []string{"a"}, Selector: "a=(b"}} {
		if _, err := New(r); err == nil {
			t.Errorf("%+v is taken", r)
		}
	}
}

func TestRulesHaveNames(t *testing.T) {
	seen := make(map[string]bool)
	for _, r := range Defaults() {
		if r.Name == "" || r.What == "" || seen[r.Name] || r.Name == ruleLeaveOut {
			t.Errorf("rule %q is not named for itself", r.Name)
		}
		seen[r.Name] = true
	}
}
