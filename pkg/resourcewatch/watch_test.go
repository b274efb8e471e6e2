package resourcewatch_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/farshore/farshore/internal/kube/kubetest"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/resourcewatch"
)

// Every change is one event, in the order of the API server's revisions.
func TestEveryChangeArrivesInOrder(t *testing.T) {
	s := newSite(t, kubetest.Shared(t))
	s.ready(s.watch())
	before := len(s.stream.events())
	type step struct {
		verb     events.Verb
		name     string
		revision string
	}
	var want []step
	for i := range 100 {
		name := fmt.Sprintf("c%d", i%7)
		if i%14 == 13 { // c6, which exists
			s.remove(name)
			want = append(want, step{events.Delete, name, ""})
			continue
		}
		cm := s.put(name, map[string]string{"i": fmt.Sprint(i)})
		want = append(want, step{events.Upsert, name, cm.ResourceVersion})
	}
	s.converges(configMaps)
	got := objects(s.stream.events()[before:])
	if len(got) != len(want) {
		t.Fatalf("%d events, want %d", len(got), len(want))
	}
	for i, e := range got {
		if w := want[i]; e.Verb != w.verb || e.Key.Name != w.name || w.revision != "" && e.Revision != w.revision {
			t.Fatalf("event %d is %v of %s at %s, want %+v", i, e.Verb, e.Key.Name, e.Revision, w)
		}
		if i > 0 && !newer(t, e.Revision, got[i-1].Revision) {
			t.Fatalf("event %d has revision %s behind %s", i, e.Revision, got[i-1].Revision)
		}
	}
	for k, o := range replay(t, s.stream.events()) {
		if strings.Contains(fmt.Sprint(o.Content), "managedFields") {
			t.Errorf("%v was sent with managedFields", k)
		}
	}
}

// A watcher that starts again where nothing changed sends no object, and what changed meanwhile, once.
func TestRestartSendsOnlyWhatChanged(t *testing.T) {
	s := newSite(t, kubetest.Shared(t))
	for i := range 50 {
		s.put(fmt.Sprintf("c%d", i), map[string]string{"i": fmt.Sprint(i)})
	}
	w := s.ready(s.watch())
	s.converges(configMaps)
	w.kill()
	if got, want := s.memory.len(), len(replay(t, s.stream.events())); got != want {
		t.Fatalf("%d objects are remembered, want %d", got, want)
	}

	for range 3 {
		before := len(s.stream.events())
		w = s.ready(s.watch())
		w.kill()
		if sent := objects(s.stream.events()[before:]); len(sent) != 0 {
			t.Fatalf("%d events of objects, first %+v, although nothing changed", len(sent), sent[0].Key)
		}
	}

	s.put("c7", map[string]string{"i": "new"})
	s.remove("c8")
	before := len(s.stream.events())
	s.ready(s.watch())
	s.converges(configMaps)
	if sent := objects(s.stream.events()[before:]); len(sent) != 2 {
		t.Fatalf("%d events of objects, want those of c7 and c8", len(sent))
	}
}

// What a reader knows and nobody remembers disappears: the list at a tenure's beginning doesn't hold it.
func TestListMakesForgottenObjectsDisappear(t *testing.T) {
	s := newSite(t, kubetest.Shared(t))
	s.put("stays", nil)
	s.put("goes", nil)
	w := s.ready(s.watch())
	s.converges(configMaps)
	w.kill()
	s.remove("goes")
	s.memory = newMemory(t, s.stream) // lost
	s.ready(s.watch())
	s.converges(configMaps)
	for _, o := range objects(s.stream.events()) {
		if o.Verb == events.Delete {
			t.Errorf("the deletion of %s was sent, although nothing can have told of it", o.Key.Name)
		}
	}
}

// An object that is larger than a message is sent in parts that stand behind each other.
func TestLargeObjectIsSplit(t *testing.T) {
	s := newSite(t, kubetest.Shared(t))
	w := s.ready(s.watch())
	s.put("large", map[string]string{"a": strings.Repeat("x<&>é", 150<<10/6), "b": strings.Repeat("y", 500<<10)})
	s.put("small", nil)
	s.converges(configMaps)
	parts := 0
	for _, o := range objects(s.stream.events()) {
		if o.Key.Name == "large" {
			parts++
		}
	}
	if parts < 3 {
		t.Errorf("the object was sent in %d parts", parts)
	}
	w.kill()
	if s.memory.len() != len(replay(t, s.stream.events())) {
		t.Error("what is remembered isn't what was sent")
	}
}

// What something selected begins or ceases to name comes and goes with it, although it doesn't change itself.
func TestReferencesAreFollowed(t *testing.T) {
	s := newSite(t, kubetest.Shared(t))
	s.rules.Selector = "app=bank"
	s.put("config", map[string]string{"k": "v"})
	s.ready(s.watch())
	deploy(t, s, "bank", "config")
	knows := func(name string) bool {
		_, ok := replay(t, s.stream.events())[events.ObjectKey{Version: "v1", Resource: "configmaps", Namespace: s.namespace, Name: name}]
		return ok
	}
	eventually(t, "the ConfigMap that is mounted arrives", func() bool { return knows("config") })
	must(t, s.client.AppsV1().Deployments(s.namespace).Delete(context.Background(), "bank", metav1.DeleteOptions{}))
	eventually(t, "the ConfigMap that nothing mounts any more disappears", func() bool { return !knows("config") })
}

// [I] An object is remembered as sent only once its event is stored: what a crash takes from the stream is sent again.
func TestOnlyWhatIsStoredIsRemembered(t *testing.T) {
	s := newSite(t, kubetest.Shared(t))
	s.put("deleted", nil)
	w := s.ready(s.watch())
	eventually(t, "all is remembered", func() bool { return s.memory.len() == len(replay(t, s.stream.events())) })
	known, _ := s.memory.Load(t.Context())
	s.stream.unstable(true)
	s.put("made", nil)
	s.remove("deleted")
	s.converges(configMaps)
	w.kill() // waits for a while for what is appended to be stored
	if now, _ := s.memory.Load(t.Context()); !reflect.DeepEqual(now, known) {
		t.Fatalf("remembered is %v, want %v", now, known)
	}
	s.stream.unstable(false)
	before := len(s.stream.events())
	w = s.ready(s.watch())
	s.converges(configMaps)
	if sent := objects(s.stream.events()[before:]); len(sent) != 2 {
		t.Errorf("%d events of objects behind the crash, want 2", len(sent))
	}
	w.kill()
	if n := s.memory.len(); n != len(known) {
		t.Errorf("%d objects are remembered, want %d", n, len(known))
	}
}

// The watcher's state is measured.
func TestMetrics(t *testing.T) {
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader))
	s := newSite(t, kubetest.Shared(t))
	s.tune = func(o *resourcewatch.Options) { o.Meter = provider.Meter("test") }
	s.put("c", nil)
	s.ready(s.watch())
	s.remove("c")
	s.converges(configMaps)
	want := []string{
		"farshore.objects.captured", "farshore.objects.events", "farshore.objects.failing", "farshore.objects.proven.age",
		"farshore.objects.queue.bytes", "farshore.objects.queue.drops", "farshore.objects.refused", "farshore.objects.watched",
	}
	var names []string
	verbs := make(map[string]int64)
	eventually(t, "everything is measured", func() bool {
		var all metricdata.ResourceMetrics
		must(t, reader.Collect(t.Context(), &all))
		names = nil
		for _, scope := range all.ScopeMetrics {
			for _, m := range scope.Metrics {
				names = append(names, m.Name)
				if data, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == "farshore.objects.events" {
					for _, p := range data.DataPoints {
						verb, _ := p.Attributes.Value("verb")
						verbs[verb.AsString()] = p.Value
					}
				}
			}
		}
		slices.Sort(names)
		return slices.Equal(names, want)
	}, func() any { return names })
	lists := int64(len(s.stream.events()) - len(objects(s.stream.events())))
	if verbs["delete"] != 1 || verbs["upsert"] != int64(len(objects(s.stream.events())))-1 || verbs["list"] != lists {
		t.Errorf("counted are %v", verbs)
	}
}
