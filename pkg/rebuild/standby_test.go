package rebuild

import (
	"strings"
	"testing"

	"github.com/farshore/farshore/internal/kube"
	"github.com/farshore/farshore/internal/kube/kubetest"
)

// application has one of everything that acts, in the form that a primary has.
const application = `
apiVersion: v1
kind: Namespace
metadata: {name: NS, uid: u, labels: {app: bank}}
spec: {finalizers: [kubernetes]}
status: {phase: Active}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: runner, namespace: NS}
secrets: [{name: runner-token-x}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: NS}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: runner, namespace: NS}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: NS, resourceVersion: "77", uid: of-the-primary, ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: x, uid: y}], finalizers: [a.b/c]}
data: {colour: blue}
---
apiVersion: v1
kind: Secret
metadata: {name: login, namespace: NS}
type: Opaque
data: {password: c2VjcmV0LXBhc3N3b3Jk}
---
apiVersion: v1
kind: Service
metadata: {name: front, namespace: NS}
spec:
  type: LoadBalancer
  clusterIP: 172.30.9.9
  clusterIPs: [172.30.9.9]
  externalTrafficPolicy: Local
  healthCheckNodePort: 31999
  allocateLoadBalancerNodePorts: true
  loadBalancerClass: example.com/lb
  externalIPs: [192.0.2.7]
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080, protocol: TCP, nodePort: 31080}]
status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NS, annotations: {deployment.kubernetes.io/revision: "4"}}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {creationTimestamp: null, labels: {app: web}}
    spec: {containers: [{name: c, image: web:1}]}
status: {replicas: 3}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: NS}
spec:
  replicas: 2
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, image: db:1, volumeMounts: [{name: data, mountPath: /d}]}]}
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: bare, namespace: NS}
spec:
  replicas: 1
  selector: {matchLabels: {app: bare}}
  template:
    metadata: {labels: {app: bare}}
    spec: {containers: [{name: c, image: bare:1}]}
---
apiVersion: v1
kind: ReplicationController
metadata: {name: old, namespace: NS}
spec:
  replicas: 1
  selector: {app: old}
  template:
    metadata: {labels: {app: old}}
    spec: {containers: [{name: c, image: old:1}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: NS}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {nodeSelector: {disk: ssd}, containers: [{name: c, image: agent:1}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: NS}
spec:
  schedule: "* * * * *"
  suspend: false
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: n:1}]}}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: import, namespace: NS}
spec:
  selector: {matchLabels: {batch.kubernetes.io/controller-uid: p}}
  template:
    metadata: {labels: {batch.kubernetes.io/controller-uid: p, controller-uid: p, job-name: import, batch.kubernetes.io/job-name: import}}
    spec: {restartPolicy: Never, containers: [{name: c, image: i:1}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: done, namespace: NS}
spec:
  template:
    spec: {restartPolicy: Never, containers: [{name: c, image: i:1}]}
status: {conditions: [{type: Complete, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: alone, namespace: NS}
spec: {nodeName: node-1, priority: 0, containers: [{name: c, image: p:1}]}
status: {phase: Running}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: NS}
spec: {minReplicas: 2, maxReplicas: 5, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: NS, annotations: {pv.kubernetes.io/bind-completed: "yes", volume.kubernetes.io/storage-provisioner: x}}
spec: {accessModes: [ReadWriteOnce], storageClassName: "", volumeName: NS-pv, resources: {requests: {storage: 1Gi}}}
status: {phase: Bound}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: other, namespace: NS}
spec: {accessModes: [ReadWriteOnce], storageClassName: none-such, volumeName: pvc-at-the-primary, resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: NS-pv, finalizers: [kubernetes.io/pv-protection]}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: NS, name: data, uid: of-the-primary, resourceVersion: "9"}
  hostPath: {path: /tmp/none}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: front, namespace: NS}
spec: {defaultBackend: {service: {name: front, port: {number: 80}}}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: NS-check}
webhooks:
- name: check.example.com
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NS}}
  clientConfig: {service: {name: front, namespace: NS, path: /check}}
  rules: [{apiGroups: ["*"], apiVersions: [v1], resources: [configmaps, clusterroles], operations: [CREATE, UPDATE], scope: "*"}]
`

// Until a release nothing acts: real controllers run, and make no Pod and no Job, bind no claim and scale nothing. After
// it everything is as the primary had it.
func TestInertUntilReleased(t *testing.T) {
	c := kubetest.New(t, kube.Options{ControllerManager: true})[0]
	r, _ := start(t, c, "bank", nil)
	r.wantClean(stateOf(t, "bank", application))
	r.until("the rehearsals", func() bool { return r.rehearsals() >= 5 })
	s := r.Status()
	if s.HeldBack != 5 || s.Refusals != 0 {
		t.Errorf("held back %d, refused %+v", s.HeldBack, s.Refused)
	}
	settle := func(name string) { // the controllers have seen what came before it
		r.create("bank", strings.ReplaceAll(probe, "NAME", name))
		r.until("the controllers made a Pod of the probe "+name, func() bool { return r.podsOf("bank", name) > 0 })
	}
	settle("probe")
	if n := r.count("v1", "pods", "bank"); n != 1 {
		t.Errorf("%d pods before the release, besides the probe's", n-1)
	}
	if n := r.count("batch/v1", "jobs", "bank"); n != 2 {
		t.Errorf("%d jobs before the release", n)
	}
	for _, gone := range []struct{ version, resource, namespace string }{
		{"v1", "persistentvolumeclaims", "bank"}, {"v1", "persistentvolumes", ""}, {"networking.k8s.io/v1", "ingresses", "bank"},
	} {
		if n := r.count(gone.version, gone.resource, gone.namespace); n != 0 {
			t.Errorf("%d %s before the release", n, gone.resource)
		}
	}
	front := r.must("v1", "services", "bank", "front")
	if field(front, "spec", "type") != "ClusterIP" || field(front, "spec", "externalIPs") != nil {
		t.Errorf("service is %v", front.Object["spec"])
	}
	if got := field(r.must("v1", "configmaps", "bank", "settings"), "metadata", "ownerReferences"); got != nil {
		t.Errorf("owners of the primary: %v", got)
	}
	// The webhook fails everything that it matches, since nothing answers it, in a namespace or in none.
	r.create("bank", "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: free}")
	r.create("bank", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: free, namespace: NS}")
	for _, held := range []struct{ version, resource, name string }{
		{"apps/v1", "deployments", "web"}, {"apps/v1", "daemonsets", "agent"}, {"batch/v1", "cronjobs", "nightly"},
		{"v1", "services", "front"}, {"autoscaling/v2", "horizontalpodautoscalers", "web"},
	} {
		if r.must(held.version, held.resource, "bank", held.name).GetAnnotations()[AnnotationHeld] == "" {
			t.Errorf("%s %s has no annotation of what is held", held.resource, held.name)
		}
	}
	plan, err := r.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	checkPlan(t, plan)
	end, err := r.Release(t.Context(), nil)
	if err != nil || len(end.Failed) > 0 || end.Done != end.Total {
		t.Fatalf("%+v, %v", end, err)
	}
	checkReleased(t, r)
}

// probe is somebody else's: what is made of it shows that the controllers work.
const probe = `
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: NAME, namespace: NS}
spec:
  replicas: 1
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec: {containers: [{name: c, image: probe:1}]}
`

func checkPlan(t *testing.T, plan *Plan) {
	t.Helper()
	steps := make(map[string]Step)
	order := make([]string, 0, len(plan.Steps))
	for _, s := range plan.Steps {
		steps[s.Object.Resource+" "+s.Object.Name] = s
		order = append(order, s.Object.Resource)
		if s.Refused != "" {
			t.Errorf("%s would be refused: %s", s.Object, s.Refused)
		}
	}
	if s := steps["deployments web"]; s.Action != ActionRelease || s.Detail != "spec.replicas 0 → 3" {
		t.Errorf("plan for the deployment: %+v", s)
	}
	if s := steps["persistentvolumeclaims data"]; s.Action != ActionCreate {
		t.Errorf("plan for the claim: %+v", s)
	}
	if order[len(order)-1] != "validatingwebhookconfigurations" || order[0] != "namespaces" {
		t.Errorf("order %v", order)
	}
}

func checkReleased(t *testing.T, r *rig) {
	t.Helper()
	for app, n := range map[string]int{"web": 3, "db": 1, "bare": 1, "old": 1} { // the second of db waits for the first
		r.until("pods of "+app, func() bool { return r.podsOf("bank", app) == n })
	}
	r.until("the job's pod", func() bool { return r.podsOfJob("bank", "import") == 1 })
	if r.podsOfJob("bank", "done") != 0 {
		t.Error("a job that had ended runs again")
	}
	r.until("the claim is bound", func() bool {
		return field(r.must("v1", "persistentvolumeclaims", "bank", "data"), "status", "phase") == "Bound"
	})
	if got := field(r.must("v1", "persistentvolumeclaims", "bank", "other"), "spec", "volumeName"); got != nil {
		t.Errorf("a claim names the primary's volume %v", got)
	}
	for _, s := range []struct {
		version, resource, namespace, name string
		path                               []string
		want                               any
	}{
		{"v1", "services", "bank", "front", []string{"spec", "type"}, "LoadBalancer"},
		{"batch/v1", "cronjobs", "bank", "nightly", []string{"spec", "suspend"}, false},
		{"autoscaling/v2", "horizontalpodautoscalers", "bank", "web", []string{"spec", "scaleTargetRef", "name"}, "web"},
		{"apps/v1", "daemonsets", "bank", "agent", []string{"spec", "template", "spec", "nodeSelector", heldKey}, nil},
	} {
		u := r.must(s.version, s.resource, s.namespace, s.name)
		if got := field(u, s.path...); got != s.want {
			t.Errorf("%s %s: %v is %v, want %v", s.resource, s.name, s.path, got, s.want)
		}
		if a := u.GetAnnotations(); a[AnnotationHeld] != "" || a[AnnotationReleased] == "" {
			t.Errorf("%s %s: annotations %v", s.resource, s.name, a)
		}
	}
	hook := r.must("admissionregistration.k8s.io/v1", "validatingwebhookconfigurations", "", "bank-check")
	hooks, _ := hook.Object["webhooks"].([]any)
	if first, _ := hooks[0].(map[string]any); covers(map[string]any{"matchLabels": map[string]any{heldKey: heldValue}}, first["objectSelector"]) {
		t.Errorf("webhook is still held: %v", first)
	}
}

func (r *rig) podsOf(namespace, app string) (n int) {
	return r.selected(namespace, "app="+app)
}

func (r *rig) podsOfJob(namespace, job string) (n int) {
	return r.selected(namespace, "job-name="+job)
}
