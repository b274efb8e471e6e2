package rebuild

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const (
	// rounds is how often a pass tries what is refused because something that it depends on came later.
	rounds = 3
	// serveWait is how long a pass waits for a definition to be served.
	serveWait = 10 * time.Second
	// poll is the time between two looks at something that is waited for.
	poll = 50 * time.Millisecond
	// goneWait is how long a replacement waits for the deletion of what it replaces.
	goneWait = 5 * time.Second
)

// pass tries everything that should be applied and is due, in the order of the phases. Its error says that the API server
// is down, or that ctx ended; the rest was not tried then.
func (r *reconciler) pass(ctx context.Context) error {
	now := r.now()
	todo := make(map[*item]bool)
	for _, it := range r.items {
		if r.wants(it) && !now.Before(it.next) {
			todo[it] = true
		}
	}
	for range rounds {
		if len(todo) == 0 {
			return nil
		}
		before := len(todo)
		for p := range phases {
			if err := r.passPhase(ctx, p, todo); err != nil {
				return err
			}
		}
		if len(todo) == before {
			return nil // nothing that the others could depend on changed
		}
	}
	return nil
}

// passPhase tries what todo has of one phase, and takes from it what is in place.
func (r *reconciler) passPhase(ctx context.Context, p phase, todo map[*item]bool) error {
	var list []*item
	for it := range todo {
		if it.p.kind.phase == p {
			list = append(list, it)
		}
	}
	errs := make([]error, len(list))
	g, limited := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for i, it := range list {
		g.Go(func() error {
			errs[i] = r.settle(limited, it)
			if down(errs[i]) {
				return errs[i]
			}
			return nil
		})
	}
	err := g.Wait()
	for i, it := range list {
		switch {
		case down(errs[i]) || err != nil && errs[i] != nil:
		case errs[i] != nil:
			r.refuse(it, reasonOf(it.p.ref, errs[i]))
		case !r.wants(it):
			it.taken()
			delete(todo, it)
		}
	}
	if err == nil && p == phaseCRDs {
		err = r.awaitServed(ctx, list, todo)
	}
	if r.after != nil && len(list) > 0 {
		r.after()
	}
	return err
}

// refused is a reason that isn't the API server's.
type refused string

func (r refused) Error() string { return string(r) }

// settle makes the object of it what it should be. nil: it is; an error that isn't down: it is refused.
func (r *reconciler) settle(ctx context.Context, it *item) error {
	if it.p.kind.phase == phaseCRDs && it.have == it.p.hash {
		return nil // waits to be served
	}
	if why, ok := r.denied[it.p.gvr.GroupResource()]; ok {
		return refused(why)
	}
	if err := r.body(it); err != nil {
		return refused(err.Error())
	}
	for range rounds {
		err := r.attempt(ctx, it)
		if !errors.Is(err, errReplaced) {
			return err
		}
		it.lost()
	}
	return refused("is made and deleted by somebody else all the time")
}

// body prepares it where that was let go of.
func (r *reconciler) body(it *item) error {
	if it.prepared {
		return nil
	}
	p, err := r.make(it)
	if err == nil {
		it.p, it.prepared = p, true
	}
	return err
}

func (r *reconciler) attempt(ctx context.Context, it *item) error {
	if it.accepted {
		it.accepted = false
		return r.meet(ctx, it)
	}
	err := r.send(ctx, it)
	if errors.Is(err, errExists) {
		return r.meet(ctx, it)
	}
	return err
}

// send creates the object or changes the one that it is.
func (r *reconciler) send(ctx context.Context, it *item) error {
	out, err := r.srv.apply(ctx, it.p, it.uid, false)
	if err != nil && it.uid != "" && immutable(err) {
		return r.replace(ctx, it, err)
	}
	if err == nil {
		r.sent(ctx, it, out, "apply")
	}
	return err
}

// sent notes what the API server answered.
func (r *reconciler) sent(ctx context.Context, it *item, out *metav1.PartialObjectMetadata, action string) {
	if it.revision != out.ResourceVersion {
		r.m.wrote(ctx, action)
	}
	it.found(out.UID, out.ResourceVersion)
	it.have, it.settled, it.released = it.p.hash, out.ResourceVersion, r.form == formReleased
	it.p.obj, it.prepared = nil, false
}

// meet deals with an object that exists and that wasn't made as far as is known: it is Farshore's from before, or
// somebody else's.
func (r *reconciler) meet(ctx context.Context, it *item) error {
	live, err := r.srv.get(ctx, it.p)
	if err != nil {
		return err
	}
	if live == nil {
		return errReplaced // gone since: once more
	}
	if r.isOurs(live) {
		r.note(it, live)
		if it.released || it.have == it.p.hash {
			return nil
		}
		return r.send(ctx, it)
	}
	if !it.p.kind.shared || !equalEnough(it.p.ref.Kind, it.p.obj, live.Object) {
		it.lost()
		return foreign(live)
	}
	it.found(live.GetUID(), live.GetResourceVersion())
	it.accepted, it.have = true, it.p.hash
	it.established = it.p.kind.phase == phaseCRDs && established(live.Object)
	return nil
}

func (r *reconciler) isOurs(live *unstructured.Unstructured) bool {
	return live.GetLabels()[LabelGroup] == r.group
}

func foreign(live *unstructured.Unstructured) error {
	if other := live.GetLabels()[LabelGroup]; other != "" {
		return refused(fmt.Sprintf("exists already and belongs to the protection group %s: it is left alone", other))
	}
	return refused("exists already and was not made by Farshore: it is left alone; delete or rename it to let this one in")
}

// replace deletes the object and creates it again, where nothing is lost by that. cause is what refuses a change.
func (r *reconciler) replace(ctx context.Context, it *item, cause error) error {
	if !it.p.kind.replace || it.released {
		return cause
	}
	head, err := r.srv.head(ctx, it.p.gvr, it.p.ref.Namespace, it.p.ref.Name)
	switch {
	case err != nil:
		return err
	case head == nil || string(head.UID) != it.uid:
		return errReplaced
	case head.Annotations[AnnotationReleased] != "":
		it.released = true // by a release that this process doesn't know of
		return nil
	case r.form == formReleased && it.p.kind.hold != nil && head.Annotations[AnnotationHeld] == "" && !it.p.ended:
		return cause // it may be at work
	}
	if err := r.srv.remove(ctx, it.p.gvr, it.p.ref.Namespace, it.p.ref.Name, head.UID, head.ResourceVersion); err != nil {
		return err
	}
	it.lost()
	for deadline := r.now().Add(goneWait); ; {
		out, err := r.srv.apply(ctx, it.p, "", false)
		switch {
		case err == nil:
			r.sent(ctx, it, out, "replace")
			return nil
		case !errors.Is(err, errExists):
			return err
		case r.now().After(deadline):
			return refused("is being replaced, and its deletion hasn't ended: does a finalizer keep it?")
		}
		if err := pause(ctx, poll); err != nil {
			return err
		}
	}
}

// awaitServed waits until the definitions of list that are in place are served.
func (r *reconciler) awaitServed(ctx context.Context, list []*item, todo map[*item]bool) error {
	for deadline := r.now().Add(serveWait); ; {
		waiting := 0
		for _, it := range list {
			if it.have != it.p.hash || it.established {
				continue
			}
			live, err := r.srv.get(ctx, it.p)
			switch {
			case down(err):
				return err
			case err != nil:
				r.refuse(it, reasonOf(it.p.ref, err))
			case live == nil:
				it.lost()
			case established(live.Object):
				it.established = true
				it.taken()
				delete(todo, it)
			case r.now().After(deadline):
				r.refuse(it, "is not served: "+conditionsOf(live.Object))
			default:
				waiting++
			}
		}
		if waiting == 0 {
			return nil
		}
		if err := pause(ctx, poll); err != nil {
			return err
		}
	}
}

// established tells whether a definition is served.
func established(obj map[string]any) bool {
	for _, c := range conditions(obj) {
		if c["type"] == "Established" && c["status"] == "True" {
			return true
		}
	}
	return false
}

// conditionsOf tells what a definition's conditions complain of.
func conditionsOf(obj map[string]any) string {
	out := "it has not been accepted yet"
	for _, c := range conditions(obj) {
		if message, _ := c["message"].(string); c["status"] == "False" && message != "" {
			out = message
		}
	}
	return out
}

func conditions(obj map[string]any) (out []map[string]any) {
	list, _, _ := unstructured.NestedSlice(obj, "status", "conditions")
	for _, c := range list {
		if m, ok := c.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

// pause waits, or returns why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
