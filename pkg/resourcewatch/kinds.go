package resourcewatch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"github.com/farshore/farshore/pkg/resourcewatch/selection"
)

const (
	crdGroup    = "apiextensions.k8s.io"
	crdResource = "customresourcedefinitions"

	// lookAgain is the time between two looks while a CRD says that it serves a kind that discovery doesn't list yet.
	lookAgain = 250 * time.Millisecond
)

var apiServices = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}

func (p place) isCRDs() bool { return p.group == crdGroup && p.resource == crdResource }

// served is the kind that a CRD adds to the API.
type served struct{ kind selection.Kind }

// learn notes which kind a CRD adds, once it is established.
func (f *feed) learn(crd *unstructured.Unstructured) {
	name := crd.GetName()
	k := selection.Kind{Group: text(crd, "spec", "group"), Resource: text(crd, "spec", "names", "plural"), Kind: text(crd, "spec", "names", "kind")}
	k.Namespaced = text(crd, "spec", "scope") == "Namespaced"
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	for _, v := range versions {
		if m, ok := v.(map[string]any); ok && m["served"] == true && k.Version == "" {
			k.Version, _ = m["name"].(string)
		}
	}
	established := false
	conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
	for _, c := range conditions {
		m, ok := c.(map[string]any)
		established = established || ok && m["type"] == "Established" && m["status"] == "True"
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if established && k.Version != "" && crd.GetDeletionTimestamp() == nil {
		f.serves[name] = served{k}
	} else {
		delete(f.serves, name)
	}
}

func text(u *unstructured.Unstructured, path ...string) string {
	s, _, _ := unstructured.NestedString(u.Object, path...)
	return s
}

// discover looks for kinds until ctx ends: from time to time, and at once when a CRD changes.
func (w *Watcher) discover(ctx context.Context) error {
	defer w.stopAll()
	for {
		wait := w.o.Rediscover
		if err := w.look(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			w.lookFailed.warn(w.log, "look for kinds failed", err)
			wait = min(wait, time.Second)
		} else if len(w.uncovered()) > 0 {
			wait = min(wait, lookAgain)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.looks:
		case <-time.After(wait):
		}
	}
}

// look asks the API server once which kinds it has, and follows those that are wanted.
func (w *Watcher) look(ctx context.Context) error {
	found, failed, err := w.kinds(ctx)
	if err != nil {
		return fmt.Errorf("look for kinds: %w", err)
	}
	remote := w.remote(ctx)
	offered := make(map[kindID]bool, len(found))
	wanted := make(map[place]*selection.Kind)
	var elsewhere []string
	for i := range found {
		k := &found[i]
		offered[kindID{k.Group, k.Resource}] = true
		if !w.o.Selection.Watches(*k) {
			continue
		}
		if remote[schema.GroupVersion{Group: k.Group, Version: k.Version}] {
			elsewhere = append(elsewhere, k.Resource+"."+k.Group+": served by an extension API server, whose revisions can't be compared with the others': not captured")
			continue
		}
		for _, p := range w.places(*k) {
			wanted[p] = k
		}
	}
	slices.Sort(elsewhere)
	w.mu.Lock()
	w.elsewhere = elsewhere
	w.mu.Unlock()
	for p, k := range wanted {
		w.follow(ctx, p, k)
	}
	w.drop(ctx, wanted, failed)
	w.mu.Lock()
	w.discovered, w.offered, w.unclear = true, offered, failed
	w.mu.Unlock()
	w.poke()
	return nil
}

// places returns where a kind is followed.
func (w *Watcher) places(k selection.Kind) []place {
	if !k.Namespaced {
		return []place{{k.Group, k.Resource, ""}}
	}
	var out []place
	for _, n := range w.o.Selection.Namespaces() {
		out = append(out, place{k.Group, k.Resource, n})
	}
	return out
}

// kinds returns what the API server has that can be listed and watched, each in its preferred version, and the groups of which
// it couldn't tell.
func (w *Watcher) kinds(ctx context.Context) (found []selection.Kind, failed map[string]bool, err error) {
	lists, err := w.discovery.ServerPreferredResourcesWithContext(ctx)
	failed = make(map[string]bool)
	if err != nil {
		groups, partly := discovery.GroupDiscoveryFailedErrorGroups(err)
		if !partly {
			return nil, nil, err
		}
		for gv := range groups {
			failed[gv.Group] = true
		}
	}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, nil, fmt.Errorf("read group version %q: %w", list.GroupVersion, err)
		}
		for _, r := range list.APIResources {
			if slices.Contains(r.Verbs, "list") && slices.Contains(r.Verbs, "watch") {
				found = append(found, selection.Kind{Group: gv.Group, Version: gv.Version, Resource: r.Name, Kind: r.Kind, Namespaced: r.Namespaced})
			}
		}
	}
	return found, failed, nil
}

// remote returns the API versions that other servers answer for. They keep revisions of their own, so their objects can't be
// part of a cut. Where that may not be asked there are taken to be none.
func (w *Watcher) remote(ctx context.Context) map[schema.GroupVersion]bool {
	list, err := w.dynamic.Resource(apiServices).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil
	}
	out := make(map[schema.GroupVersion]bool)
	for i := range list.Items {
		u := &list.Items[i]
		if service, ok, _ := unstructured.NestedMap(u.Object, "spec", "service"); ok && service != nil {
			out[schema.GroupVersion{Group: text(u, "spec", "group"), Version: text(u, "spec", "version")}] = true
		}
	}
	return out
}

// drop ends the feeds of kinds that are served no longer.
func (w *Watcher) drop(ctx context.Context, wanted map[place]*selection.Kind, failed map[string]bool) {
	for _, f := range w.feeds() {
		if wanted[f.place] != nil || failed[f.place.group] || f.stop == nil {
			continue
		}
		if w.isGone(ctx, f) {
			w.log.Info("kind has gone", "group", f.place.group, "resource", f.place.resource, "namespace", f.place.namespace)
			f.stop()
			f.stop = nil
			f.end()
		}
	}
}

// isGone makes sure that a kind which discovery doesn't list is not served: a server that has just started may not list all
// yet, and what is taken to be gone is deleted at the DR site.
func (w *Watcher) isGone(ctx context.Context, f *feed) bool {
	if !f.place.isCRDs() && w.crds() != nil && w.mayBeDefined(f.place.kind()) {
		return false
	}
	_, err := w.partial(f).List(ctx, metav1.ListOptions{Limit: 1})
	return apierrors.IsNotFound(err)
}

// mayBeDefined tells whether a CRD of the kind exists, as far as is known.
func (w *Watcher) mayBeDefined(k kindID) bool {
	crds := w.crds()
	if crds == nil {
		return true
	}
	crds.mu.Lock()
	defer crds.mu.Unlock()
	return !crds.listed || len(crds.refused) > 0 || crds.latest[k.resource+"."+k.group] != nil
}

// mayBeServed tells of a kind that isn't followed in a namespace whether objects of it that belong to the group may exist.
func (w *Watcher) mayBeServed(k kindID, namespace string) bool {
	kind := selection.Kind{Group: k.group, Resource: k.resource, Namespaced: namespace != ""}
	if !w.o.Selection.Watches(kind) || namespace != "" && !slices.Contains(w.o.Selection.Namespaces(), namespace) {
		return false
	}
	w.mu.Lock()
	unclear := !w.discovered || w.unclear[k.group] || w.offered[k]
	w.mu.Unlock()
	return unclear || w.mayBeDefined(k)
}

// crds returns the feed of CRDs; nil where there is none.
func (w *Watcher) crds() *feed {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all[place{crdGroup, crdResource, ""}]
}

// uncovered returns the kinds that CRDs serve and that are wanted and not followed yet.
func (w *Watcher) uncovered() []selection.Kind {
	crds := w.crds()
	if crds == nil {
		return nil
	}
	crds.mu.Lock()
	var kinds []selection.Kind
	for _, s := range crds.serves {
		kinds = append(kinds, s.kind)
	}
	crds.mu.Unlock()
	return slices.DeleteFunc(kinds, func(k selection.Kind) bool {
		if !w.o.Selection.Watches(k) {
			return true
		}
		for _, p := range w.places(k) {
			if f := w.feed(p); f == nil || f.hasGone() {
				return false
			}
		}
		return true
	})
}

func (f *feed) hasGone() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gone
}

// lookSoon has discover look at once.
func (w *Watcher) lookSoon() {
	select {
	case w.looks <- struct{}{}:
	default:
	}
}

// isMissing tells errors that mean that the kind isn't served.
func isMissing(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && apierrors.IsNotFound(err)
}
