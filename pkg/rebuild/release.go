package rebuild

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Release undoes the holding, in the order of Phases, and returns once every object was released or was refused often enough; ctx
// bounds the wait, not the release, which Run does. From its call on the state is frozen, nothing is held or deleted any more, and
// what is released is not touched again. A release that had ended is asked for again for what was refused alone. The caller makes it
// durable, before, that a release was asked for, and resumes it after a restart (Resume). progress may be nil.
func (r *Rebuilder) Release(ctx context.Context, progress func(Progress)) (Progress, error) {
	r.mu.Lock()
	switch {
	case r.progress.Mode == ModeStandby && r.wanted == nil:
		r.mu.Unlock()
		return Progress{}, ErrNoState
	case r.progress.Mode == ModeStandby:
		r.progress = Progress{Mode: ModeReleasing, Since: now(), Point: r.wanted.Point()}
		r.stir()
	case r.progress.Mode == ModeReleased && len(r.progress.Failed) > 0:
		r.only, r.again = failed(r.progress), true
		r.progress = Progress{Mode: ModeReleasing, Since: r.progress.Since, Point: r.progress.Point}
		r.stir()
	}
	for {
		p, moved := r.progress, r.moved
		r.mu.Unlock()
		if progress != nil {
			progress(p)
		}
		if p.Mode == ModeReleased {
			return p, nil
		}
		select {
		case <-ctx.Done():
			return p, ctx.Err()
		case <-moved:
		}
		r.mu.Lock()
	}
}

// failed names what a release could not release.
func failed(p Progress) map[target]bool {
	out := make(map[target]bool)
	for _, s := range p.Failed {
		out[target{s.Object.Group, s.Object.Resource, s.Object.Namespace, s.Object.Name}] = true
	}
	return out
}

// Progress tells how far a release is.
func (r *Rebuilder) Progress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.progress
}

// Plan tells what a release of the newest state would do, each step tried by a server-side dry run. It writes nothing.
func (r *Rebuilder) Plan(ctx context.Context) (*Plan, error) {
	r.mu.Lock()
	state, rules := r.wanted, r.rules
	r.mu.Unlock()
	if state == nil {
		return nil, ErrNoState
	}
	rec := r.reconciler()
	rec.adopt(state, rules, formReleased, true)
	if err := rec.look(ctx); err != nil {
		return nil, err
	}
	var list []*item
	plan := &Plan{Point: state.Point()}
	for _, id := range sortedTargets(rec.items) {
		it := rec.items[id]
		switch {
		case it.p == nil || it.broken != "":
			plan.Steps = append(plan.Steps, Step{Object: refOf(it.entry.Key), Action: ActionCreate, Refused: it.broken})
		case rec.releases(it):
			list = append(list, it)
		}
	}
	slices.SortStableFunc(list, func(a, b *item) int { return int(a.p.kind.phase - b.p.kind.phase) })
	steps, err := rec.tryAll(ctx, list)
	plan.Steps = append(plan.Steps, steps...)
	return plan, err
}

// tryAll makes a step of every item, tried by a dry run.
func (r *reconciler) tryAll(ctx context.Context, list []*item) ([]Step, error) {
	steps := make([]Step, len(list))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for i, it := range list {
		g.Go(func() error {
			err := r.try(ctx, it, &steps[i])
			if down(err) {
				return fmt.Errorf("rehearse %s: %w", steps[i].Object, err)
			}
			if err != nil {
				steps[i].Refused = reasonOf(it.p.ref, err)
			}
			return nil
		})
	}
	err := g.Wait()
	return steps, err
}

func (r *reconciler) try(ctx context.Context, it *item, s *Step) error {
	s.Object, s.Phase = it.p.ref, it.p.kind.phase.String()
	held, err := r.heldForm(it)
	if err != nil {
		return refused(err.Error())
	}
	s.Detail = detail(held)
	switch {
	case it.released:
		s.Action = ActionDone
		return nil
	case it.uid == "":
		s.Action = ActionCreate
	case len(held.held) > 0 && !it.p.ended:
		s.Action = ActionRelease
	default:
		s.Action = ActionKeep
	}
	if it.p.ended {
		s.Detail = "has ended at the primary: stays suspended"
	}
	if err := r.body(it); err != nil {
		return refused(err.Error())
	}
	r.m.rehearsed(ctx)
	_, err = r.srv.apply(ctx, it.p, it.uid, true)
	if !errors.Is(err, errExists) {
		return err
	}
	live, err := r.srv.get(ctx, it.p)
	if err != nil || live == nil {
		return err
	}
	if it.p.kind.shared && equalEnough(it.p.ref.Kind, it.p.obj, live.Object) {
		s.Action = ActionKeep
		return nil
	}
	return foreign(live)
}

// heldForm prepares it as it is applied before a release.
func (r *reconciler) heldForm(it *item) (*prepared, error) {
	other := *r
	other.form = formHeld
	return other.make(it)
}

// detail tells what a release changes, such as "spec.replicas 0 → 3".
func detail(p *prepared) string {
	var out []string
	for _, path := range sortedKeys(p.held) {
		if strings.HasPrefix(path, "webhooks[") {
			continue // tells little in many words
		}
		now, _, _ := unstructured.NestedFieldNoCopy(p.obj, strings.Split(path, ".")...)
		out = append(out, fmt.Sprintf("%s %s → %s", path, brief(now), brief(p.held[path])))
	}
	if len(out) == 0 && len(p.held) > 0 {
		return fmt.Sprintf("%d selectors match again", len(p.held))
	}
	return strings.Join(out, ", ")
}

// brief writes a value as JSON; an absent one as "none".
func brief(v any) string {
	if v == nil {
		return "none"
	}
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(body)
}
