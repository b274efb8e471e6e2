package rebuild

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// sweep deletes the strays that are due, in the reverse order of the phases. Its error says that the API server is down.
func (r *reconciler) sweep(ctx context.Context) error {
	if r.form != formHeld || len(r.strays) == 0 {
		return nil
	}
	now := r.now()
	for p := phases - 1; p >= 0; p-- {
		var list []*stray
		var targets []target
		for t, s := range r.strays {
			if s.kind.phase == p && !now.Before(s.next) {
				list, targets = append(list, s), append(targets, t)
			}
		}
		gone, errs := make([]bool, len(list)), make([]error, len(list))
		g, limited := errgroup.WithContext(ctx)
		g.SetLimit(workers)
		for i, s := range list {
			g.Go(func() error {
				gone[i], errs[i] = r.remove(limited, s)
				if down(errs[i]) {
					return errs[i]
				}
				return nil
			})
		}
		err := g.Wait()
		for i, s := range list {
			switch {
			case gone[i]:
				delete(r.strays, targets[i])
			case errs[i] == nil || err != nil:
			default:
				if s.refusal == "" {
					s.since = now
				}
				s.refusal = "is to be deleted: " + reasonOf(s.ref, errs[i])
				s.next = now.Add(retryIn(s.fails))
				s.fails++
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// remove deletes one stray, and tells whether it is no concern any more.
func (r *reconciler) remove(ctx context.Context, s *stray) (gone bool, err error) {
	head, err := r.srv.head(ctx, s.gvr, s.ref.Namespace, s.ref.Name)
	switch {
	case err != nil:
		return false, err
	case head == nil || string(head.UID) != s.uid || head.Labels[LabelGroup] != r.group || head.Annotations[AnnotationReleased] != "":
		return true, nil // it isn't the one that was made, or was given to somebody else
	case head.DeletionTimestamp != nil && s.fails < patience:
		s.fails++
		s.next = r.now().Add(time.Second)
		return false, nil
	case head.DeletionTimestamp != nil:
		return false, refused(fmt.Sprintf("its deletion hasn't ended: finalizers %v", head.Finalizers))
	}
	if s.kind.phase == phaseNamespaces || s.kind.phase == phaseCRDs {
		if err := r.empty(ctx, s); err != nil {
			return false, err
		}
	}
	err = r.srv.remove(ctx, s.gvr, s.ref.Namespace, s.ref.Name, types.UID(s.uid), head.ResourceVersion)
	if errors.Is(err, errReplaced) {
		return false, refused("is being changed by somebody else")
	}
	if err == nil {
		r.m.wrote(ctx, "delete")
		s.next = r.now().Add(time.Second) // what is in a namespace takes a while to go
		return s.kind.phase != phaseNamespaces && s.kind.phase != phaseCRDs, nil
	}
	return false, err
}

// empty tells whether a namespace or a definition that Farshore made holds nothing of others: deleting it deletes all that
// is in it.
func (r *reconciler) empty(ctx context.Context, s *stray) error {
	namespace := ""
	if s.kind.phase == phaseNamespaces {
		namespace = s.ref.Name
	}
	for _, k := range r.kinds {
		defined := k.gvr.Resource+"."+k.gvr.Group == s.ref.Name
		if namespace == "" && !defined || namespace != "" && (!k.namespaced || kindOf(k.gvr.GroupResource(), nil).never) {
			continue
		}
		var found error
		err := r.srv.eachHead(ctx, k.gvr, namespace, "", func(o *metav1.PartialObjectMetadata) {
			if found == nil {
				found = r.keeps(s, k, o)
			}
		})
		switch {
		case apierrors.IsNotFound(err):
		case err != nil && !down(err):
			return refused(fmt.Sprintf("whether it is empty can't be told: %v", err))
		case err != nil:
			return err
		case found != nil:
			return found
		}
	}
	return nil
}

// keeps tells why an object keeps what it is in from being deleted; nil: it doesn't.
func (r *reconciler) keeps(s *stray, k served, o *metav1.PartialObjectMetadata) error {
	switch {
	case metav1.GetControllerOf(o) != nil: // it comes and goes with its owner
	case k.gvr.Resource == "endpoints": // with its Service
	case k.gvr.Resource == "serviceaccounts" && o.Name == "default", k.gvr.Resource == "configmaps" && o.Name == "kube-root-ca.crt":
	case o.Labels[LabelGroup] == r.group && o.Annotations[AnnotationHash] != "" && o.Annotations[AnnotationReleased] == "":
		return refused(fmt.Sprintf("%s %s, which Farshore made, is still there", k.gvr.Resource, o.Name))
	default:
		return refused(fmt.Sprintf("it holds %s %s, which Farshore did not make", k.gvr.Resource, o.Name))
	}
	return nil
}
