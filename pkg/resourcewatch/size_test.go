package resourcewatch_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/farshore/farshore/internal/kube/kubetest"
)

// fill makes n objects of several kinds, as an application has them.
func (s *site) fill(n int) {
	s.t.Helper()
	var workers sync.WaitGroup
	const parallel = 16
	for c := range parallel {
		workers.Go(func() {
			for i := c; i < n; i += parallel {
				name := fmt.Sprintf("o%d", i)
				var err error
				switch i % 5 {
				case 0, 1:
					_, err = putMap(s.client, s.namespace, name, map[string]string{"config.yaml": strings.Repeat(fmt.Sprintf("key-%d: value\n", i), 60)})
				case 2:
					_, err = s.client.CoreV1().Services(s.namespace).Create(context.Background(), &corev1.Service{
						ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
						Spec:       corev1.ServiceSpec{ClusterIP: "None", Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("http")}}},
					}, metav1.CreateOptions{})
				case 3:
					_, err = s.client.CoreV1().Secrets(s.namespace).Create(context.Background(), &corev1.Secret{
						ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string][]byte{"key": []byte(strings.Repeat("s", 600))},
					}, metav1.CreateOptions{})
				case 4:
					_, err = s.client.CoreV1().ServiceAccounts(s.namespace).Create(context.Background(), &corev1.ServiceAccount{
						ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"note": strings.Repeat("n", 200)}},
					}, metav1.CreateOptions{})
				}
				if err != nil {
					s.t.Error(err)
				}
			}
		})
	}
	workers.Wait()
}

// The memory of a watcher that records is at most three times the JSON of what it watches.
func TestMemoryIsBounded(t *testing.T) {
	s := newSite(t, kubetest.Shared(t))
	s.fill(3000)
	var watched int64
	lists := []string{"configmaps", "services", "secrets", "serviceaccounts"}
	for _, r := range lists {
		g := configMaps
		g.Resource = r
		list, err := s.dynamic.Resource(g).Namespace(s.namespace).List(t.Context(), metav1.ListOptions{})
		must(t, err)
		for i := range list.Items {
			unstructured.RemoveNestedField(list.Items[i].Object, "metadata", "managedFields")
			raw, err := list.Items[i].MarshalJSON()
			must(t, err)
			watched += int64(len(raw))
		}
	}
	before := heap()
	start := time.Now()
	s.stream.forget = true
	w := s.ready(s.watch())
	took := time.Since(start)
	remembered := int64(0)
	s.memory.mu.Lock()
	for k, v := range s.memory.known {
		remembered += int64(len(k.Name)+len(v.UID)) + 250 // of the test's own memory
	}
	s.memory.mu.Unlock()
	used := heap() - before - remembered
	t.Logf("%d bytes of JSON in %d objects, %d bytes of memory: %.2f; ready after %s", watched, w.Status().Objects, used, float64(used)/float64(watched), took)
	if used > 3*watched {
		t.Errorf("%d bytes of memory for %d bytes of JSON", used, watched)
	}
	for i := range uint64(5) {
		at := time.Now()
		labelled(t, w, i+1)
		t.Logf("a labelled barrier took %s", time.Since(at))
	}
	runtime.KeepAlive(w)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
