package archive

import (
	"context"
	"slices"
)

// Quarantine notes what is damaged, so that it heals: no run takes a chunk of a damaged pack for stored, or builds on a point
// that needs one. The next run of whoever still has the content reads and stores it anew, which makes the earlier points that share it
// whole, too; and the next Prune after that deletes the damaged packs. Until then, or until the damaged points are removed, nothing is deleted.
//
// What isn't damaged after all, since the store gave something wrong once, is stored a second time; no more comes of it. It tells whether anything
// was noted that wasn't before.
func (a *Archive) Quarantine(ctx context.Context, damaged []Damage) (bool, error) {
	known, err := condemnations(ctx, a.store)
	if err != nil {
		return false, err
	}
	c := new(condemnation)
	for _, d := range damaged {
		if _, ok := parsePack(d.Object); ok && !slices.ContainsFunc(known, func(k *condemnation) bool { return slices.Contains(k.Packs, d.Object) }) {
			c.Packs = append(c.Packs, d.Object)
		}
		for _, barrier := range d.Points {
			if !slices.ContainsFunc(known, func(k *condemnation) bool { return slices.Contains(k.Damaged, barrier) }) {
				c.Damaged = append(c.Damaged, barrier)
			}
		}
	}
	if len(c.Packs) == 0 && len(c.Damaged) == 0 {
		return false, nil
	}
	slices.Sort(c.Damaged)
	c.Damaged = slices.Compact(c.Damaged)
	if err := c.put(ctx, a.store); err != nil {
		return false, err
	}
	return true, c.await(ctx, a.store)
}
