package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/replay"
)

// plan is how long the database works and how much is judged.
type plan struct {
	calm   time.Duration // load before, and again after the faults
	faults bool
	points int // random ones, beside the labelled and the newest
}

// full is the test; brief is enough to see that writes are lost (the mutation check).
var (
	full  = plan{calm: 15 * time.Second, faults: true, points: 50}
	brief = plan{calm: 5 * time.Second, points: 4}
)

// rig is a database on the protected volumes of a pair.
type rig struct {
	pair   *harness.Pair
	root   string // mounts, sockets, logs
	disks  []*disk
	server *server
	load   *load
	random *rand.Rand
}

// A database works on two protected volumes while the processes around the capturers are killed one after
// the other, and doesn't notice. Then the site is lost at once. At the newest point, at a labelled
// one and at random ones the database recovers, holds what was acknowledged and is sound.
func TestDatabaseSurvives(t *testing.T) {
	plan := full
	if strings.Contains(os.Getenv("FARSHORE_TEST_TAGS"), "mutation") {
		plan = brief
	}
	r := newRig(t, harness.Options{})
	ready := time.Now()
	r.load.start(t.Context())
	r.run(t, plan.calm)
	if plan.faults {
		r.faults(t)
	}
	const quiet = "quiet"
	r.quiet(t, quiet)
	r.run(t, plan.calm)
	r.loseSite(t)

	r.judge(t, r.points(t, ready, quiet, false), quiet, plan.points)
}

// newRig starts both sites and a database on two volumes.
func newRig(t *testing.T, o harness.Options) *rig {
	t.Helper()
	n := require(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	o.Volumes, o.Size = len(volumes), max(o.Size, 256<<20)
	pair := harness.New(t, o)
	root, err := os.MkdirTemp("", "farshore-pg-")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{pair: pair, root: root, server: &server{needs: n, root: root}, random: rand.New(rand.NewPCG(seed, 0))}
	r.load = &load{server: r.server, clients: 6, random: r.random}
	t.Cleanup(func() { r.close(t) })
	if err := os.Chmod(root, 0o755); err != nil { // PostgreSQL runs as another user
		t.Fatal(err)
	}
	pair.Start()
	for i, volume := range volumes {
		d, err := attach(filepath.Join(root, "nbd-"+volume), pair.Socket(i), harness.Volume(i))
		if err != nil {
			t.Fatal(err)
		}
		r.disks = append(r.disks, d)
		if err := d.format(filepath.Join(root, volume)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := r.server.create(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.server.start(ctx); err != nil {
		t.Fatal(err)
	}
	r.sql(t, "postgres", "CREATE EXTENSION amcheck;\nCREATE DATABASE bank")
	r.sql(t, "template1", "CREATE EXTENSION amcheck")
	r.sql(t, "bank", schema)
	return r
}

// close ends everything on the disks. Nothing may wait for a disk whose capturer is gone or hangs,
// so the disks are cut first.
func (r *rig) close(t *testing.T) {
	for _, d := range r.disks {
		d.cut()
	}
	r.server.kill()
	if r.load.stop != nil {
		r.load.end()
	}
	for _, d := range r.disks {
		if err := d.detach(); err != nil {
			t.Errorf("detach: %v", err)
		}
	}
	if t.Failed() {
		t.Log(strings.ReplaceAll(r.server.tail(20), " | ", "\n"))
	}
	if err := os.RemoveAll(r.root); err != nil {
		t.Errorf("clean up: %v", err)
	}
}

func (r *rig) sql(t *testing.T, database, statements string) {
	t.Helper()
	x, err := r.server.open(t.Context(), database)
	if err == nil {
		defer x.close()
		_, err = x.do(statements)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// run lets the load run for a time; it has to get on all the time.
func (r *rig) run(t *testing.T, d time.Duration) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		r.load.progress(t, 20)
	}
}

// faults kills every process but the capturers, one after the other, and starts it again. Commits go on,
// and so do recovery points.
func (r *rig) faults(t *testing.T) {
	t.Helper()
	for _, victim := range []*harness.Process{r.pair.Snapshotter, r.pair.Applier, r.pair.DRBus, r.pair.PrimaryBus} {
		from := time.Now()
		victim.Kill()
		if victim != r.pair.PrimaryBus {
			r.load.progress(t, 100)
		}
		victim.Start()
		victim.WaitReady()
		r.load.progress(t, 100)
		r.waitPoint(t)
		t.Logf("%s killed and started: a commit took %v at most", victim.Name, r.load.longestStall(from).Round(time.Millisecond))
	}
}

// waitPoint waits until the DR site has applied a point that is newer than now.
func (r *rig) waitPoint(t *testing.T) {
	t.Helper()
	from := time.Now()
	harness.Eventually(t, 90*time.Second, "a new recovery point is applied", func() error {
		s, err := r.pair.Status()
		if err != nil {
			return err
		}
		if s.Applied == nil || s.Applied.Time.Before(from) {
			return errors.New(harness.Describe(s))
		}
		return nil
	})
}

// quiet makes a labelled point while no client is at work: it holds exactly what was acknowledged.
func (r *rig) quiet(t *testing.T, label string) {
	t.Helper()
	r.load.end()
	r.load.unnoticed(t)
	r.pair.Mark(label, 60*time.Second)
	r.load.start(t.Context())
}

// loseSite kills everything at the primary site under load: the capturers first, so that nothing that
// is still in memory reaches the journal, then PostgreSQL and the rest.
func (r *rig) loseSite(t *testing.T) {
	t.Helper()
	r.load.unnoticed(t)
	for _, i := range r.random.Perm(len(r.pair.Capturers)) {
		r.pair.Capturers[i].Kill()
	}
	r.server.kill()
	r.load.end()
	r.pair.Snapshotter.Kill()
	r.pair.PrimaryBus.Kill()
}

// points lists the restorable points since ready. With loses set others may be there as well, but the newest
// one has to be restorable, and so does the labelled one.
func (r *rig) points(t *testing.T, ready time.Time, label string, loses bool) []replay.Point {
	t.Helper()
	all := r.pair.Points()
	reasons := make(map[string]int)
	points := slices.DeleteFunc(slices.Clone(all), func(p replay.Point) bool {
		since := p.Time.After(ready)
		if since && !p.Restorable {
			reasons[p.Reason]++
		}
		must := !loses || p.Label == label || p.Barrier == all[len(all)-1].Barrier
		if since && (len(p.Volumes) != len(volumes) || must && !p.Restorable) {
			t.Errorf("point %d %q of %v, %s, can't be recovered: %s", p.Barrier, p.Label, p.Volumes, p.Time, p.Reason)
		}
		return !since || !p.Restorable
	})
	for reason, n := range reasons {
		t.Logf("%d of %d points can't be recovered: %s", n, len(all), reason)
	}
	return points
}

// choose picks the newest point, the labelled one, and n random ones, in this order.
func choose(random *rand.Rand, points []replay.Point, label string, n int) []replay.Point {
	var first, rest []replay.Point
	for i, p := range points {
		if i == len(points)-1 || p.Label == label {
			first = append(first, p)
		} else {
			rest = append(rest, p)
		}
	}
	slices.Reverse(first)
	random.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	return append(first, rest[:min(n, len(rest))]...)
}

// judge judges the newest of the points, the labelled one, and n random ones, and prints the figures. Nothing
// that was acknowledged may be missing at the labelled one.
func (r *rig) judge(t *testing.T, points []replay.Point, label string, n int) {
	t.Helper()
	chosen := choose(r.random, points, label, n)
	verdicts := r.verdicts(t, chosen)
	t.Logf("%d of %d points judged", len(chosen), len(points))
	r.report(t, verdicts)
	for i, p := range chosen {
		if v := verdicts[i]; p.Label == label && v.rows != v.least {
			t.Errorf("%d rows at the labelled point, want the %d that were acknowledged", v.rows, v.least)
		}
	}
}

// verdicts judges points, two at a time, and returns a verdict for each. It gives up after three that fail.
func (r *rig) verdicts(t *testing.T, points []replay.Point) []verdict {
	t.Helper()
	j := &judge{needs: r.server.needs, pair: r.pair, root: filepath.Join(r.root, "recovered"), log: r.load.log}
	if err := os.Mkdir(j.root, 0o755); err != nil {
		t.Fatal(err)
	}
	verdicts := make([]verdict, len(points))
	var mu sync.Mutex
	failed := 0
	var group errgroup.Group
	group.SetLimit(2)
	for i, p := range points {
		group.Go(func() error {
			mu.Lock()
			enough := failed >= 3
			mu.Unlock()
			if enough {
				return errors.New("three points failed; the others were not judged")
			}
			v, err := j.point(t.Context(), p)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed++
				t.Errorf("point %d (%s %q, %s): %v", p.Barrier, p.Kind, p.Label, p.Time.Format(time.RFC3339Nano), err)
			}
			verdicts[i] = v
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if failed > 0 {
		t.FailNow()
	}
	return verdicts
}

// report prints the figures of what was judged, the newest point first.
func (r *rig) report(t *testing.T, verdicts []verdict) {
	t.Helper()
	var replays, recoveries, checks []time.Duration
	dirty, redone := 0, 0
	for _, v := range verdicts {
		if v.redone {
			redone++
		}
		replays, recoveries, checks = append(replays, v.replay), append(recoveries, v.recovery), append(checks, v.check)
		for _, said := range v.fsck {
			if said != "clean" {
				dirty++
				t.Logf("e2fsck, for information: %s", said)
			}
		}
	}
	acked := r.load.acked()
	if redone < len(verdicts)/2 {
		t.Errorf("PostgreSQL had to recover something at %d of %d points only: the test is too easy", redone, len(verdicts))
	}
	t.Logf("%d commits, %d points passed, PostgreSQL redid work at %d, %d file systems not clean", acked, len(verdicts), redone, dirty)
	t.Logf("newest point: %d rows, %d acknowledged ones are missing", verdicts[0].rows, max(0, acked-verdicts[0].rows))
	t.Logf("replay %s; recovery %s; checks %s", spread(replays), spread(recoveries), spread(checks))
}

// spread is the median and the longest of some durations.
func spread(d []time.Duration) string {
	slices.Sort(d)
	return fmt.Sprintf("median %v, longest %v", d[len(d)/2].Round(time.Millisecond), d[len(d)-1].Round(time.Millisecond))
}
