package resourcewatch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/farshore/farshore/internal/kube"
	"github.com/farshore/farshore/internal/kube/kubetest"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/resourcewatch"
	"github.com/farshore/farshore/pkg/resourcewatch/selection"
)

func TestMain(m *testing.M) { os.Exit(kubetest.Main(m)) }

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until done, and fails the test with what why tells where that doesn't come.
func eventually(t testing.TB, what string, done func() bool, why ...func() any) {
	t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for !done() {
		if time.Now().After(deadline) || t.Context().Err() != nil {
			for _, w := range why {
				t.Logf("%+v", w())
			}
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// stream is a Sink that keeps what is appended. It stores at once, unless it is paused.
type stream struct {
	mu     sync.Mutex
	all    []events.Event
	stored uint64

	appended uint64
	paused   bool
	forget   bool  // keeps nothing
	unsafe   bool  // nothing more becomes stored
	failed   error // of every call from now on
	changed  chan struct{}
}

func newStream() *stream { return &stream{changed: make(chan struct{})} }

func (s *stream) Append(ctx context.Context, e events.Event) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.paused && s.failed == nil {
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			s.mu.Lock()
			return 0, ctx.Err()
		}
		s.mu.Lock()
	}
	if s.failed != nil {
		return 0, s.failed
	}
	if _, err := events.Append(nil, events.Header{Epoch: 1, Time: time.Now()}, e); err != nil {
		return 0, err
	}
	if !s.forget {
		s.all = append(s.all, e)
	}
	s.appended++
	if !s.unsafe {
		s.stored = s.appended
	}
	s.notify()
	return s.appended, nil
}

func (s *stream) WaitStored(ctx context.Context, seq uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.stored < seq && s.failed == nil {
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			s.mu.Lock()
			return ctx.Err()
		}
		s.mu.Lock()
	}
	return s.failed
}

// pause keeps Append from returning until it is called with false.
func (s *stream) pause(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = yes
	s.notify()
}

// unstable keeps what is appended from being stored until it is called with false.
func (s *stream) unstable(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unsafe = yes; !yes {
		s.stored = s.appended
	}
	s.notify()
}

// fence ends the tenure as a newer writer does.
func (s *stream) fence() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = errFenced
	s.notify()
}

var errFenced = errors.New("fenced")

func (s *stream) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *stream) events() []events.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

// memory is a Memory that outlives watchers. It fails the test where something is noted before it is stored.
type memory struct {
	t      testing.TB
	stream *stream

	mu    sync.Mutex
	known map[events.ObjectKey]resourcewatch.Sent
}

func newMemory(t testing.TB, s *stream) *memory {
	return &memory{t: t, stream: s, known: make(map[events.ObjectKey]resourcewatch.Sent)}
}

func (m *memory) Load(context.Context) (map[events.ObjectKey]resourcewatch.Sent, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.known), nil
}

func (m *memory) Note(_ context.Context, k events.ObjectKey, s resourcewatch.Sent) error {
	m.stream.mu.Lock()
	stored := m.stream.stored
	m.stream.mu.Unlock()
	if s.Seq == 0 || s.Seq > stored {
		m.t.Errorf("%v is noted with sequence %d, stored is %d", k, s.Seq, stored)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known[k] = s
	return nil
}

func (m *memory) Forget(_ context.Context, k events.ObjectKey) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.known, k)
	return nil
}

func (m *memory) len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.known)
}

// site is an API server, a namespace of it, and a stream.
type site struct {
	t         testing.TB
	cluster   *kube.Cluster
	config    *rest.Config // the watcher's
	namespace string
	client    *kubernetes.Clientset
	dynamic   *dynamic.DynamicClient
	stream    *stream
	memory    *memory
	log       *syncBuffer
	tune      func(*resourcewatch.Options)
	rules     selection.Rules
}

func newSite(t testing.TB, c *kube.Cluster) *site {
	d, err := dynamic.NewForConfig(c.Config())
	must(t, err)
	s := &site{
		t: t, cluster: c, config: c.Config(), namespace: kubetest.Namespace(t, c, "watch"), client: kubetest.Client(t, c), dynamic: d,
		stream: newStream(), log: &syncBuffer{}, tune: func(*resourcewatch.Options) {},
	}
	s.memory = newMemory(t, s.stream)
	s.rules = selection.Rules{Namespaces: []string{s.namespace}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", s.log.String())
		}
	})
	return s
}

// watching is a watcher that runs and records.
type watching struct {
	*resourcewatch.Watcher
	site      *site
	context   func() context.Context // of the process
	kill      func()                 // ends the process
	endOnly   func()                 // ends the tenure
	recording sync.WaitGroup
	err       error // what Record returned
}

// watch starts a watcher on the site's stream and memory.
func (s *site) watch() *watching {
	s.t.Helper()
	w := &watching{Watcher: s.watcher(), site: s}
	ctx, end := context.WithCancel(context.Background())
	w.context = func() context.Context { return ctx }
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.Run(ctx); err != nil {
			s.t.Errorf("run: %v", err)
		}
	})
	w.record()
	w.kill = func() { end(); running.Wait(); w.endOnly() }
	s.t.Cleanup(w.kill)
	return w
}

// record begins a tenure of the site's stream.
func (w *watching) record() {
	ctx, end := context.WithCancel(w.context())
	sink, memory := w.site.stream, w.site.memory
	w.recording.Go(func() { w.err = w.Record(ctx, sink, memory) })
	w.endOnly = func() { end(); w.recording.Wait() }
}

func (s *site) watcher() *resourcewatch.Watcher {
	s.t.Helper()
	sel, err := selection.New(s.rules)
	must(s.t, err)
	o := resourcewatch.Options{
		Config: s.config, Group: "g", Selection: sel, Prove: 200 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	s.tune(&o)
	w, err := resourcewatch.New(o)
	must(s.t, err)
	return w
}

// ready waits until the watcher may vote.
func (s *site) ready(w *watching) *watching {
	s.t.Helper()
	eventually(s.t, "the watcher is ready", func() bool { ok, _ := w.Ready(); return ok }, func() any { return w.Status() })
	return w
}

func (s *site) put(name string, data map[string]string) *corev1.ConfigMap {
	s.t.Helper()
	cm, err := putMap(s.client, s.namespace, name, data)
	must(s.t, err)
	return cm
}

// putMap makes or changes a ConfigMap.
func putMap(c kubernetes.Interface, namespace, name string, data map[string]string) (*corev1.ConfigMap, error) {
	ctx := context.Background()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
	out, err := c.CoreV1().ConfigMaps(namespace).Update(ctx, cm, metav1.UpdateOptions{})
	if err != nil {
		return c.CoreV1().ConfigMaps(namespace).Create(ctx, cm, metav1.CreateOptions{})
	}
	return out, nil
}

func (s *site) remove(name string) {
	s.t.Helper()
	must(s.t, s.client.CoreV1().ConfigMaps(s.namespace).Delete(context.Background(), name, metav1.DeleteOptions{}))
}

// known is an object as a reader of the stream knows it.
type known struct {
	UID, Revision string
	Content       map[string]any
}

// replay does what a reader of the stream does.
func replay(t testing.TB, all []events.Event) map[events.ObjectKey]known {
	t.Helper()
	out := make(map[events.ObjectKey]known)
	var raw []byte
	listed := make(map[events.ListedObject]bool)
	for n, e := range all {
		if o, ok := e.(*events.Object); !ok && raw != nil || ok && o.Part == 0 && raw != nil {
			t.Fatalf("event %d comes between the parts of an object", n+1)
		}
		switch e := e.(type) {
		case *events.Object:
			if e.Verb == events.Delete {
				delete(out, e.Key)
				continue
			}
			raw = append(raw, e.Raw...)
			if e.Part+1 < e.Parts {
				continue
			}
			k := known{UID: e.UID, Revision: e.Revision}
			if !bytes.HasPrefix(raw, []byte("age-encryption.org/")) {
				if err := json.Unmarshal(raw, &k.Content); err != nil {
					t.Fatalf("event %d: %v", n+1, err)
				}
			}
			raw = nil
			out[e.Key] = k
		case *events.Listed:
			for _, o := range e.Objects {
				listed[o] = true
			}
			if e.Part+1 < e.Parts {
				continue
			}
			maps.DeleteFunc(out, func(k events.ObjectKey, o known) bool {
				return k.Group == e.Group && k.Resource == e.Resource && !listed[events.ListedObject{Namespace: k.Namespace, Name: k.Name, UID: o.UID}]
			})
			clear(listed)
		}
	}
	return out
}

// exists returns what the API server has of a kind in the site's namespace, as it should be known to a reader.
func (s *site) exists(r schema.GroupVersionResource) map[events.ObjectKey]known {
	s.t.Helper()
	return s.list(r, metav1.ListOptions{})
}

// existed is exists at a revision.
func (s *site) existed(r schema.GroupVersionResource, revision string) map[events.ObjectKey]known {
	s.t.Helper()
	return s.list(r, metav1.ListOptions{ResourceVersion: revision, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
}

func (s *site) list(r schema.GroupVersionResource, o metav1.ListOptions) map[events.ObjectKey]known {
	s.t.Helper()
	list, err := s.dynamic.Resource(r).Namespace(s.namespace).List(context.Background(), o)
	must(s.t, err)
	out := make(map[events.ObjectKey]known)
	for i := range list.Items {
		u := &list.Items[i]
		unstructured.RemoveNestedField(u.Object, "metadata", "managedFields")
		raw, err := json.Marshal(u.Object)
		must(s.t, err)
		k := known{UID: string(u.GetUID()), Revision: u.GetResourceVersion()}
		must(s.t, json.Unmarshal(raw, &k.Content))
		out[events.ObjectKey{Group: r.Group, Version: r.Version, Resource: r.Resource, Namespace: u.GetNamespace(), Name: u.GetName()}] = k
	}
	return out
}

// of returns those objects of a kind.
func of(all map[events.ObjectKey]known, r schema.GroupVersionResource) map[events.ObjectKey]known {
	out := maps.Clone(all)
	maps.DeleteFunc(out, func(k events.ObjectKey, _ known) bool { return k.Group != r.Group || k.Resource != r.Resource })
	return out
}

// differences tells how a reader's objects differ from what the API server has.
func differences(got, want map[events.ObjectKey]known) (out []string) {
	for k, w := range want {
		switch g, ok := got[k]; {
		case !ok:
			out = append(out, fmt.Sprintf("%v is missing", k))
		case !reflect.DeepEqual(g, w):
			out = append(out, fmt.Sprintf("%v is %s %s, want %s %s", k, g.UID, g.Revision, w.UID, w.Revision))
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			out = append(out, fmt.Sprintf("%v should not exist", k))
		}
	}
	slices.Sort(out)
	return out[:min(len(out), 10)]
}

// converges waits until a reader of the stream knows exactly what the API server has of the kinds.
func (s *site) converges(kinds ...schema.GroupVersionResource) {
	s.t.Helper()
	var diff []string
	eventually(s.t, "the stream shows what the API server has", func() bool {
		diff = nil
		got := replay(s.t, s.stream.events())
		for _, r := range kinds {
			want := s.exists(r)
			maps.DeleteFunc(want, func(k events.ObjectKey, _ known) bool { return k.Name == "kube-root-ca.crt" })
			diff = append(diff, differences(of(got, r), want)...)
		}
		return len(diff) == 0
	}, func() any { return diff })
}

// newer tells whether revision a is newer than b.
func newer(t testing.TB, a, b string) bool {
	t.Helper()
	c, err := resourceversion.CompareResourceVersion(a, b)
	must(t, err)
	return c > 0
}

// objects returns the events of objects among all.
func objects(all []events.Event) (out []*events.Object) {
	for _, e := range all {
		if o, ok := e.(*events.Object); ok {
			out = append(out, o)
		}
	}
	return out
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
