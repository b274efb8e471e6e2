package rebuild

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"
)

// rehearse makes up to n dry runs of what is held back and due, those that were never made first. again is the time to the next one
// of an object that doesn't change. Its error says that the API server is down.
func (r *reconciler) rehearse(ctx context.Context, n int, again time.Duration) error {
	var list []*item
	for _, id := range sortedTargets(r.items) {
		if it := r.items[id]; r.rehearses(it) && it.rehearsed == "" {
			list = append(list, it)
		}
	}
	for _, id := range sortedTargets(r.items) {
		if it := r.items[id]; r.rehearses(it) && it.rehearsed != "" {
			list = append(list, it)
		}
	}
	list = list[:min(n, len(list))]
	errs := make([]error, len(list))
	g, limited := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for i, it := range list {
		g.Go(func() error {
			errs[i] = r.rehearseOne(limited, it)
			if down(errs[i]) {
				return errs[i]
			}
			return nil
		})
	}
	err := g.Wait()
	for i, it := range list {
		if down(errs[i]) || err != nil && errs[i] != nil {
			continue
		}
		it.rehearsed = it.p.hash
		it.rehearsal = r.now().Add(again)
		if errs[i] == nil {
			it.taken()
			continue
		}
		r.refuse(it, reasonOf(it.p.ref, errs[i]))
		if it.next.Before(it.rehearsal) {
			it.rehearsal = it.next // what it needs may come
		}
	}
	r.tell()
	return err
}

func (r *reconciler) rehearseOne(ctx context.Context, it *item) error {
	if why, ok := r.denied[it.p.gvr.GroupResource()]; ok {
		return refused(why)
	}
	if err := r.body(it); err != nil {
		return refused(err.Error())
	}
	r.m.rehearsed(ctx)
	_, err := r.srv.apply(ctx, it.p, "", true)
	if errors.Is(err, errExists) {
		return r.meetRehearsed(ctx, it)
	}
	if err == nil {
		it.p.obj, it.prepared = nil, false
	}
	return err
}

// meetRehearsed deals with an object that is held back and exists all the same.
func (r *reconciler) meetRehearsed(ctx context.Context, it *item) error {
	live, err := r.srv.get(ctx, it.p)
	switch {
	case err != nil:
		return err
	case live == nil:
		return errReplaced
	case r.isOurs(live):
		r.note(it, live) // released, by a release that this process doesn't know of
		return nil
	}
	return foreign(live)
}
