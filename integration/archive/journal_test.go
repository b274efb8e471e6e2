package archive

import (
	"fmt"
	"testing"
	"time"

	"github.com/farshore/farshore/integration/harness"
)

// The mirrors reach their limit and lose the oldest history. Points that only the archive has are still reached, the journal goes
// on from where it is, and an instant behind an archived point that the journal still covers is reached over both.
func TestOlderThanTheJournal(t *testing.T) {
	t.Parallel()
	random := harness.Seeded(t)
	p, load := begun(t, harness.Options{Mirrors: "{maxBytes: 64Mi}", Archive: "{every: 2s}"}, random)
	old := p.Mark("old", limit)
	p.WaitArchived(limit, old)
	truth, err := p.ReadTruth(t.Context(), p.DRSite(t.Context()), []uint64{old})
	if err != nil {
		t.Fatal(err)
	}
	load.Stop()
	load = p.StartLoad(paced(time.Millisecond, random))
	harness.Eventually(t, limit, "the journal loses the old point", func() error {
		for _, x := range p.Points() {
			if x.Barrier == old && x.Restorable {
				return fmt.Errorf("it is still restorable without the archive")
			}
		}
		return nil
	})
	p.Recovered("new", limit)
	load.Stop()
	p.NewPoint(limit)
	if err := p.FromAnywhere(old, truth); err != nil {
		t.Errorf("the point that only the archive has: %v", err)
	}
	p.Replay("new")
	p.Replay("latest")
	points, err := p.Archived()
	if err != nil {
		t.Fatal(err)
	}
	all := p.Points()
	newest := all[len(all)-1].Time // no instant behind it has happened yet
	for range 3 {
		x := points[random.IntN(len(points))]
		if x.Barrier < old { // not all volumes may have joined
			continue
		}
		at := x.Time.Add(upTo(random, time.Second))
		if at.After(newest) {
			at = newest
		}
		p.Replay(at.Format(time.RFC3339Nano))
	}
}
