package faults

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/integration/harness"
)

// The disks below the NATS servers fill up under load, the primary's and the DR site's. Nobody's writes
// stall for it. With room again, and the server started again as its manual wants, everything goes on.
func TestFullDiskUnderNATS(t *testing.T) {
	t.Parallel()
	for i, site := range []string{"primary", "DR"} {
		t.Run(site, func(t *testing.T) {
			random := harness.Seeded(t)
			dir := t.TempDir()
			harness.Tmpfs(t, dir, 512<<20)
			o := harness.Options{Volumes: 2, Size: 32 << 20, MaxBytes: "64Mi", Margin: "1m"}
			o.Stores[i] = filepath.Join(dir, "store")
			p, load := begun(t, o, steady(random))
			p.Recovered("before", time.Minute)
			ballast := filepath.Join(dir, "ballast")
			harness.Fill(t, ballast)
			load.Progress(t, 6000)
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			server := []*harness.Process{p.PrimaryBus, p.DRBus}[i]
			server.Terminate() // a server that met a full disk keeps JetStream off until it is started again
			server.Start()
			load.Progress(t, 500)
			p.NewPoint(90 * time.Second)
			conclude(t, p, load, random, 10)
			kept(t, p, "before")
		})
	}
}

// The disk of the activity logs is full: a capturer that can't write its log says so and doesn't serve, since
// nobody would know after a crash what it has to send. It doesn't do harm to what is there.
func TestFullDiskUnderActivityLog(t *testing.T) {
	t.Parallel()
	random := harness.Seeded(t)
	dir := t.TempDir()
	harness.Tmpfs(t, dir, 8<<20)
	p, load := begun(t, harness.Options{Volumes: 2, Size: 32 << 20, State: dir}, steady(random))
	ballast := filepath.Join(dir, "ballast")
	harness.Fill(t, ballast)
	harness.Settle()
	for _, x := range []*harness.Process{p.Capturers[0], p.Elsewhere(0)} { // with a log, and without one
		p.Capturers[0].Kill()
		x.Start()
		if code := x.Wait(30 * time.Second); code == 0 {
			t.Errorf("%s ended well without room for its log\n%s", x.Name, x.Tail(10))
		}
		if log := strings.ToLower(x.Log()); !strings.Contains(log, "no space") {
			t.Errorf("%s has no room for its log and doesn't say so\n%s", x.Name, x.Tail(10))
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	p.Capturers[0].Start()
	p.Capturers[0].WaitReady()
	load.Progress(t, 500)
	p.NewPoint(90 * time.Second)
	conclude(t, p, load, random, 10)
}

// The backing devices run out of space: writes fail as they would without Farshore, with no harm to what is
// recorded, and succeed once there is room.
func TestFullDiskUnderVolumes(t *testing.T) {
	t.Parallel()
	random := harness.Seeded(t)
	dir := t.TempDir()
	harness.Tmpfs(t, dir, 48<<20)
	p, load := begun(t, harness.Options{Volumes: 2, Size: 64 << 20, Sources: dir}, harness.Load{Chains: 4, Pace: time.Millisecond, Noise: true, Seed: random.Uint64()})
	ballast := filepath.Join(dir, "ballast")
	harness.Fill(t, ballast)
	load.Worst()
	harness.Eventually(t, time.Minute, "writes fail", func() error {
		if _, failed := load.Worst(); failed == 0 {
			return os.ErrInvalid
		}
		return nil
	})
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	load.Progress(t, 500)
	load.Stop() // before the volumes grow over what the file system has
	p.NewPoint(90 * time.Second)
	conclude(t, p, load, random, 10)
}
