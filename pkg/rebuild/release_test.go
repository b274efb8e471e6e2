package rebuild

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/internal/kube/kubetest"
)

// deployments are n of them, held at zero.
func deployments(n int) string {
	var docs []string
	for i := range n {
		docs = append(docs, fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: web-%d, namespace: NS}
spec:
  replicas: 3
  selector: {matchLabels: {app: web-%d}}
  template: {metadata: {labels: {app: web-%d}}, spec: {containers: [{name: c, image: "web:1"}]}}`, i, i, i))
	}
	return strings.Join(docs, "\n---\n")
}

// A release that is killed goes on when the applier is started again, and touches nothing that it had released: neither what
// somebody changed since, nor what they deleted. Afterwards no state is applied any more and nothing is deleted.
func TestReleaseGoesOnAfterAKill(t *testing.T) {
	c := kubetest.Shared(t)
	ns := kubetest.Namespace(t, c, "resumed")
	const n = 200
	s := stateOf(t, ns, deployments(n), small)
	r, stop := start(t, c, "resumed", nil)
	if _, err := r.Release(t.Context(), nil); !errors.Is(err, ErrNoState) {
		t.Errorf("released nothing: %v", err)
	}
	r.wantClean(s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		_, _ = r.Release(ctx, nil) // it is killed
	}()
	released := func(name string) bool {
		u := r.get("apps/v1", "deployments", ns, name)
		return u != nil && u.GetAnnotations()[AnnotationReleased] != ""
	}
	count := func() (m int) {
		for i := range n {
			if released(fmt.Sprint("web-", i)) {
				m++
			}
		}
		return m
	}
	r.until("some are released", func() bool { return released("web-0") || released("web-100") || released("web-199") })
	stop()
	cancel()
	<-asked
	m := count()
	t.Logf("%d of %d were released when it was killed", m, n)
	var first string
	for i := range n {
		if first = fmt.Sprint("web-", i); released(first) {
			break
		}
	}
	r.patch("apps/v1", "deployments", ns, first, `{"spec":{"replicas":7}}`)

	again, _ := start(t, c, "resumed", func(o *Options) { o.Look = 300 * time.Millisecond })
	again.Rebuilder = resumed(t, again, Progress{Mode: ModeReleasing, Since: time.Now()})
	again.Want(stateOf(t, ns, deployments(n), small))
	end, err := again.Release(t.Context(), nil)
	if err != nil || len(end.Failed) > 0 || end.Done != n+4 || end.Mode != ModeReleased {
		t.Fatalf("%+v, %v", end, err)
	}
	if got := count(); got != n {
		t.Errorf("%d of %d are released", got, n)
	}
	if got := field(r.must("apps/v1", "deployments", ns, first), "spec", "replicas"); got != int64(7) {
		t.Errorf("%s has %v replicas: what was released was touched", first, got)
	}
	// It isn't Farshore's any more.
	r.remove("v1", "configmaps", ns, "a")
	again.Want(stateOf(t, ns))
	if p, err := again.Release(t.Context(), nil); err != nil || p.Mode != ModeReleased {
		t.Errorf("asked for again: %+v, %v", p, err)
	}
	if got := r.count("apps/v1", "deployments", ns); got != n+1 || r.get("v1", "configmaps", ns, "a") != nil {
		t.Errorf("%d deployments, and what was deleted is back: %v", got, r.get("v1", "configmaps", ns, "a") != nil)
	}
	if s := again.Status(); !s.Released {
		t.Errorf("status %+v", s)
	}
	// An applier that has lost the record of the release leaves alone what says that it was released.
	lost, _ := start(t, c, "resumed", nil)
	lost.wantAll(stateOf(t, ns, deployments(5)))
	if got := count(); got != n || lost.writes() != 0 {
		t.Errorf("%d released, %d writes", got, lost.writes())
	}
}

// resumed is a Rebuilder in place of the one that the rig started, which wants nothing.
func resumed(t *testing.T, r *rig, p Progress) *Rebuilder {
	t.Helper()
	out, err := New(r.o)
	if err != nil {
		t.Fatal(err)
	}
	out.Resume(p)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- out.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return out
}

// What the API server refuses doesn't keep a release from ending; it is named, and asked for again it alone is tried.
func TestReleaseNamesWhatIsRefused(t *testing.T) {
	c := kubetest.Shared(t)
	ns := kubetest.Namespace(t, c, "refused")
	r, stop := start(t, c, "refused", nil)
	r.create(ns, "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data, namespace: NS}\nspec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}")
	const claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data, namespace: NS}\nspec: {accessModes: [ReadWriteMany], resources: {requests: {storage: 2Gi}}}"
	r.wantAll(stateOf(t, ns, small, claim))
	r.until("the rehearsal finds it", func() bool {
		return strings.Contains(r.refusalOf("persistentvolumeclaims", "data"), "not made by Farshore")
	})
	plan, err := r.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	refusals := 0
	for _, s := range plan.Steps {
		if s.Refused != "" {
			refusals++
		}
	}
	if refusals != 1 || r.get("apps/v1", "deployments", ns, "web").GetAnnotations()[AnnotationReleased] != "" {
		t.Errorf("plan %+v", plan)
	}
	var phases []string
	end, err := r.Release(t.Context(), func(p Progress) { phases = append(phases, p.Phase) })
	if err != nil || len(end.Failed) != 1 || end.Failed[0].Object.Name != "data" || end.Done != end.Total-1 {
		t.Fatalf("%+v, %v", end, err)
	}
	if field(r.must("apps/v1", "deployments", ns, "web"), "spec", "replicas") != int64(3) {
		t.Error("a refusal held another object back")
	}
	r.remove("v1", "persistentvolumeclaims", ns, "data")
	r.patch("v1", "persistentvolumeclaims", ns, "data", `{"metadata":{"finalizers":null}}`)
	r.remove("v1", "configmaps", ns, "a")
	end, err = r.Release(t.Context(), nil)
	if err != nil || len(end.Failed) != 0 {
		t.Fatalf("asked for again: %+v, %v", end, err)
	}
	if r.get("v1", "persistentvolumeclaims", ns, "data") == nil || r.get("v1", "configmaps", ns, "a") != nil {
		t.Error("asked for again it released something else than what was refused")
	}
	// So it is where the applier was started again in between.
	stop()
	r.remove("v1", "persistentvolumeclaims", ns, "data")
	r.patch("v1", "persistentvolumeclaims", ns, "data", `{"metadata":{"finalizers":null}}`)
	again, _ := start(t, c, "refused", nil)
	again.Rebuilder = resumed(t, again, Progress{Mode: ModeReleasing, Failed: []Step{{Object: Ref{Version: "v1", Resource: "persistentvolumeclaims", Namespace: ns, Name: "data"}}}})
	again.Want(stateOf(t, ns, small, claim))
	if end, err = again.Release(t.Context(), nil); err != nil || len(end.Failed) != 0 {
		t.Fatalf("after a restart: %+v, %v", end, err)
	}
	if r.get("v1", "persistentvolumeclaims", ns, "data") == nil || r.get("v1", "configmaps", ns, "a") != nil {
		t.Error("after a restart it released something else than what was refused")
	}
}

// Objects of a replay go beside what runs; what an earlier replay put there and this one doesn't have goes.
func TestOnce(t *testing.T) {
	c := kubetest.Shared(t)
	ns := "ns-once"
	r, _ := start(t, c, "once", func(o *Options) { o.NamespacedOnly = true })
	refusals, err := r.Once(t.Context(), stateOf(t, ns, small, shared), true)
	if err != nil || len(refusals) > 0 {
		t.Fatalf("%+v, %v", refusals, err)
	}
	if field(r.must("apps/v1", "deployments", ns, "web"), "spec", "replicas") != int64(3) {
		t.Error("it isn't as it was at the primary")
	}
	if r.get("storage.k8s.io/v1", "storageclasses", "", ns+"-fast") != nil {
		t.Error("something without a namespace was applied")
	}
	held := stateOf(t, "ns-held", small)
	if refusals, err = r.Once(t.Context(), held, false); err != nil || len(refusals) > 0 {
		t.Fatalf("%+v, %v", refusals, err)
	}
	if field(r.must("apps/v1", "deployments", "ns-held", "web"), "spec", "replicas") != int64(0) {
		t.Error("it is not held")
	}
	if refusals, err = r.Once(t.Context(), stateOf(t, "ns-held", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: NS}\ndata: {k: v}"), false); err != nil || len(refusals) > 0 {
		t.Fatalf("%+v, %v", refusals, err)
	}
	if r.get("apps/v1", "deployments", "ns-held", "web") != nil || r.get("apps/v1", "deployments", ns, "web") == nil {
		t.Error("the wrong one was deleted")
	}
}
