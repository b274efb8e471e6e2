package faults

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/farshore/farshore/integration/harness"
)

// A volume moves to another node and back, under load: the same device, and each node has an activity log of
// its own. The one it left behind knows nothing of what was written meanwhile, and isn't trusted.
func TestVolumeMoves(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"in order", "by force"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			random := harness.Seeded(t)
			p, load := begun(t, harness.Options{Volumes: 2, Size: 32 << 20}, steady(random))
			end := func(x *harness.Process) {
				if how == "by force" {
					x.Kill()
				} else if code := x.Terminate(); code != 0 {
					t.Errorf("%s ended with exit code %d", x.Name, code)
				}
			}
			here, there := p.Capturers[0], p.Elsewhere(0)
			for range 2 {
				end(here)
				there.Start()
				there.WaitReady()
				load.Progress(t, 1000)
				p.NewPoint(90 * time.Second)
				end(there)
				here.Start()
				here.WaitReady()
				load.Progress(t, 1000)
				p.NewPoint(90 * time.Second)
			}
			conclude(t, p, load, random, 10)
		})
	}
}

// A volume grows while it is written, its clients connect again and use the new room.
func TestVolumeGrows(t *testing.T) {
	t.Parallel()
	random := harness.Seeded(t)
	p, load := begun(t, harness.Options{Volumes: 2, Size: 16 << 20}, steady(random))
	p.Recovered("small", time.Minute)
	const grown = 48 << 20
	p.Resize(0, grown)
	harness.Eventually(t, time.Minute, "the volume has its new size", func() error {
		client, err := p.Dial(t.Context(), 0)
		if err != nil {
			return err
		}
		defer func() { _ = client.Disconnect() }()
		if client.Size() != grown {
			return fmt.Errorf("its size is %d", client.Size())
		}
		content := make([]byte, 1<<20)
		for i := range content {
			content[i] = byte(random.Uint32())
		}
		return client.Write(t.Context(), content, grown-int64(len(content)))
	})
	p.NewPoint(90 * time.Second)
	harness.Restart(p.Capturers[0], p.Applier)
	conclude(t, p, load, random, 10)
	kept(t, p, "small")
}

// A volume joins a running group, and another one leaves it.
func TestVolumeJoinsAndLeaves(t *testing.T) {
	t.Parallel()
	random := harness.Seeded(t)
	p, load := begun(t, harness.Options{Volumes: 2, Size: 16 << 20}, steady(random))
	p.Recovered("two", time.Minute)
	joined := p.Join(8 << 20)
	write(t, p, joined)
	waitMembers(t, p, harness.Volume(0), harness.Volume(1), harness.Volume(joined))
	load.Stop()
	p.Drained("three")
	p.Leave(1)
	waitMembers(t, p, harness.Volume(0), harness.Volume(joined))
	p.Capturers[1].Terminate() // it may have ended by itself
	write(t, p, joined)
	p.Drained("two-others")
	checkCuts(t, p, 10)
	p.CheckPoints(3, random)
	for label, want := range map[string][]string{
		"two": {"vol0", "vol1"}, "three": {"vol0", "vol1", "vol2"}, "two-others": {"vol0", "vol2"},
	} {
		for _, x := range p.Points() {
			if x.Label == label && (!slices.Equal(x.Volumes, want) || !x.Restorable) {
				t.Errorf("point %s holds %v, restorable %v (%s); want %v", label, x.Volumes, x.Restorable, x.Reason, want)
			}
		}
	}
}

func write(t *testing.T, p *harness.Pair, volume int) {
	t.Helper()
	client, err := p.Dial(t.Context(), volume)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Disconnect() }()
	for i := range int64(64) {
		if err := client.Write(t.Context(), []byte(fmt.Sprintf("%512d", i)), i*4096); err != nil {
			t.Fatal(err)
		}
	}
}

// waitMembers waits until the newest point holds exactly these volumes.
func waitMembers(t *testing.T, p *harness.Pair, want ...string) {
	t.Helper()
	harness.Eventually(t, time.Minute, fmt.Sprintf("a point of %v", want), func() error {
		points := p.Points()
		if len(points) == 0 || !slices.Equal(points[len(points)-1].Volumes, want) {
			return fmt.Errorf("the newest of %d points is another", len(points))
		}
		return nil
	})
}
