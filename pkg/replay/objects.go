package replay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/objects"
)

// ErrNoObjects means that a point has no Kubernetes objects: the group captured none then.
var ErrNoObjects = errors.New("the recovery point has no Kubernetes objects")

// Objects recovers the group's Kubernetes objects at the target, and nothing else, as Run does. It leaves no files; o.Into is
// not used. Only points that have objects count, and of those all whose objects can be recovered, whatever became of
// their volumes. A group without such a point gives ErrNoObjects.
func Objects(ctx context.Context, o Options) (*objects.View, Point, error) {
	r := newRun(o)
	r.objects = true
	hold, err := holdBase(ctx, o.Dir, r.log)
	if err != nil {
		return nil, Point{}, err
	}
	defer hold()
	h, err := open(ctx, &o)
	if err != nil {
		return nil, Point{}, err
	}
	if err := h.without(o.Target); err != nil {
		return nil, Point{}, err
	}
	h.objectsOnly()
	if len(h.commits)+len(h.archived) == 0 {
		return nil, Point{}, h.explain(fmt.Errorf("group %s: %w", o.Group, ErrNoObjects))
	}
	var view *objects.View
	var at Point
	err = r.reach(h, nil, func(point *Point) (err error) {
		at = *point
		view, err = r.recoverObjects(ctx, h, point)
		return err
	})
	if err != nil {
		return nil, Point{}, err
	}
	return view, at, nil
}

// without says so of a target that names one point, by number or label, which has no objects.
func (h *history) without(target string) error {
	if _, err := time.Parse(time.RFC3339Nano, target); err == nil || target == Latest {
		return nil
	}
	points := h.points()
	if i, err := find(points, target); err == nil && !points[i].Objects {
		return fmt.Errorf("%s: %w", describe(&points[i]), ErrNoObjects)
	}
	return nil // what is wrong else is told later
}

// objectsOnly leaves of the commits and of the archived points what they say of objects.
func (h *history) objectsOnly() {
	commits := h.commits
	h.commits = nil
	for _, c := range commits {
		if c.Objects == nil {
			continue
		}
		only := *c
		only.Vector = nil
		h.commits = append(h.commits, &only)
	}
	var kept []*archived
	for _, a := range h.archived {
		if a.set.Volumes[journal.Objects].State == replica.Member {
			kept = append(kept, a.only(func(part string) bool { return part == journal.Objects }))
		}
	}
	h.archived = kept
}

// recoverObjects works in a directory that is gone when it returns: the view goes on with the file that it has open.
func (r *run) recoverObjects(ctx context.Context, h *history, point *Point) (_ *objects.View, err error) {
	r.read.Store(0)
	dir, err := os.MkdirTemp("", "farshore-objects-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the objects: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	meter := newMeter(r.o.Progress, *point, r.began)
	defer meter.stop()
	list, release := r.bases(h, point)
	defer release()
	if len(list) == 0 {
		return nil, errMovedOn(point)
	}
	done := make(map[string]extent)
	if err := r.place(ctx, &list[0], dir, done, func() error { return nil }, meter); err != nil {
		return nil, err
	}
	set, err := r.fill(ctx, h, dir, point, meter)
	if err != nil {
		return nil, err
	}
	view := set.Objects()
	if err := set.Close(); err != nil {
		return nil, err
	}
	if view == nil {
		return nil, ErrNoObjects
	}
	meter.finish()
	return view, nil
}
