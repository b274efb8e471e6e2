package rebuild

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// look finds out what the API server holds of what Farshore made: one list per kind, by label. What is as it should be is
// not written again; what was changed is; what should not exist becomes a stray. Its error says that the API server is down.
func (r *reconciler) look(ctx context.Context) error {
	resources, err := r.srv.resources(ctx)
	if err != nil {
		return fmt.Errorf("discover what the API server serves: %w", err)
	}
	denied := r.denied
	r.kinds, r.denied = resources, make(map[schema.GroupResource]string)
	mine := make(map[schema.GroupResource][]*item)
	versions := make(map[schema.GroupResource]schema.GroupVersionResource)
	for _, it := range r.items {
		if it.broken != "" {
			r.prepare(it) // a durable copy that couldn't be read may be readable now
		}
		if it.p != nil && !it.p.kind.never {
			gr := it.p.gvr.GroupResource()
			mine[gr], versions[gr] = append(mine[gr], it), it.p.gvr
		}
	}
	for gr, items := range mine {
		if err := r.lookAt(ctx, versions[gr], items); err != nil {
			return err
		}
		if denied[gr] != "" && r.denied[gr] == "" { // the right was given: they are tried at once
			forgive(items)
		}
	}
	for _, k := range resources {
		gr := k.gvr.GroupResource()
		if mine[gr] == nil && !kindOf(gr, nil).never {
			if err := r.lookForStrays(ctx, k.gvr); err != nil {
				return err
			}
		}
	}
	return nil
}

// lookAt looks at the objects of a kind that the state has objects of.
func (r *reconciler) lookAt(ctx context.Context, gvr schema.GroupVersionResource, items []*item) error {
	seen := make(map[*item]bool, len(items))
	err := r.srv.each(ctx, gvr, LabelGroup+"="+r.group, func(live *unstructured.Unstructured) {
		t := target{gvr.Group, gvr.Resource, live.GetNamespace(), live.GetName()}
		it := r.at[t]
		if it == nil {
			r.stray(t, gvr, live.GetKind(), live)
			return
		}
		seen[it] = true
		r.note(it, live)
	})
	switch {
	case down(err):
		return fmt.Errorf("list %s: %w", gvr.GroupResource(), err)
	case apierrors.IsNotFound(err):
		return nil // the kind isn't served: the objects are refused one by one
	case err != nil:
		r.denied[gvr.GroupResource()] = err.Error()
		return nil
	}
	for _, it := range items {
		if seen[it] || r.at[it.p.target()] != it {
			continue
		}
		accepted, served := it.accepted, it.established
		it.lost()
		it.accepted = accepted // looked at again by itself
		it.established = served && accepted
	}
	return nil
}

// note takes in what an object that Farshore made is like.
func (r *reconciler) note(it *item, live *unstructured.Unstructured) {
	it.found(live.GetUID(), live.GetResourceVersion())
	it.accepted = false
	annotations := live.GetAnnotations()
	it.released = annotations[AnnotationReleased] != ""
	it.have = annotations[AnnotationHash]
	if it.p.kind.phase == phaseCRDs {
		it.established = established(live.Object)
	}
	if it.released || it.have != it.p.hash || it.settled == it.revision {
		return
	}
	if err := r.body(it); err != nil || !covers(it.p.obj, live.Object) {
		it.have = "" // somebody changed it, or it can't be told
		return
	}
	it.settled = it.revision
	it.p.obj, it.prepared = nil, false
}

// lookForStrays looks for what Farshore made of a kind that the state has no object of.
func (r *reconciler) lookForStrays(ctx context.Context, gvr schema.GroupVersionResource) error {
	err := r.srv.eachHead(ctx, gvr, metav1.NamespaceAll, LabelGroup+"="+r.group, func(live *metav1.PartialObjectMetadata) {
		r.stray(target{gvr.Group, gvr.Resource, live.Namespace, live.Name}, gvr, "", live)
	})
	if down(err) {
		return fmt.Errorf("list %s: %w", gvr.GroupResource(), err)
	}
	return nil // nothing is made of a kind that may not be listed
}

// stray notes an object that should not exist, unless it was released or was made on behalf of one that should.
func (r *reconciler) stray(t target, gvr schema.GroupVersionResource, kindName string, live metav1.Object) {
	if live.GetAnnotations()[AnnotationReleased] != "" || live.GetAnnotations()[AnnotationHash] == "" {
		return // the label alone may have been copied by a controller
	}
	s := r.strays[t]
	if s == nil {
		s = &stray{
			ref: Ref{gvr.Group, gvr.Version, gvr.Resource, kindName, t.namespace, t.name},
			gvr: gvr, kind: kindOf(gvr.GroupResource(), nil),
		}
		r.strays[t] = s
	}
	s.uid, s.revision = string(live.GetUID()), live.GetResourceVersion()
}
