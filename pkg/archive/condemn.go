package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/farshore/farshore/pkg/archive/store"
)

// How packs are deleted beside runs
//
// What runs do:
//
//	R1  a run takes its lease, then reads what is condemned, then lists the packs, and takes a chunk for stored only if a pack holds it that is
//	    in that listing and not condemned; an earlier point is built on only if it was listed after the lease was taken.
//	R2  its packs have names that no pack ever had: each has random bytes in it.
//	R3  it lists its point while it has its lease: it renews it before and after. Where that fails afterwards it takes the point back.
//
// What prunes do:
//
//	P1  a pack is condemned for good: it will be deleted, whoever needs its chunks. It is condemned by an object in the store, before the
//	    leases of runs are listed; the deletion waits for the runs of that listing.
//	P2  when those are gone, the points are listed, then what is condemned, then the packs. Each chunk that a point needs is in a pack
//	    that isn't condemned, or is copied to a new pack first. Then the condemned packs are deleted, and the object last.
//	P3  before a point is removed, the same is done for its chunks, whatever the deletions still wait for.
//
// No listed point loses a chunk: let H be the last of the packs with the chunk to be looked at by P2 before being deleted, while the
// point was listed. Then there was another that was not condemned, and if that is deleted too it was condemned later, hence looked at later: H was not the last. Nor does a point come too late
// to be seen: a run that relied on H found it not condemned, so its lease was there before the leases were listed (P1, R1), and its point is listed before
// that lease is gone (R3), hence before the points are (P2). This holds for any number of prunes at once; their lock only saves work. A run that builds on a point relies on packs
// of that point without looking at them. Packs that were condemned when it began hold nothing that the point alone depends on by the time the point is
// removed (P3); packs condemned later wait for the run.

// condemnedFolder has an object for each set of packs that are to be deleted.
const condemnedFolder = "condemned/"

// condemnation is such an object.
type condemnation struct {
	name  string
	Packs []string `json:"packs"`
	Runs  []string `json:"runs"` // leases that the deletion waits for; nil: nobody has looked yet
	// Quarantine tells that the packs are damaged, not superfluous.
	Quarantine bool `json:"quarantine,omitempty"`
	// Damaged are barriers of points that need something which is damaged: nothing is built on them.
	Damaged []uint64 `json:"damaged,omitempty"`
}

// ready tells whether nobody who is alive can need the packs without being seen.
func (c *condemnation) ready(alive []leaseState) bool {
	return c.Runs != nil && !slices.ContainsFunc(alive, func(l leaseState) bool { return slices.Contains(c.Runs, l.id) })
}

// put stores the condemnation.
func (c *condemnation) put(ctx context.Context, s store.Store) error {
	if c.name == "" {
		c.name = condemnedFolder + uuid.NewString()
	}
	content, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return s.Put(ctx, c.name, content)
}

// await notes the runs that are alive, which the deletion waits for. The condemnation is stored already (P1).
func (c *condemnation) await(ctx context.Context, s store.Store) error {
	alive, err := leases(ctx, s, runLeases)
	if err != nil {
		return err
	}
	c.Runs = []string{}
	for _, l := range alive {
		c.Runs = append(c.Runs, l.id)
	}
	return c.put(ctx, s)
}

// there tells whether an object is in a store. That it can't be read, once, is no proof that it was deleted: something between may have said so.
func there(ctx context.Context, s store.Store, object string) (bool, error) {
	for info, err := range s.List(ctx, object) {
		if err != nil || info.Name == object {
			return err == nil, err
		}
	}
	return false, nil
}

func errFlickers(object string) error {
	return fmt.Errorf("the store lists %s and says that it isn't there; is something between that answers for it?", object)
}

// condemnations reads what is condemned. One that disappears meanwhile is done: its packs are gone.
func condemnations(ctx context.Context, s store.Store) ([]*condemnation, error) {
	var out []*condemnation
	for info, err := range s.List(ctx, condemnedFolder) {
		if err != nil {
			return nil, err
		}
		content, err := s.Get(ctx, info.Name, 0, -1)
		switch {
		case errors.Is(err, store.ErrNotFound):
			if there, err := there(ctx, s, info.Name); err != nil || there {
				return nil, errors.Join(err, errFlickers(info.Name))
			}
			continue
		case err != nil:
			return nil, err
		}
		c := &condemnation{name: info.Name}
		if err := json.Unmarshal(content, c); err != nil {
			return nil, &DamageError{Object: info.Name, Reason: "it is no list of packs: " + err.Error() + `; "farshore archive check" finds out what is there still, then the object can be deleted`}
		}
		out = append(out, c)
	}
	return out, nil
}
