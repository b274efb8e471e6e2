package rebuild

import (
	"context"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/farshore/farshore/internal/kube"
	"github.com/farshore/farshore/internal/kube/kubetest"
)

const small = `
apiVersion: v1
kind: ConfigMap
metadata: {name: a, namespace: NS, labels: {x: y}}
data: {k: v}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: b, namespace: NS}
data: {k: v}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NS}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: web:1, resources: {limits: {cpu: "1"}}}]}
`

// patch changes an object as somebody else does.
func (r *rig) patch(apiVersion, resource, namespace, name, body string) {
	r.t.Helper()
	if _, err := r.objects.Resource(gvrOf(apiVersion, resource)).Namespace(namespace).
		Patch(context.Background(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{FieldManager: "somebody"}); err != nil {
		r.t.Fatal(err)
	}
}

// remove deletes an object as somebody else does.
func (r *rig) remove(apiVersion, resource, namespace, name string) {
	r.t.Helper()
	if err := r.objects.Resource(gvrOf(apiVersion, resource)).Namespace(namespace).Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

// Nothing is written where nothing changed: neither by a process that wants the same again, nor by one that starts, nor where only
// the primary's resourceVersion is another one.
func TestNothingChangedNothingWritten(t *testing.T) {
	c := kubetest.Shared(t)
	ns := kubetest.Namespace(t, c, "unchanged")
	r, stop := start(t, c, "unchanged", nil)
	r.wantClean(stateOf(t, ns, application))
	before := r.must("apps/v1", "deployments", ns, "web").GetResourceVersion()
	if r.writes() == 0 {
		t.Fatal("nothing was written at first")
	}
	n := r.writes()
	s := stateOf(t, ns, application)
	for key, e := range s.entries {
		e.Revision += "later"
		s.entries[key] = e
	}
	r.wantClean(s)
	if got := r.writes(); got != n {
		t.Errorf("%d writes where nothing changed", got-n)
	}
	stop()
	again, _ := start(t, c, "unchanged", nil)
	again.wantClean(stateOf(t, ns, application))
	if again.writes() != 0 {
		t.Errorf("%d writes after a restart", again.writes())
	}
	if now := again.must("apps/v1", "deployments", ns, "web").GetResourceVersion(); now != before {
		t.Errorf("revision %s, was %s", now, before)
	}
	changed := stateOf(t, ns, strings.ReplaceAll(application, "colour: blue", "colour: green"))
	again.wantClean(changed)
	if again.writes() != 1 || field(again.must("v1", "configmaps", ns, "settings"), "data", "colour") != "green" {
		t.Errorf("%d writes for one change", again.writes())
	}
}

// What somebody changed or deleted is put back by a look; what they added stays.
func TestDriftIsPutBack(t *testing.T) {
	c := kubetest.Shared(t)
	ns := "ns-drift"
	r, _ := start(t, c, "drift", func(o *Options) { o.Look = 200 * time.Millisecond })
	r.wantClean(stateOf(t, ns, small))
	r.patch("v1", "configmaps", ns, "a", `{"data":{"k":"other","more":"stays"}}`)
	r.remove("v1", "configmaps", ns, "b")
	r.patch("apps/v1", "deployments", ns, "web", `{"spec":{"replicas":2}}`)
	r.until("what was deleted is back", func() bool { return r.get("v1", "configmaps", ns, "b") != nil })
	r.until("what was changed is back", func() bool {
		a := r.must("v1", "configmaps", ns, "a")
		return field(a, "data", "k") == "v" && field(a, "data", "more") == "stays" &&
			field(r.must("apps/v1", "deployments", ns, "web"), "spec", "replicas") == int64(0)
	})
	// Once it is back nothing is written any more, though looks go on.
	n := r.writes()
	looked := r.must("v1", "configmaps", ns, "a").GetResourceVersion()
	r.wantClean(stateOf(t, ns, small))
	if r.writes() != n || r.must("v1", "configmaps", ns, "a").GetResourceVersion() != looked {
		t.Error("written again")
	}
}

const shared = `
apiVersion: v1
kind: ConfigMap
metadata: {name: taken, namespace: NS}
data: {k: of-farshore}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: free, namespace: NS}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: NS-fast}
provisioner: example.com/fast
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: NS-role}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
`

// An object of the same name that is somebody else's is reported and not overwritten, and neither is it deleted; of the kinds that
// a cluster has one of, one that is equal enough is used.
func TestSomebodyElsesObjectIsLeftAlone(t *testing.T) {
	c := kubetest.Shared(t)
	ns := kubetest.Namespace(t, c, "foreign")
	r, _ := start(t, c, "foreign", nil)
	r.create(ns, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: taken, namespace: NS}\ndata: {k: of-others}")
	r.create(ns, "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: NS-fast, labels: {a: b}}\nprovisioner: example.com/fast\nreclaimPolicy: Delete")
	r.create(ns, "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: NS-role}\nrules: []")
	before := map[string]string{
		"taken": r.must("v1", "configmaps", ns, "taken").GetResourceVersion(),
		"fast":  r.must("storage.k8s.io/v1", "storageclasses", "", ns+"-fast").GetResourceVersion(),
		"role":  r.must("rbac.authorization.k8s.io/v1", "clusterroles", "", ns+"-role").GetResourceVersion(),
		"ns":    r.must("v1", "namespaces", "", ns).GetResourceVersion(),
	}
	s := r.wantAll(stateOf(t, ns, shared))
	if s.Refusals != 2 || !strings.Contains(r.refusalOf("configmaps", "taken"), "was not made by Farshore") ||
		!strings.Contains(r.refusalOf("clusterroles", ns+"-role"), "exists already") {
		t.Errorf("refused: %+v", s.Refused)
	}
	if r.get("v1", "configmaps", ns, "free") == nil {
		t.Error("a refusal held another object back")
	}
	r.wantAll(stateOf(t, ns, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: free, namespace: NS}"))
	r.wantAll(stateOf(t, ns)) // none of it is wanted any more
	r.until("what Farshore made is deleted", func() bool { return r.get("v1", "configmaps", ns, "free") == nil })
	for _, o := range []struct{ what, version, resource, namespace, name string }{
		{"taken", "v1", "configmaps", ns, "taken"}, {"fast", "storage.k8s.io/v1", "storageclasses", "", ns + "-fast"},
		{"role", "rbac.authorization.k8s.io/v1", "clusterroles", "", ns + "-role"}, {"ns", "v1", "namespaces", "", ns},
	} {
		if got := r.must(o.version, o.resource, o.namespace, o.name); got.GetResourceVersion() != before[o.what] || got.GetDeletionTimestamp() != nil {
			t.Errorf("%s was written to", o.what)
		}
	}
	// Gone: then there is room.
	r.wantAll(stateOf(t, ns, shared))
	r.remove("v1", "configmaps", ns, "taken")
	r.until("the freed name is taken", func() bool {
		got := r.get("v1", "configmaps", ns, "taken")
		return got != nil && field(got, "data", "k") == "of-farshore"
	})
}

// Deletions hit what Farshore made and nothing else: not what was made anew by somebody else under the name, not what was given to
// somebody else by taking the label away, and a namespace only once it holds nothing of others.
func TestDeletions(t *testing.T) {
	c := kubetest.New(t, kube.Options{ControllerManager: true})[0]
	r, stop := start(t, c, "deletions", nil)
	r.wantClean(stateOf(t, "gone", small, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: given, namespace: NS}"))
	if r.must("v1", "namespaces", "", "gone").GetLabels()[LabelGroup] != "deletions" {
		t.Fatal("the namespace was not made")
	}
	stop() // what went while nobody watched is found by the label
	r.remove("v1", "configmaps", "gone", "a")
	r.create("gone", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: NS}")
	r.patch("v1", "configmaps", "gone", "given", `{"metadata":{"labels":{"farshore.dev/group":null}}}`)
	r, _ = start(t, c, "deletions", nil)
	r.wantAll(stateOf(t, "other", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: o, namespace: NS}"))
	const own = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: o, namespace: NS}"
	r.wantAll(stateOf(t, "other", own, strings.ReplaceAll(own, "name: o", "name: handed")))
	r.patch("v1", "configmaps", "other", "handed", `{"metadata":{"labels":{"farshore.dev/group":null}}}`)
	r.wantAll(stateOf(t, "other", own))
	if r.get("v1", "configmaps", "other", "handed") == nil {
		t.Error("what was given to somebody else was deleted")
	}
	r.until("what Farshore made is deleted", func() bool {
		return r.get("apps/v1", "deployments", "gone", "web") == nil && r.get("v1", "configmaps", "gone", "b") == nil
	})
	r.until("the namespace is reported", func() bool {
		return strings.Contains(r.refusalOf("namespaces", "gone"), "which Farshore did not make")
	})
	if r.get("v1", "configmaps", "gone", "a") == nil || r.get("v1", "configmaps", "gone", "given") == nil {
		t.Error("somebody else's object was deleted")
	}
	r.remove("v1", "configmaps", "gone", "a")
	r.remove("v1", "configmaps", "gone", "given")
	r.until("the empty namespace is deleted", func() bool { return r.get("v1", "namespaces", "", "gone") == nil })
	r.until("nothing is refused", func() bool { return r.Status().Refusals == 0 })
}

const fixedFields = `
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: rb, namespace: NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: ONE}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: cm, namespace: NS}
immutable: true
data: {k: ONE}
---
apiVersion: v1
kind: Secret
metadata: {name: se, namespace: NS}
type: example.com/ONE
---
apiVersion: batch/v1
kind: Job
metadata: {name: jo, namespace: NS}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: "i:ONE"}]}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: de, namespace: NS}
spec:
  replicas: 3
  selector: {matchLabels: {app: ONE}}
  template: {metadata: {labels: {app: ONE}}, spec: {containers: [{name: c, image: "i:1"}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: st, namespace: NS}
spec:
  serviceName: ONE
  selector: {matchLabels: {app: x}}
  template: {metadata: {labels: {app: x}}, spec: {containers: [{name: c, image: "i:1"}]}}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: NS-sc}
provisioner: example.com/ONE
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: NS-pc}
value: 1000VALUE
`

// A field that can't change makes the object be replaced, where nothing is lost by that.
func TestFixedFieldsReplace(t *testing.T) {
	c := kubetest.Shared(t)
	ns := "ns-fixed"
	r, _ := start(t, c, "fixed", nil)
	one := strings.NewReplacer("ONE", "one", "VALUE", "1")
	two := strings.NewReplacer("ONE", "two", "VALUE", "2")
	r.wantClean(stateOf(t, ns, one.Replace(fixedFields)))
	r.wantClean(stateOf(t, ns, two.Replace(fixedFields)))
	if n := r.counted("farshore.rebuild.writes", "replace"); n != 8 {
		t.Errorf("%d replaced, want 8", n)
	}
	if got := field(r.must("rbac.authorization.k8s.io/v1", "rolebindings", ns, "rb"), "roleRef", "name"); got != "two" {
		t.Errorf("binding to %v", got)
	}
	if got := field(r.must("scheduling.k8s.io/v1", "priorityclasses", "", ns+"-pc"), "value"); got != int64(10002) {
		t.Errorf("value %v", got)
	}
}
