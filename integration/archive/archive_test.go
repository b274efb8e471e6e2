// Package archive runs both sites as processes with an archive at the DR site, and does to them what operators fear: the applier is killed
// in the middle of runs, everything but the archive is lost, disks run full, packs rot, points are pruned meanwhile. What every
// volume held at every archived point is known from the journal's events alone, and compared byte by byte with what the archive restores.
package archive

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/farshore/farshore/integration/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

// limit bounds what is waited for.
const limit = 90 * time.Second

// begun starts a pair with an archive and a workload, and returns when points are applied under it.
func begun(t *testing.T, o harness.Options, random *rand.Rand) (*harness.Pair, *harness.Chains) {
	t.Helper()
	o.Volumes, o.Size = 2, 16<<20
	p := harness.New(t, o)
	p.Start()
	load := p.StartLoad(paced(5*time.Millisecond, random))
	load.Progress(t, 200)
	p.NewPoint(limit)
	return p, load
}

func paced(pace time.Duration, random *rand.Rand) harness.Load {
	return harness.Load{Chains: 4, Pace: pace, Noise: true, Seed: random.Uint64()}
}

// truth is what the volumes hold at each of the archived points.
func truth(t *testing.T, p *harness.Pair) ([]harness.ArchivedPoint, harness.Truth) {
	t.Helper()
	points, err := p.Archived()
	if err != nil {
		t.Fatal(err)
	}
	var barriers []uint64
	for _, x := range points {
		barriers = append(barriers, x.Barrier)
	}
	// The primary's origin may be trimmed behind what the DR site has.
	all, err := p.ReadTruth(t.Context(), p.DRSite(t.Context()), barriers)
	if err != nil {
		t.Fatal(err)
	}
	return points, all
}

// restorable fails unless every point is what the truth says, recovered from the archive alone.
func restorable(t *testing.T, p *harness.Pair, points []harness.ArchivedPoint, truth harness.Truth) {
	t.Helper()
	for _, x := range points {
		if err := p.FromArchive(x.Barrier, truth); err != nil {
			t.Errorf("barrier %d %q from the archive: %v", x.Barrier, x.Label, err)
		}
	}
}

// labelled counts the points that have a label.
func labelled(points []harness.ArchivedPoint) (n int) {
	for _, x := range points {
		if x.Label != "" {
			n++
		}
	}
	return n
}

func upTo(random *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(d)))
}

// runs knows the marks of runs in the store that are dead.
type runs struct {
	pair *harness.Pair
	dead map[string]bool
}

// marks are those of runs that may be alive.
func (r *runs) marks() (found []string) {
	entries, _ := os.ReadDir(filepath.Join(r.pair.ArchiveStore(), "runs")) // none before the first
	for _, e := range entries {
		if !r.dead[e.Name()] {
			found = append(found, e.Name())
		}
	}
	return found
}

// await waits for a run, no longer than a time.
func (r *runs) await(within time.Duration) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(within); time.Now().Before(end) && len(r.marks()) == 0; {
		<-tick.C
	}
}

// kill kills the applier, and tells whether that was in the middle of a run.
func (r *runs) kill() bool {
	r.pair.Applier.Kill()
	left := r.marks()
	for _, name := range left {
		r.dead[name] = true
	}
	return len(left) > 0
}

// The applier is killed with SIGKILL at random moments under load, many of them in the middle of a run, and started again, while points
// are archived every second and at labels. Then both sites are lost. Every point that the archive lists holds every byte that was written up to it.
func TestApplierKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	const kills = 15
	random := harness.Seeded(t)
	p, load := begun(t, harness.Options{Archive: "{every: 1s}"}, random)
	runs := &runs{p, make(map[string]bool)}
	var labels []uint64
	amid := 0
	for i := range kills {
		if i%4 == 1 {
			labels = append(labels, p.Mark(fmt.Sprintf("label-%d", i), limit))
		}
		if i%3 != 2 {
			runs.await(3 * time.Second)
			<-time.After(upTo(random, 100*time.Millisecond)) // a random moment of the run
		} else {
			<-time.After(upTo(random, 2*time.Second)) // or of anything
		}
		if runs.kill() {
			amid++
		}
		<-time.After(upTo(random, 500*time.Millisecond))
		p.Applier.Start()
		if i%2 == 0 {
			p.Applier.WaitReady()
		}
	}
	p.Applier.WaitReady()
	labels = append(labels, p.Mark("the-end", limit))
	p.NewPoint(limit)
	load.Stop()
	p.WaitArchived(limit, labels...)
	if amid == 0 {
		t.Errorf("none of %d kills was in the middle of a run", kills)
	}
	points, truth := truth(t, p)
	t.Logf("%d points archived, %d of them labelled; %d of %d kills were in the middle of a run", len(points), labelled(points), amid, kills)
	if n := len(points) - labelled(points); n < 3 {
		t.Errorf("%d points were archived by the clock, want at least 3", n)
	}
	for _, x := range p.All() {
		if x.Running() {
			x.Kill()
		}
	}
	p.LoseDR()
	restorable(t, p, points, truth)
}

// Labels that are made while the applier is down are commits that it passes when it comes back: they are archived all the same, in their
// order, and what was archived before can be reached with the journal and without.
func TestLabelsMadeWhileTheApplierIsDown(t *testing.T) {
	t.Parallel()
	random := harness.Seeded(t)
	p, load := begun(t, harness.Options{Archive: "{every: 0s}"}, random)
	labels := []uint64{p.Mark("before", limit)}
	p.WaitArchived(limit, labels...)
	for round := range 2 {
		p.Applier.Kill()
		for i := range 3 {
			load.Progress(t, 200)
			labels = append(labels, p.Mark(fmt.Sprintf("down-%d-%d", round, i), limit))
		}
		load.Progress(t, 200)
		p.Applier.Start()
		p.NewPoint(limit)
		labels = append(labels, p.Mark(fmt.Sprintf("up-%d", round), limit), p.Mark(fmt.Sprintf("again-%d", round), limit))
	}
	load.Stop()
	p.WaitArchived(limit, labels...)
	points, truth := truth(t, p)
	if labelled(points) != len(points) {
		t.Errorf("points without a label were archived, which nobody asked for: %v", points)
	}
	for _, x := range points {
		if err := p.FromAnywhere(x.Barrier, truth); err != nil {
			t.Errorf("barrier %d %q from where it is best: %v", x.Barrier, x.Label, err)
		}
	}
	p.LoseDR()
	restorable(t, p, points, truth)
}
