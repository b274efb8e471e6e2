package archive

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/archive"
)

// Points are pruned again and again while the applier archives, and is killed now and then. What is listed at the end restores, what the document
// wants kept is there, and what it doesn't is gone with its room.
func TestPruneBesideTheApplier(t *testing.T) {
	t.Parallel()
	random := harness.Seeded(t)
	const keep = `{last: 4, hourly: 0, daily: 0, weekly: 0, monthly: 0, labels: ["keep-*"]}`
	p, load := begun(t, harness.Options{Archive: "{every: 1s, prune: 0s, keep: " + keep + "}"}, random)
	var kept, dropped []uint64
	var total archive.Pruned
	for i := range 6 {
		load.Progress(t, 200)
		kept = append(kept, p.Mark(fmt.Sprintf("keep-%d", i), limit))
		dropped = append(dropped, p.Mark(fmt.Sprintf("drop-%d", i), limit))
		if i == 3 {
			p.WaitArchived(limit, kept...)
			p.Applier.Kill()
			p.Applier.Start()
		}
		pruned := prune(t, p)
		total.Removed, total.Packs, total.Freed = total.Removed+pruned.Removed, total.Packs+pruned.Packs, total.Freed+pruned.Freed
		<-time.After(upTo(random, time.Second)) // another moment of the applier's runs
	}
	load.Stop()
	p.WaitArchived(limit, kept...)
	// Points go on to be archived: once four newer ones are there, no dropped label is kept for being among the last.
	harness.Eventually(t, limit, "the labels that nothing keeps are gone", func() error {
		pruned := prune(t, p)
		total.Removed, total.Packs, total.Freed = total.Removed+pruned.Removed, total.Packs+pruned.Packs, total.Freed+pruned.Freed
		points, err := p.Archived()
		for _, x := range points {
			if slices.Contains(dropped, x.Barrier) {
				return fmt.Errorf("%q is still there", x.Label)
			}
		}
		return err
	})
	p.Applier.Kill()
	prune(t, p) // what is listed now stays
	points, truth := truth(t, p)
	t.Logf("%d points left; %d were removed, %d packs deleted, %d bytes freed", len(points), total.Removed, total.Packs, total.Freed)
	if total.Removed < 3 {
		t.Errorf("%d points were removed, want at least 3", total.Removed)
	}
	if n := labelled(points); n != len(kept) || len(points)-n > 4 {
		t.Errorf("%d points are left, %d of them labelled: want %d labels and at most 4 others", len(points), n, len(kept))
	}
	if found := check(t, p); len(found.Damaged) > 0 {
		t.Errorf("damaged: %+v", found.Damaged)
	}
	p.LoseDR()
	restorable(t, p, points, truth)
}

// prune runs `farshore archive prune`, again where another prune has the lock.
func prune(t *testing.T, p *harness.Pair) (pruned archive.Pruned) {
	t.Helper()
	harness.Eventually(t, limit, "prune", func() error {
		out, err := p.Farshore("archive", "prune", "-o", "json")
		if err == nil {
			return json.Unmarshal([]byte(out), &pruned)
		}
		if !strings.Contains(err.Error(), "locked") {
			t.Fatal(err)
		}
		return err
	})
	return pruned
}
