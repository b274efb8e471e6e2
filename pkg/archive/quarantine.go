package archive

import (
	"context"
	"errors"
	"slices"
)

// errSpoiled says that damage was quarantined while a run went on, which may rely on it.
var errSpoiled = errors.New("damage was found in the archive while the point was archived: archive it again")

// Quarantine notes what is damaged, so that it heals: no run takes a chunk of a damaged pack for stored, or builds on a point
// that needs one. The next run of whoever still has the content reads and stores it anew, which makes the earlier points that share it
// whole, too; and the next Prune after that deletes the damaged packs. Until then, or until the damaged points are removed, nothing is deleted.
//
// Every listed point counts as damaged that isn't among whole, the barriers of those that a Check found whole: points that were listed
// meanwhile may rely on the same. Runs that go on take their points back.
//
// What isn't damaged after all, since the store gave something wrong once, is stored a second time; no more comes of it. It tells whether anything
// was noted that wasn't before.
func (a *Archive) Quarantine(ctx context.Context, damaged []Damage, whole []uint64) (bool, error) {
	known, err := condemnations(ctx, a.store)
	if err != nil {
		return false, err
	}
	c := &condemnation{Quarantine: true}
	doubt := func(barrier uint64) {
		if !slices.ContainsFunc(known, func(k *condemnation) bool { return slices.Contains(k.Damaged, barrier) }) {
			c.Damaged = append(c.Damaged, barrier)
		}
	}
	for _, d := range damaged {
		if _, ok := parsePack(d.Object); ok && !slices.ContainsFunc(known, func(k *condemnation) bool { return slices.Contains(k.Packs, d.Object) }) {
			c.Packs = append(c.Packs, d.Object)
		}
		for _, barrier := range d.Points {
			doubt(barrier)
		}
	}
	if len(c.Packs) == 0 && len(c.Damaged) == 0 {
		return false, nil
	}
	if err := c.put(ctx, a.store); err != nil {
		return false, err
	}
	// A point that is listed from here on is one of a run that sees this, and takes it back.
	points, _, err := a.Points(ctx)
	if err != nil {
		return true, err
	}
	for _, p := range points {
		if !slices.Contains(whole, p.Barrier) {
			doubt(p.Barrier)
		}
	}
	slices.Sort(c.Damaged)
	c.Damaged = slices.Compact(c.Damaged)
	return true, c.await(ctx, a.store)
}
