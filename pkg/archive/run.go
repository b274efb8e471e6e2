package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/farshore/farshore/internal/grid"
)

// Run writes one point. Its methods are not to be called concurrently.
type Run struct {
	a      *Archive
	packer *packer
	lease  *lease // nil: given up
	// condemned are packs that may be deleted while the run goes on: nothing in them counts as stored.
	condemned   map[packName]struct{}
	quarantines map[string]bool // those that the run knows of
	// roots are those of the points that were listed when the run began, without those that are known to be damaged.
	roots map[ID]struct{}
	err   error // that ended the run
}

// Source is a part of a point that is to be archived.
type Source struct {
	Name string
	Size int64 // bytes
	// Image gives the content. It is asked for each wanted chunk once, whole and in order, by several goroutines at once.
	Image io.ReaderAt
	// Before is the part in an earlier point; what is not in Changed is as it was there. Nil: everything is read.
	Before *Part
	// Changed is what may differ from Before; nil: everything may. What lies behind Before's end always does.
	Changed *grid.Set
	// Progress is told of bytes of the image that were read. Nil: nobody is.
	Progress func(bytes int64)
}

// ErrAbandoned means that a run was taken for dead, and that what it relied on is gone.
var ErrAbandoned = errors.New("the run was taken for dead, and chunks that its point needs were deleted: archive the point again")

var errEnded = errors.New("the run has ended")

// Begin begins a run. As long as it goes on, nothing that it stores or relies on is deleted. A run that dies is abandoned; what
// it stored is used by the next ones, or collected by Prune. A store that has the archive no longer is ErrNone; nothing is written to it.
func (a *Archive) Begin(ctx context.Context) (*Run, error) {
	if err := a.present(ctx); err != nil {
		return nil, err
	}
	r := &Run{a: a, packer: a.newPacker()}
	if err := r.hold(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// hold sees to it that nothing the run relies on is deleted; condemn.go says why this order is needed.
func (r *Run) hold(ctx context.Context) (err error) {
	if r.lease, err = takeLease(ctx, r.a.store, runLeases, r.a.times); err != nil {
		return err
	}
	condemned, err := condemnations(ctx, r.a.store)
	if err != nil {
		return err
	}
	r.condemned, r.quarantines = make(map[packName]struct{}), make(map[string]bool)
	damaged := make(map[uint64]bool)
	for _, c := range condemned {
		r.quarantines[c.name] = c.Quarantine
		for _, object := range c.Packs {
			if name, ok := parsePack(object); ok {
				r.condemned[name] = struct{}{}
			}
		}
		for _, barrier := range c.Damaged {
			damaged[barrier] = true
		}
	}
	if err := r.a.refresh(ctx); err != nil {
		return err
	}
	points, _, err := r.a.Points(ctx)
	if err != nil {
		return err
	}
	r.roots = make(map[ID]struct{})
	for _, p := range points {
		if damaged[p.Barrier] {
			continue
		}
		for _, part := range p.Parts {
			r.roots[part.Root] = struct{}{}
		}
	}
	return nil
}

// Trusts tells whether the run builds on a part of an earlier point. On one that isn't listed any more, or that was quarantined, it
// doesn't: a Source that has it as Before is read as a whole.
func (r *Run) Trusts(before *Part) bool {
	_, listed := r.roots[before.Root]
	return listed || before.Root.IsZero()
}

// known tells which chunks are in the store, in packs that stay, or on their way there.
func (r *Run) known(ids []ID, known []bool) error {
	clear(known)
	return r.a.index.find(ids, func(i int, p place) bool {
		if _, condemned := r.condemned[p.pack]; condemned {
			return true
		}
		known[i] = true
		return false
	})
}

// Commit lists the point, of whose fields the run sets Created and Added: from then on it can be restored. Everything that it
// needs is durable before. A point of the same barrier that is there already is replaced.
func (r *Run) Commit(ctx context.Context, p Point) (Point, error) {
	if r.err != nil {
		return Point{}, r.err
	}
	r.err = errEnded
	if err := r.packer.flush(ctx); err != nil {
		return Point{}, err
	}
	p = p.clone()
	p.Created, p.Added = time.Now().UTC(), r.packer.bytes
	slices.SortFunc(p.Parts, func(a, b Part) int { return strings.Compare(a.Name, b.Name) })
	if err := p.valid(); err != nil {
		return Point{}, err
	}
	data, err := encodePoint(&p, r.a.keys)
	if err != nil {
		return Point{}, err
	}
	if err := r.lease.renew(ctx); errors.Is(err, errLost) {
		if err := r.holdAgain(ctx, p); err != nil {
			return Point{}, err
		}
	} else if err != nil {
		return Point{}, err
	}
	if err := r.a.put(ctx, pointObject(p.Barrier), data); err != nil {
		return Point{}, fmt.Errorf("list the point: %w", err)
	}
	if err := r.lease.renew(ctx); errors.Is(err, errLost) {
		if err := r.holdAgain(ctx, p); err != nil {
			return Point{}, errors.Join(err, r.takeBack(ctx, p))
		}
	} else if err != nil && r.lease.alive() != nil {
		return Point{}, errors.Join(err, r.takeBack(ctx, p))
	}
	if err := r.unspoiled(ctx); err != nil {
		return Point{}, errors.Join(err, r.takeBack(ctx, p))
	}
	return p, nil
}

// takeBack removes the point that was listed, also where the caller is about to end.
func (r *Run) takeBack(ctx context.Context, p Point) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return r.a.store.Delete(ctx, pointObject(p.Barrier))
}

// unspoiled fails where damage was quarantined that the run doesn't know of.
func (r *Run) unspoiled(ctx context.Context) error {
	condemned, err := condemnations(ctx, r.a.store)
	if err != nil {
		return err
	}
	for _, c := range condemned {
		if c.Quarantine && !r.quarantines[c.name] {
			return errSpoiled
		}
	}
	return nil
}

// holdAgain is for a run that was taken for dead: what it relies on may be gone, so all of it is looked for once it is held again.
func (r *Run) holdAgain(ctx context.Context, p Point) error {
	r.a.log.Warn("the run was taken for dead; what its point needs is looked for again", "barrier", p.Barrier)
	r.lease.end(ctx)
	if err := r.hold(ctx); err != nil {
		return err
	}
	for _, part := range p.Parts {
		if err := r.whole(ctx, part); err != nil {
			return fmt.Errorf("part %s: %w", part.Name, err)
		}
	}
	return nil
}

// whole tells whether everything that a part needs is in packs that stay.
func (r *Run) whole(ctx context.Context, part Part) error {
	var ids []ID
	there := make([]bool, fanout)
	look := func() error {
		for some := range slices.Chunk(ids, fanout) {
			if err := r.known(some, there); err != nil {
				return err
			}
			if slices.Contains(there[:len(some)], false) {
				return ErrAbandoned
			}
		}
		ids = ids[:0]
		return nil
	}
	err := r.a.walk(ctx, part.Root, part.Size, 0, visitor{
		enter: func(id ID, _ int, _ int64) (bool, error) {
			ids = append(ids, id)
			return true, look()
		},
		leaf: func(_ int64, chunks []ID) error {
			for _, id := range chunks {
				if !id.IsZero() {
					ids = append(ids, id)
				}
			}
			return look()
		},
	})
	if isDamage(err) {
		err = errors.Join(ErrAbandoned, err)
	}
	return err
}

// Close ends the run. Without Commit there is no point.
func (r *Run) Close() error {
	if r.err == nil {
		r.err = errEnded
	}
	if r.lease != nil {
		r.lease.end(context.Background())
		r.lease = nil
	}
	return nil
}
