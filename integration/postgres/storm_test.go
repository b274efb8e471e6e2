package postgres

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/integration/harness"
)

// fault is something that happens to the NATS servers or between them. It returns when it is over.
type fault struct {
	name string
	do   func(t *testing.T, r *rig, d time.Duration)
	// loses: history goes, so points may be lost too. They have to be listed as such.
	loses bool
}

var storm = []fault{
	{name: "primary server down", do: func(t *testing.T, r *rig, d time.Duration) { down(d, r.pair.PrimaryBus) }},
	{name: "primary server down in a flood", do: func(t *testing.T, r *rig, _ time.Duration) {
		r.pair.PrimaryBus.Kill()
		r.flood(t)
		harness.Restart(r.pair.PrimaryBus)
	}},
	{name: "DR server down", do: func(t *testing.T, r *rig, d time.Duration) { down(d, r.pair.DRBus) }},
	{name: "both servers down", do: func(t *testing.T, r *rig, d time.Duration) { down(d, r.pair.PrimaryBus, r.pair.DRBus) }},
	{name: "primary server stopped", do: func(t *testing.T, r *rig, d time.Duration) { r.pair.PrimaryBus.Pause(d) }},
	{name: "DR server stopped", do: func(t *testing.T, r *rig, d time.Duration) { r.pair.DRBus.Pause(d) }},
	{name: "link cut", do: func(t *testing.T, r *rig, d time.Duration) {
		r.pair.Link.Cut()
		<-time.After(d)
		r.pair.Link.Heal()
	}},
	{name: "primary server and snapshotter down", do: func(t *testing.T, r *rig, d time.Duration) {
		down(d, r.pair.PrimaryBus, r.pair.Snapshotter)
	}},
	{name: "DR server and applier down", do: func(t *testing.T, r *rig, d time.Duration) { down(d, r.pair.DRBus, r.pair.Applier) }},
	{name: "primary server's store as it was", loses: true, do: func(t *testing.T, r *rig, d time.Duration) {
		store := r.pair.CopyPrimaryStore()
		<-time.After(d)
		store.PutBack()
		harness.Restart(r.pair.PrimaryBus)
	}},
	{name: "DR server's store as it was", loses: true, do: func(t *testing.T, r *rig, d time.Duration) {
		store := r.pair.CopyDRStore()
		<-time.After(d)
		store.PutBack()
		harness.Restart(r.pair.DRBus)
	}},
}

// down kills processes and starts them again after a time.
func down(d time.Duration, processes ...*harness.Process) {
	for _, x := range processes {
		x.Kill()
	}
	<-time.After(d) // the duration is the fault itself
	harness.Restart(processes...)
}

// floods is how often the flood comes at most.
const floods = 5

// flood writes more than what the capturers may hold in memory, to both volumes: until one of them says so.
func (r *rig) flood(t *testing.T) {
	t.Helper()
	for range floods {
		r.pour(t)
		for _, x := range r.pair.Capturers {
			if strings.Contains(x.Log(), "the journal stores nothing; writes go on") {
				return
			}
		}
	}
	t.Error("the flood was too small: every capturer had memory left")
}

// pour writes a table that can hardly be compressed, and drops it.
func (r *rig) pour(t *testing.T) {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		x, err := r.server.open(t.Context(), "bank")
		if err == nil {
			defer x.close()
			_, err = x.do("CREATE TABLE flood AS SELECT i, md5(i::text) || md5((-i)::text) || md5((3 * i)::text) || md5((7 * i)::text) FROM generate_series(1, 600000) i;\nCHECKPOINT;\nDROP TABLE flood")
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatalf("PostgreSQL noticed: %v", err)
		}
	case <-time.After(90 * time.Second):
		t.Fatal("writes wait for a server that is away")
	}
}

// restorable waits until a labelled point can be recovered: what the storm took from the DR site's
// journal is mended.
func (r *rig) restorable(t *testing.T, label string) {
	t.Helper()
	harness.Eventually(t, 90*time.Second, "point "+label+" can be recovered", func() error {
		for _, p := range r.pair.Points() {
			if p.Label == label && p.Restorable {
				return nil
			} else if p.Label == label {
				return errors.New(p.Reason)
			}
		}
		return errors.New("it is not listed")
	})
}

// A database works while everything that can happen to the NATS servers happens, in random order.
// Commits go on, new points come after each
// fault, and the points that are listed as restorable pass.
func TestDatabaseInStorm(t *testing.T) {
	r := newRig(t, harness.Options{Size: 512 << 20})
	ready := time.Now()
	r.load.start(t.Context())
	r.load.progress(t, 100)
	r.waitPoint(t)
	loses := false
	for _, i := range r.random.Perm(len(storm)) {
		f, d := storm[i], time.Duration(1+r.random.IntN(3000))*time.Millisecond
		from := time.Now()
		f.do(t, r, d)
		loses = loses || f.loses
		r.load.progress(t, 100)
		r.waitPoint(t)
		t.Logf("%s for %v: a new point after %v, a commit took %v at most", f.name, d,
			(time.Since(from) - d).Round(time.Millisecond), r.load.longestStall(from).Round(time.Millisecond))
	}
	const calm = "calm"
	r.quiet(t, calm)
	r.restorable(t, calm)
	r.run(t, time.Second)
	r.loseSite(t)
	r.judge(t, r.points(t, ready, calm, loses), calm, 10)
}
