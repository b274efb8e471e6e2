package resourcewatch

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/farshore/farshore/pkg/resourcewatch/selection"
)

// retry is how a reflector goes on after an error: a server that restarts is found again within seconds, and one that refuses is
// asked from time to time.
var retry = wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 6, Cap: 8 * time.Second}

// follow has the kind's feed at p followed, if it isn't; it belongs to the goroutine of discover.
//
// It is what client-go's dynamic informers are made of, the reflector on the dynamic client, with the feed as its store instead
// of a queue, a cache and listeners: objects are kept once, and lists and revisions are seen.
func (w *Watcher) follow(ctx context.Context, p place, k *selection.Kind) {
	f := w.feed(p)
	if f == nil {
		f = newFeed(p, w.o.Selection, w.budget, w.poke)
		w.mu.Lock()
		w.all[p] = f
		w.mu.Unlock()
	}
	if f.stop != nil {
		if *f.kind == *k {
			return
		}
		f.stop() // its objects are read in another version from now on
	}
	f.mu.Lock()
	f.kind, f.listed, f.gone = k, false, false
	f.takeWhole()
	f.notify()
	f.mu.Unlock()
	w.log.Debug("follow kind", "group", p.group, "version", k.Version, "resource", p.resource, "namespace", p.namespace)

	resource := w.dynamic.Resource(gvr(k)).Namespace(p.namespace)
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := resource.List(ctx, o)
			w.report(ctx, f, "list", err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			changes, err := resource.Watch(ctx, o)
			w.report(ctx, f, "watch", err)
			return changes, err
		},
	}
	backoff, silent := retry, logr.Discard()
	r := cache.NewReflectorWithOptions(source, &unstructured.Unstructured{}, store(w, f), cache.ReflectorOptions{
		Logger: &silent, Name: p.resource, Backoff: &backoff,
	})
	ctx, cancel := context.WithCancel(quiet(ctx))
	var running sync.WaitGroup
	running.Go(func() { r.RunWithContext(ctx) })
	f.stop = func() {
		cancel()
		running.Wait()
	}
}

// quiet keeps client-go from logging on its own: it would log objects where it can't make sense of them. What fails is
// seen by report, and by who asks.
func quiet(ctx context.Context) context.Context { return klog.NewContext(ctx, logr.Discard()) }

// store is what the reflector of a feed writes to.
func store(w *Watcher, f *feed) cache.ReflectorStore {
	if f.place.isCRDs() {
		return definitions{f, w.lookSoon}
	}
	return f
}

// definitions is the feed of CRDs, which has kinds looked for when it changes.
type definitions struct {
	*feed
	look func()
}

// Add implements cache.ReflectorStore.
func (d definitions) Add(x any) error { return d.then(d.feed.Add(x)) }

// Update implements cache.ReflectorStore.
func (d definitions) Update(x any) error { return d.then(d.feed.Update(x)) }

// Delete implements cache.ReflectorStore.
func (d definitions) Delete(x any) error { return d.then(d.feed.Delete(x)) }

// Replace implements cache.ReflectorStore.
func (d definitions) Replace(list []any, revision string) error {
	return d.then(d.feed.Replace(list, revision))
}

func (d definitions) then(err error) error {
	d.look()
	return err
}

func gvr(k *selection.Kind) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: k.Group, Version: k.Version, Resource: k.Resource}
}

// report notes how a request for a feed ended, and says once what it is that fails.
func (w *Watcher) report(ctx context.Context, f *feed, verb string, err error) {
	if ctx.Err() != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	log := w.log.With("verb", verb, "group", f.place.group, "resource", f.place.resource, "namespace", f.place.namespace)
	was, refused := f.refused[verb]
	switch {
	case err == nil:
		delete(f.refused, verb)
		if refused {
			log.Info("the API server allows a request that it refused", "since", was.Since)
		}
		f.failing = nil
	case apierrors.IsForbidden(err):
		f.failing = nil
		if !refused {
			f.refused[verb] = Refused{verb, f.place.group, f.place.resource, f.place.namespace, err.Error(), time.Now()}
			log.Warn("the API server refuses a request: the kind is not captured until the role allows it", "error", err)
		}
	case apierrors.IsResourceExpired(err) || apierrors.IsGone(err): // it is listed anew
	default:
		if f.failing == nil {
			log.Warn("watch kind failed", "error", err)
		}
		f.failing = err
		if isMissing(err) {
			w.lookSoon()
		}
	}
	f.notify()
	w.poke()
}

// stopAll ends all reflectors.
func (w *Watcher) stopAll() {
	for _, f := range w.feeds() {
		if f.stop != nil {
			f.stop()
			f.stop = nil
		}
	}
}

// feed returns the one at p; nil if there is none.
func (w *Watcher) feed(p place) *feed {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all[p]
}

// feeds returns all of them, in an order that stays.
func (w *Watcher) feeds() []*feed {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sorted) != len(w.all) {
		w.sorted = slices.SortedFunc(maps.Values(w.all), func(a, b *feed) int { return a.place.compare(b.place) })
	}
	return slices.Clone(w.sorted)
}
