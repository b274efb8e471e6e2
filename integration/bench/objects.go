package main

import (
	"context"
	"fmt"
	"maps"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/internal/kube"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

const (
	objectsSynced   = 5000
	objectsInterval = time.Second
	objectsLimit    = 5 * time.Minute // for whatever is waited for
)

// objectSites are two sites with an API server each.
type objectSites struct {
	*sites
	primaryAPI, drAPI dynamic.Interface
}

// measureObjects measures a group of Kubernetes objects alone, one thing behind the other with the same API servers.
func measureObjects(ctx context.Context, m *measuring) error {
	s, err := m.objectSites(ctx)
	if err != nil {
		return err
	}
	mixed := mixedObjects(objectsSynced)
	if err := create(ctx, s.primaryAPI, mixed); err != nil {
		return err
	}
	for _, step := range []func(context.Context, *objectSites) error{
		m.measureFirstSync, m.measureRestart, m.measureChanges, m.measureWatcherMemory,
	} {
		if err := step(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// objectSites starts both API servers and prepares both sites; no process of Farshore runs yet.
func (m *measuring) objectSites(ctx context.Context) (*objectSites, error) {
	told := time.Now()
	if _, err := kube.Binaries(ctx, func(p kube.Progress) {
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			fmt.Printf("  %s\n", p)
		}
	}); err != nil {
		return nil, err
	}
	clusters, err := kube.StartAll(ctx, kube.Options{Dir: m.path("kube-primary"), Name: "primary"}, kube.Options{Dir: m.path("kube-dr"), Name: "dr"})
	if err != nil {
		return nil, err
	}
	for _, c := range clusters {
		m.later(c.Stop)
	}
	p, err := m.pair(harness.Options{MaxBytes: "2Gi", Volumes: -1, Interval: objectsInterval, HoldLimit: 2 * time.Second, Objects: &harness.Objects{
		Spec: "{namespaces: [bench]}", Primary: clusters[0].Kubeconfig, DR: clusters[1].Kubeconfig,
	}})
	if err != nil {
		return nil, err
	}
	s := &objectSites{sites: &sites{Pair: p}}
	if s.primaryAPI, err = unlimited(clusters[0].Config()); err != nil {
		return nil, err
	}
	s.drAPI, err = unlimited(clusters[1].Config())
	return s, err
}

// unlimited is a client without a limit of its own.
func unlimited(c *rest.Config) (dynamic.Interface, error) {
	c = rest.CopyConfig(c)
	c.QPS = -1
	return dynamic.NewForConfig(c)
}

// measureFirstSync starts the processes, the watcher last.
func (m *measuring) measureFirstSync(ctx context.Context, s *objectSites) error {
	for _, p := range s.All() {
		if p != s.Watcher {
			p.Start()
		}
	}
	for _, p := range s.All() {
		if p != s.Watcher {
			p.WaitReady()
		}
	}
	s.primary, s.dr = s.PrimarySite(ctx), s.DRSite(ctx)
	begun := time.Now()
	s.Watcher.Start()
	barrier, err := s.point(ctx)
	if err != nil {
		return err
	}
	committed := time.Since(begun)
	st, err := s.reached(ctx, barrier)
	if err != nil {
		return err
	}
	synced := time.Since(begun)
	there, err := versions(ctx, s.drAPI)
	if err != nil {
		return err
	}
	if len(there) < objectsSynced {
		return fmt.Errorf("%d of %d objects are at the DR site: %s", len(there), objectsSynced, harness.Describe(st))
	}
	m.held(fmt.Sprintf("first sync of %d mixed objects, from the watcher's start to applied by the DR API server", objectsSynced), synced.Seconds(), "s", atMost, 30,
		map[string]float64{"to the first recovery point s": committed.Seconds(), "objects": float64(st.Objects.Count)})
	return nil
}

// measureRestart restarts the watcher and then the applier while nothing changes, and counts what either writes.
func (m *measuring) measureRestart(ctx context.Context, s *objectSites) error {
	id := journal.StreamID{Group: harness.Group, Part: journal.Objects, Generation: 1}
	before, err := s.primary.Tail(ctx, id.Name())
	if err != nil {
		return err
	}
	s.Watcher.Terminate()
	begun := time.Now()
	s.Watcher.Start()
	if _, err := s.point(ctx); err != nil {
		return err
	}
	away := time.Since(begun)
	sent, err := s.objectEvents(ctx, id, before.Last+1)
	if err != nil {
		return err
	}
	m.held("restart of the watcher with nothing changed: objects sent", float64(sent), "", atMost, 0, map[string]float64{"to the next point s": away.Seconds()})
	was, err := versions(ctx, s.drAPI)
	if err != nil {
		return err
	}
	s.Applier.Terminate()
	begun = time.Now()
	s.Applier.Start()
	barrier, err := s.point(ctx)
	if err != nil {
		return err
	}
	if _, err := s.reached(ctx, barrier); err != nil {
		return err
	}
	is, err := versions(ctx, s.drAPI)
	if err != nil {
		return err
	}
	away = time.Since(begun)
	written := 0
	for key := range maps.Keys(is) {
		if was[key] != is[key] {
			written++
		}
	}
	m.held("restart of the applier with nothing changed: objects written", float64(written), "", atMost, 0, map[string]float64{"to the next point applied s": away.Seconds()})
	return nil
}

// objectEvents counts what was told about objects in a stream, from a sequence to its end.
func (s *objectSites) objectEvents(ctx context.Context, id journal.StreamID, from uint64) (n int, err error) {
	tail, err := s.primary.Tail(ctx, id.Name())
	if err != nil || tail.Last < from {
		return 0, err
	}
	r, err := s.primary.OpenReader(ctx, id.Name(), from)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	for {
		e, err := r.Next(ctx)
		if err != nil {
			return 0, err
		}
		if _, is := e.Event.(*events.Object); is {
			n++
		}
		if e.Seq >= tail.Last {
			return n, nil
		}
	}
}

// measureChanges changes ConfigMaps at a rate and watches them arrive at the DR API server.
func (m *measuring) measureChanges(ctx context.Context, s *objectSites) error {
	const rate, objects = 50, 500 // an object changes every ten seconds: no change hides the one before
	changes := int(m.lasting(30*time.Second).Seconds() * rate)
	watching, cancel := context.WithTimeout(ctx, objectsLimit)
	defer cancel()
	w, err := s.drAPI.Resource(configMaps).Namespace(benchNamespace).Watch(watching, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer w.Stop()
	at := make([]time.Time, changes)
	wrote := make(chan struct{})
	written := make(chan error, 1)
	go func() {
		defer close(wrote)
		pace := time.NewTicker(time.Second / rate)
		defer pace.Stop()
		for i := range changes {
			patch := fmt.Appendf(nil, `{"data":{"change":"%d"}}`, i)
			name := fmt.Sprintf("config-%d", i%objects)
			if _, err := s.primaryAPI.Resource(configMaps).Namespace(benchNamespace).Patch(watching, name, "application/merge-patch+json", patch, metav1.PatchOptions{}); err != nil {
				written <- fmt.Errorf("change %s: %w", name, err)
				return
			}
			at[i] = time.Now()
			<-pace.C
		}
	}()
	arrived := make([]time.Time, changes)
	for left := changes; left > 0; {
		select {
		case err := <-written:
			return err
		case <-watching.Done():
			return fmt.Errorf("%d of %d changes did not arrive: %w", left, changes, watching.Err())
		case e, open := <-w.ResultChan():
			obj, is := e.Object.(*unstructured.Unstructured)
			if !open || !is {
				return fmt.Errorf("the watch of the DR API server ended: %v", e.Object)
			}
			// A later change of the same object brings those before it that never showed.
			for i := changeOf(obj); i >= 0 && i < changes && arrived[i].IsZero(); i -= objects {
				arrived[i] = time.Now()
				left--
			}
		}
	}
	<-wrote // the last change is acknowledged as well
	lags := make([]float64, changes)
	for i := range lags {
		lags[i] = max(0, ms(arrived[i].Sub(at[i])))
	}
	m.held(fmt.Sprintf("a change, from acknowledged to applied, at %d a second and a barrier each second, p99", rate), percentile(lags, 99), "ms", atMost, 1000+ms(objectsInterval),
		map[string]float64{"p50 ms": median(lags), "largest ms": percentile(lags, 100), "changes": float64(changes)})
	return nil
}

// measureWatcherMemory makes the watcher watch far more than what the process needs by itself, and starts it
// anew: that it listed all at once is part of its peak.
func (m *measuring) measureWatcherMemory(ctx context.Context, s *objectSites) error {
	small, _, err := memoryOf(s.Watcher.Pid())
	if err != nil {
		return err
	}
	few, err := watchedBytes(ctx, s.primaryAPI)
	if err != nil {
		return err
	}
	var large []object
	for i := range 1000 {
		large = append(large, configOf(1_000_000+i, 100<<10))
	}
	if err := create(ctx, s.primaryAPI, large); err != nil {
		return err
	}
	if _, err := s.point(ctx); err != nil {
		return err
	}
	s.Watcher.Terminate()
	s.Watcher.Start()
	if _, err := s.point(ctx); err != nil {
		return err
	}
	pause(ctx, 15*time.Second) // what the start used goes back to the system
	now, peak, err := memoryOf(s.Watcher.Pid())
	if err != nil {
		return err
	}
	many, err := watchedBytes(ctx, s.primaryAPI)
	if err != nil {
		return err
	}
	const mib = 1 << 20
	m.held("resident memory of the watcher against the JSON it watches", float64(now)/float64(many), "x", atMost, 3, map[string]float64{
		"MiB": float64(now) / mib, "JSON MiB": float64(many) / mib, "peak MiB": float64(peak) / mib,
		"MiB before": float64(small) / mib, "JSON MiB before": float64(few) / mib,
	})
	return nil
}
