package rebuild

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/farshore/farshore/internal/kube"
	"github.com/farshore/farshore/internal/kube/kubetest"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
)

func TestMain(m *testing.M) { os.Exit(kubetest.Main(m)) }

// waitLimit bounds a wait for something that comes within a second or so.
const waitLimit = time.Minute

// state is a State in memory.
type state struct {
	point   group.Point
	entries map[events.ObjectKey]Entry
	raw     map[events.ObjectKey][]byte
}

func (s *state) Point() group.Point   { return s.point }
func (s *state) Revision() string     { return fmt.Sprint(s.point.Barrier) }
func (s *state) All() iter.Seq[Entry] { return maps.Values(s.entries) }
func (s *state) Raw(key events.ObjectKey) ([]byte, error) {
	raw, ok := s.raw[key]
	if !ok {
		return nil, fmt.Errorf("no %v", key)
	}
	return raw, nil
}

var barriers uint64

// stateOf makes a state of the documents of a YAML text. In it NS stands for namespace. A document begins with the resource.
func stateOf(t testing.TB, namespace string, texts ...string) *state {
	t.Helper()
	barriers++
	s := &state{point: group.Point{Barrier: barriers, Time: time.Now()}, entries: make(map[events.ObjectKey]Entry), raw: make(map[events.ObjectKey][]byte)}
	for _, text := range texts {
		for doc := range strings.SplitSeq(text, "\n---\n") {
			doc = strings.TrimSpace(strings.ReplaceAll(doc, "NS", namespace))
			if doc == "" {
				continue
			}
			s.put(t, doc)
		}
	}
	return s
}

func (s *state) put(t testing.TB, doc string) events.ObjectKey {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(doc))
	if err != nil {
		t.Fatalf("%v in\n%s", err, doc)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(raw); err != nil {
		t.Fatalf("%v in\n%s", err, doc)
	}
	gvk := u.GroupVersionKind()
	key := events.ObjectKey{Group: gvk.Group, Version: gvk.Version, Resource: plural(gvk.Kind), Namespace: u.GetNamespace(), Name: u.GetName()}
	// A change of content is another revision, as at a primary.
	s.entries[key] = Entry{Key: key, UID: "uid-of-" + u.GetName(), Revision: fmt.Sprint(len(raw)) + string(raw)}
	s.raw[key] = raw
	return key
}

func (s *state) seal(t testing.TB, key events.ObjectKey, to age.Recipient) {
	t.Helper()
	var b strings.Builder
	w, err := age.Encrypt(&b, to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(s.raw[key]); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s.raw[key] = []byte(b.String())
}

func plural(kind string) string {
	switch k := strings.ToLower(kind); {
	case strings.HasSuffix(k, "s") || strings.HasSuffix(k, "ss"):
		return k + map[bool]string{true: "es"}[strings.HasSuffix(k, "class") || strings.HasSuffix(k, "ingress")]
	case strings.HasSuffix(k, "y"):
		return k[:len(k)-1] + "ies"
	default:
		return k + "s"
	}
}

// rig is a Rebuilder at a cluster.
type rig struct {
	t       testing.TB
	cluster *kube.Cluster
	objects dynamic.Interface
	*Rebuilder
	log   *lines
	meter *metric.ManualReader
}

// lines is a log that can be looked through.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs a Rebuilder of a group of its own until the test ends or the returned function is called.
func start(t testing.TB, c *kube.Cluster, groupName string, change func(*Options)) (*rig, func()) {
	t.Helper()
	o := Options{Config: c.Config(), Group: groupName, RehearseRate: 200}
	log, reader := &lines{}, metric.NewManualReader()
	o.Meter = metric.NewMeterProvider(metric.WithReader(reader)).Meter("test")
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	if change != nil {
		change(&o)
	}
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	d, err := dynamic.NewForConfig(c.Config())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})
	t.Cleanup(stop)
	return &rig{t: t, cluster: c, objects: d, Rebuilder: r, log: log, meter: reader}, stop
}

// wantAll wants a state and waits until every object of it was tried.
func (r *rig) wantAll(s *state) *group.ObjectsStatus {
	r.t.Helper()
	r.Want(s)
	var got *group.ObjectsStatus
	r.until("the state was tried", func() bool {
		got = r.Status()
		return got.Applied != nil && got.Applied.Barrier == s.point.Barrier
	})
	return got
}

// wantClean is wantAll, and nothing may be refused at the end.
func (r *rig) wantClean(s *state) {
	r.t.Helper()
	r.wantAll(s)
	var got *group.ObjectsStatus
	deadline := time.Now().Add(waitLimit)
	for got = r.Status(); got.Refusals > 0; got = r.Status() {
		if time.Now().After(deadline) {
			r.t.Fatalf("refused: %+v", got.Refused)
		}
		time.Sleep(poll)
	}
}

func (r *rig) until(what string, is func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(waitLimit); !is(); {
		if time.Now().After(deadline) {
			r.t.Fatalf("not within %v: %s; status %+v", waitLimit, what, *r.Status())
		}
		time.Sleep(poll)
	}
}

func gvrOf(apiVersion, resource string) schema.GroupVersionResource {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		panic(err)
	}
	return gv.WithResource(resource)
}

// get returns an object, nil where there is none.
func (r *rig) get(apiVersion, resource, namespace, name string) *unstructured.Unstructured {
	r.t.Helper()
	u, err := r.objects.Resource(gvrOf(apiVersion, resource)).Namespace(namespace).Get(context.Background(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return u
}

// must is get of an object that has to exist.
func (r *rig) must(apiVersion, resource, namespace, name string) *unstructured.Unstructured {
	r.t.Helper()
	u := r.get(apiVersion, resource, namespace, name)
	if u == nil {
		r.t.Fatalf("no %s %s/%s", resource, namespace, name)
	}
	return u
}

// count returns how many objects there are.
func (r *rig) count(apiVersion, resource, namespace string) int {
	r.t.Helper()
	l, err := r.objects.Resource(gvrOf(apiVersion, resource)).Namespace(namespace).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	return len(l.Items)
}

// create makes an object as somebody else does.
func (r *rig) create(namespace, doc string) *unstructured.Unstructured {
	r.t.Helper()
	s := stateOf(r.t, namespace, doc)
	for key, raw := range s.raw {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(raw); err != nil {
			r.t.Fatal(err)
		}
		out, err := r.objects.Resource(gvrOf(u.GetAPIVersion(), key.Resource)).Namespace(key.Namespace).Create(context.Background(), u, metav1.CreateOptions{})
		if err != nil {
			r.t.Fatal(err)
		}
		return out
	}
	return nil
}

func field(u *unstructured.Unstructured, path ...string) any {
	v, _, _ := unstructured.NestedFieldNoCopy(u.Object, path...)
	return v
}

func (r *rig) refusalOf(resource, name string) string {
	for _, f := range r.Status().Refused {
		if f.Resource == resource && f.Name == name {
			return f.Reason
		}
	}
	return ""
}

func (r *rig) selected(namespace, selector string) int {
	r.t.Helper()
	l, err := r.objects.Resource(gvrOf("v1", "pods")).Namespace(namespace).List(context.Background(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		r.t.Fatal(err)
	}
	return len(l.Items)
}

// counted returns a counter's value, of one action where that is given.
func (r *rig) counted(name, action string) (n int64) {
	r.t.Helper()
	var all metricdata.ResourceMetrics
	if err := r.meter.Collect(context.Background(), &all); err != nil {
		r.t.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			sum, ok := m.Data.(metricdata.Sum[int64])
			if !ok || m.Name != name {
				continue
			}
			for _, p := range sum.DataPoints {
				if got, _ := p.Attributes.Value("action"); action == "" || got.AsString() == action {
					n += p.Value
				}
			}
		}
	}
	return n
}

func (r *rig) rehearsals() int64 { return r.counted("farshore.rebuild.rehearsals", "") }

// writes returns how many changes the API server stored.
func (r *rig) writes() int64 { return r.counted("farshore.rebuild.writes", "") }
