package objects

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/farshore/farshore/integration/harness"
)

// form makes the objects of one kind.
type form struct {
	kind  schema.GroupVersionResource
	share int // of 20 objects
	make  func(n int) map[string]any
}

var forms = []form{
	{configMaps, 9, func(n int) map[string]any {
		return map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]any{"n": fmt.Sprint(n)}}
	}},
	{secrets, 4, func(n int) map[string]any {
		return map[string]any{"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": map[string]any{"n": "c2VjcmV0" + fmt.Sprintf("%04d", n%10000)}}
	}},
	{services, 2, func(n int) map[string]any {
		return map[string]any{"apiVersion": "v1", "kind": "Service", "spec": map[string]any{
			"selector": map[string]any{"n": fmt.Sprint(n)}, "ports": []any{map[string]any{"port": int64(80)}}}}
	}},
	{accounts, 1, func(n int) map[string]any {
		return map[string]any{"apiVersion": "v1", "kind": "ServiceAccount", "automountServiceAccountToken": n%2 == 0}
	}},
	{roles, 2, func(n int) map[string]any {
		return map[string]any{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "rules": []any{map[string]any{
			"apiGroups": []any{""}, "resources": []any{"configmaps"}, "resourceNames": []any{fmt.Sprint("n", n)}, "verbs": []any{"get"}}}}
	}},
	{deployments, 1, func(n int) map[string]any {
		labels := map[string]any{"d": "x"}
		return map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "spec": map[string]any{
			"replicas": int64(n%5 + 1), "selector": map[string]any{"matchLabels": labels}, "template": map[string]any{
				"metadata": map[string]any{"labels": labels},
				"spec":     map[string]any{"containers": []any{map[string]any{"name": "c", "image": "localhost/nothing:1"}}}}}}
	}},
	{widgets, 1, func(n int) map[string]any {
		return map[string]any{"apiVersion": "bank.example/v1", "kind": "Widget", "spec": map[string]any{"size": int64(n)}}
	}},
}

func formOf(i int) form {
	i %= 20
	for _, f := range forms {
		if i < f.share {
			return f
		}
		i -= f.share
	}
	panic("the shares are less than 20")
}

// churn makes, changes and deletes objects of many kinds in the namespace "bank" of the primary. Of 20 objects one is not
// labelled as the group's.
type churn struct {
	c       *cluster
	objects int
	changes atomic.Int64
	stop    chan struct{}
	wg      sync.WaitGroup
}

func churnKinds() (out []schema.GroupVersionResource) {
	for _, f := range forms {
		out = append(out, f.kind)
	}
	return out
}

func labelled(obj *unstructured.Unstructured) bool { return obj.GetLabels()["app"] == "bank" }

// ofChurn judges what churn leaves behind.
var ofChurn = judge{kinds: churnKinds(), namespaces: map[string]string{"bank": "bank"}, selected: labelled}

// startChurn makes the objects and then goes on with some 300 changes a second until end is called. The widgets' definition must be there.
func startChurn(s *sites, objects int, random *rand.Rand) *churn {
	s.t.Helper()
	c := &churn{c: s.primary, objects: objects, stop: make(chan struct{})}
	const workers = 8
	var filled sync.WaitGroup
	for w := range workers {
		filled.Add(1)
		own := rand.New(rand.NewPCG(random.Uint64(), 0))
		c.wg.Go(func() {
			for i := w; i < objects; i += workers {
				c.step(i, own, true)
			}
			filled.Done()
			pace := time.NewTicker(25 * time.Millisecond)
			defer pace.Stop()
			for {
				select {
				case <-c.stop:
					return
				case <-pace.C:
					c.step(own.IntN(objects/workers)*workers+w, own, false)
				}
			}
		})
	}
	filled.Wait()
	return c
}

// step changes object i, which belongs to one worker. Requests that fail for want of a server are left.
func (c *churn) step(i int, random *rand.Rand, fill bool) {
	f, ctx := formOf(i), c.c.t.Context()
	client := c.c.client.Resource(f.kind).Namespace("bank")
	name := fmt.Sprintf("object-%d", i)
	var err error
	if !fill && random.IntN(4) == 0 {
		err = client.Delete(ctx, name, metav1.DeleteOptions{})
	} else {
		obj := &unstructured.Unstructured{Object: f.make(random.IntN(100000))}
		obj.SetName(name)
		obj.SetNamespace("bank")
		if i%20 != 7 {
			obj.SetLabels(map[string]string{"app": "bank"})
		}
		_, err = client.Apply(ctx, name, obj, metav1.ApplyOptions{FieldManager: "churn", Force: true})
	}
	if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err) {
		c.c.t.Errorf("change %s %s: %v", f.kind.Resource, name, err)
	}
	if err == nil {
		c.changes.Add(1)
	}
}

// more waits until n more changes are made.
func (c *churn) more(n int64) {
	c.c.t.Helper()
	from := c.changes.Load()
	harness.Eventually(c.c.t, limit, fmt.Sprintf("%d more changes", n), func() error {
		if made := c.changes.Load() - from; made < n {
			return fmt.Errorf("%d made", made)
		}
		return nil
	})
}

func (c *churn) end() {
	close(c.stop)
	c.wg.Wait()
	c.c.t.Logf("%d changes of %d objects", c.changes.Load(), c.objects)
}

// However often the watcher is killed while a thousand objects change, with another that stands by or not, the DR site is
// in the end as the primary: what was deleted while nobody watched is deleted there.
func TestWatcherKilledDuringChurn(t *testing.T) {
	random := harness.Seeded(t)
	s := start(t, options{spec: `namespaces: [bank], selector: "app=bank"`, recovery: "inert: [{group: bank.example, resource: widgets}]"})
	s.primary.apply(definition("Widget"))
	c := startChurn(s, 1000, random)
	second := s.AnotherWatcher("second", s.primary.Kubeconfig)
	for round := range 4 {
		c.more(300)
		switch round {
		case 0: // nobody watches while changes and deletions are made
			s.Watcher.Kill()
			c.more(500)
			s.Watcher.Start()
		case 1: // at once
			s.Watcher.Kill()
			s.Watcher.Start()
		case 2: // another takes over
			second.Start()
			second.WaitReady()
			s.Watcher.Kill()
			c.more(300)
			s.Mark("taken-over", limit)
			s.Watcher.Start()
		case 3: // stopped as by a machine that hangs, taken over, and woken up
			s.Watcher.Signal(syscall.SIGSTOP)
			second.Signal(syscall.SIGSTOP)
			c.more(200)
			second.Signal(syscall.SIGCONT)
			s.Mark("hung", limit)
			s.Watcher.Signal(syscall.SIGCONT)
		}
	}
	c.more(200)
	c.end()
	s.applied("settled")
	ofChurn.same(s)
	// Nothing changes at the DR site because processes start again and find all as it was.
	before := s.dr.revisions(ofChurn.kinds, "bank")
	s.Applier.Kill()
	second.Kill()
	s.Watcher.Kill()
	s.Applier.Start()
	s.Watcher.Start()
	s.applied("started-again")
	after := s.dr.revisions(ofChurn.kinds, "bank")
	for name, revision := range after {
		if before[name] != revision {
			t.Errorf("%s was written though nothing changed: revision %s, before %s", name, revision, before[name])
		}
	}
}

// revisions are the resourceVersions of a namespace's objects.
func (c *cluster) revisions(kinds []schema.GroupVersionResource, namespace string) map[string]string {
	c.t.Helper()
	out := make(map[string]string)
	for _, kind := range kinds {
		for _, obj := range c.list(kind, namespace) {
			out[kind.Resource+"/"+obj.GetName()] = obj.GetResourceVersion()
		}
	}
	return out
}
