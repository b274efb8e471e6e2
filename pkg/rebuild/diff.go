package rebuild

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// DiffKind tells how an object at the DR site differs from what a State makes of it.
type DiffKind string

// The kinds of difference.
const (
	DiffMissing DiffKind = "missing"  // should be there and is not
	DiffChanged DiffKind = "changed"  // is there, with other fields
	DiffExtra   DiffKind = "extra"    // is there, made by Farshore, and the State doesn't have it
	DiffForeign DiffKind = "foreign"  // somebody else's object has the name
	DiffBack    DiffKind = "heldback" // not applied before a release, as it should be
	DiffBroken  DiffKind = "broken"   // can't be told: decryption, mapping, rights
)

// FieldDiff is one field that differs.
type FieldDiff struct {
	Path string `json:"path"`
	Want string `json:"want"` // JSON; "none" where the field should be absent; "(secret)" in Secrets
	Have string `json:"have"` // as Want
}

// Difference is one object that differs.
type Difference struct {
	Object Ref         `json:"object"`
	Kind   DiffKind    `json:"kind"`
	Fields []FieldDiff `json:"fields,omitempty"`
	Reason string      `json:"reason,omitempty"`
}

// Diff compares what state makes with what the API server holds, without writing anything. released tells
// which form is expected. The result is in the order of Phases. An API server that is down is an error.
func Diff(ctx context.Context, o Options, state State, released bool) ([]Difference, error) {
	srv, err := newServer(o.Config)
	if err != nil {
		return nil, err
	}
	m, err := newInstruments(nil, o.Group)
	if err != nil {
		return nil, err
	}
	rec := newReconciler(srv, o.Group, o.NamespacedOnly, slog.New(slog.DiscardHandler), m)
	f := formHeld
	if released {
		f = formReleased
	}
	rec.adopt(state, o.Rules, f, true)
	d := &differ{rec: rec, live: make(map[*item]*unstructured.Unstructured)}
	if err := d.look(ctx); err != nil {
		return nil, err
	}
	return d.compare(ctx)
}

// differ compares.
type differ struct {
	rec  *reconciler
	live map[*item]*unstructured.Unstructured
}

// look lists what Farshore made.
func (d *differ) look(ctx context.Context) error {
	resources, err := d.rec.srv.resources(ctx)
	if err != nil {
		return fmt.Errorf("discover what the API server serves: %w", err)
	}
	versions := make(map[schema.GroupResource]schema.GroupVersionResource)
	for _, k := range resources {
		if !kindOf(k.gvr.GroupResource(), nil).never {
			versions[k.gvr.GroupResource()] = k.gvr
		}
	}
	for _, it := range d.rec.items {
		if it.p != nil && !it.p.kind.never {
			versions[it.p.gvr.GroupResource()] = it.p.gvr
		}
	}
	d.rec.denied = make(map[schema.GroupResource]string)
	for gr, gvr := range versions {
		err := d.rec.srv.each(ctx, gvr, LabelGroup+"="+d.rec.group, func(live *unstructured.Unstructured) {
			t := target{gvr.Group, gvr.Resource, live.GetNamespace(), live.GetName()}
			if it := d.rec.at[t]; it != nil {
				d.live[it] = live
			} else {
				d.rec.stray(t, gvr, live.GetKind(), live)
			}
		})
		switch {
		case down(err):
			return fmt.Errorf("list %s: %w", gr, err)
		case err != nil && !apierrors.IsNotFound(err):
			d.rec.denied[gr] = err.Error()
		}
	}
	return nil
}

func (d *differ) compare(ctx context.Context) ([]Difference, error) {
	ids := sortedTargets(d.rec.items)
	slices.SortStableFunc(ids, func(a, b target) int { return phaseOf(d.rec.items[a]) - phaseOf(d.rec.items[b]) })
	found := make([]*Difference, len(ids))
	g, limited := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for i, id := range ids {
		g.Go(func() (err error) {
			found[i], err = d.difference(limited, d.rec.items[id])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var out []Difference
	for _, f := range found {
		if f != nil {
			out = append(out, *f)
		}
	}
	for _, t := range sortedTargets(d.rec.strays) {
		out = append(out, Difference{Object: d.rec.strays[t].ref, Kind: DiffExtra})
	}
	return out, nil
}

func phaseOf(it *item) int {
	if it.p == nil {
		return -1
	}
	return int(it.p.kind.phase)
}

// difference compares one object; nil: it doesn't differ.
func (d *differ) difference(ctx context.Context, it *item) (*Difference, error) {
	switch {
	case it.broken != "":
		return &Difference{Object: refOf(it.entry.Key), Kind: DiffBroken, Reason: it.broken}, nil
	case it.p.kind.never || it.p.ended && it.p.ref.Kind == "Pod":
		return nil, nil
	}
	out := &Difference{Object: it.p.ref}
	if why, ok := d.rec.denied[it.p.gvr.GroupResource()]; ok {
		out.Kind, out.Reason = DiffBroken, why
		return out, nil
	}
	live := d.live[it]
	if live == nil {
		var err error
		if live, err = d.rec.srv.get(ctx, it.p); err != nil && !apierrors.IsForbidden(err) {
			return nil, fmt.Errorf("read %s: %w", it.p.ref, err)
		}
	}
	switch {
	case live == nil && it.p.kind.back && d.rec.form == formHeld:
		out.Kind = DiffBack
		return out, nil
	case live == nil:
		out.Kind = DiffMissing
		return out, nil
	case !d.rec.isOurs(live):
		if it.p.kind.shared && equalEnough(it.p.ref.Kind, it.p.obj, live.Object) {
			return nil, nil
		}
		out.Kind, out.Reason = DiffForeign, foreign(live).Error()
		return out, nil
	}
	return d.fields(it, live, out), nil
}

// fields compares the fields of what Farshore made.
func (d *differ) fields(it *item, live *unstructured.Unstructured, out *Difference) *Difference {
	out.Kind = DiffChanged
	secret := it.p.ref.Kind == "Secret"
	differences("", it.p.obj, live.Object, func(path string, want, have any) bool {
		f := FieldDiff{path, brief(want), brief(have)}
		if secret {
			f.Want, f.Have = "(secret)", "(secret)"
		}
		if path != below("metadata.annotations", AnnotationHash) {
			out.Fields = append(out.Fields, f)
		}
		return true
	})
	if len(out.Fields) > 0 {
		return out
	}
	if have := live.GetAnnotations()[AnnotationHash]; have != it.p.hash {
		out.Reason = "has fields of an earlier state"
		return out
	}
	return nil
}
