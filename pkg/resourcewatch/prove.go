package resourcewatch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/metadata"
)

const (
	proofs    = 8    // asked for at once
	proofPage = 2000 // objects in one answer

	proofTimeout = 10 * time.Second // of a proof that no barrier waits for
)

// stamp is which version of an object existed.
type stamp struct{ uid, revision string }

// newest reads the API server's revision: that of the newest change of anything, confirmed by the storage, not by a cache.
func (w *Watcher) newest(ctx context.Context) (string, error) {
	ctx = quiet(ctx)
	err := errors.New("no kind is watched yet")
	for _, f := range w.feeds() {
		f.mu.Lock()
		usable := f.listed && f.counts()
		f.mu.Unlock()
		if !usable {
			continue
		}
		var list *metav1.PartialObjectMetadataList
		if list, err = w.partial(f).List(ctx, metav1.ListOptions{Limit: 1}); err == nil {
			return list.ResourceVersion, nil
		}
		if !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) {
			break
		}
	}
	return "", fmt.Errorf("read the API server's revision: %w", err)
}

// partial asks for metadata of a feed's objects. For them the API server doesn't send what they hold.
func (w *Watcher) partial(f *feed) metadata.ResourceInterface {
	f.mu.Lock()
	defer f.mu.Unlock()
	return w.metadata.Resource(gvr(f.kind)).Namespace(f.place.namespace)
}

// prove returns once every change up to the revision was received of each kind, and the feeds of which that is so. A kind that a CRD
// has added by then is among them.
func (w *Watcher) prove(ctx context.Context, revision string) ([]*feed, error) {
	if crds := w.crds(); crds != nil {
		if err := w.proveFeed(ctx, crds, revision); err != nil {
			return nil, err
		}
		if err := w.cover(ctx); err != nil {
			return nil, err
		}
	}
	feeds := w.feeds()
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(proofs)
	for _, f := range feeds {
		group.Go(func() error { return w.proveFeed(gctx, f, revision) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return feeds, nil
}

// cover waits until the kinds that CRDs have added are followed.
func (w *Watcher) cover(ctx context.Context) error {
	for {
		missing := w.uncovered()
		if len(missing) == 0 {
			return nil
		}
		w.lookSoon()
		select {
		case <-ctx.Done():
			return fmt.Errorf("follow %s.%s, which a CRD adds: %w", missing[0].Resource, missing[0].Group, ctx.Err())
		case <-time.After(lookAgain / 10):
		}
	}
}

// proveFeed returns once every change up to the revision was received by the feed. Bookmarks come once a minute, so an idle
// kind is proven by a list of its metadata at exactly that revision: what it says existed then is what was received. What
// isn't there yet is waited for: the watch delivers it.
func (w *Watcher) proveFeed(ctx context.Context, f *feed, revision string) error {
	var names map[string]stamp
	for {
		f.mu.Lock()
		changed := f.changed
		done, err := f.prove(revision, names)
		listed, failing := f.listed, f.failing
		f.mu.Unlock()
		if done || err != nil {
			return err
		}
		if listed && names == nil {
			names, err = w.exactly(ctx, f, revision)
			switch {
			case err == nil:
				continue
			case apierrors.IsForbidden(err):
				w.report(ctx, f, "list", err)
				continue
			case !isMissing(err):
				return fmt.Errorf("prove %s: %w", f.place, err)
			}
			w.lookSoon() // the kind may be going away
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("prove %s to have reached revision %s: %w", f.place, revision, errors.Join(ctx.Err(), failing))
		}
	}
}

// prove tells whether every change up to the revision was received. names is everything that existed then, nil where that
// isn't known; f.mu is held.
func (f *feed) prove(revision string, names map[string]stamp) (bool, error) {
	switch {
	case !f.counts():
		return true, nil
	case !f.listed:
		return false, nil
	case f.whole && after(f.reached, revision):
		if names == nil {
			return false, nil
		}
		if !f.cut(revision, names) {
			return false, fmt.Errorf("%w: %s", ErrUnprovable, f.place)
		}
		return true, nil
	case reaches(f.reached, revision):
		return true, nil
	case names != nil && f.has(revision, names):
		f.reach(revision)
		return true, nil
	}
	return false, nil
}

// exactly returns what existed of a feed's kind at the revision.
func (w *Watcher) exactly(ctx context.Context, f *feed, revision string) (map[string]stamp, error) {
	ctx = quiet(ctx)
	out := make(map[string]stamp)
	o := metav1.ListOptions{ResourceVersion: revision, ResourceVersionMatch: metav1.ResourceVersionMatchExact, Limit: proofPage}
	for {
		list, err := w.partial(f).List(ctx, o)
		if err != nil {
			return nil, err
		}
		for i := range list.Items {
			m := &list.Items[i]
			out[m.Name] = stamp{string(m.UID), m.ResourceVersion}
		}
		if list.Continue == "" {
			return out, nil
		}
		o = metav1.ListOptions{Limit: proofPage, Continue: list.Continue}
	}
}

// proveIdle keeps the proven revision young while kinds don't change, until ctx ends. It withholds nothing.
func (w *Watcher) proveIdle(ctx context.Context) error {
	tick := time.NewTicker(w.o.Prove)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if w.tenure() == nil {
			continue
		}
		err := w.proveNow(ctx)
		if err != nil && ctx.Err() == nil {
			w.proveFailed.warn(w.log, "prove how far objects are captured failed", err)
		}
	}
}

func (w *Watcher) proveNow(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	for _, f := range w.feeds() {
		f.mu.Lock()
		_, refused := f.refused["list"]
		asked := refused && f.listed && !f.gone // the reflector doesn't list any more, so it won't find out
		f.mu.Unlock()
		if asked {
			_, err := w.partial(f).List(ctx, metav1.ListOptions{Limit: 1})
			w.report(ctx, f, "list", err)
		}
	}
	at := time.Now()
	revision, err := w.newest(ctx)
	if err != nil {
		return err
	}
	if _, err := w.prove(ctx, revision); err != nil && !errors.Is(err, ErrUnprovable) {
		return err
	}
	w.dates.add(revision, at)
	return nil
}
