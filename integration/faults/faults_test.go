// Package faults runs both sites as processes and does to them what operators fear: kills,
// pauses, second writers, damage, full disks, stores put back to what they were, links cut and narrow,
// clocks that step, volumes that move, grow, join and leave. Every test ends with the replicas equal
// to their sources or with the fault named; none may end in silence.
package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

// Each process in turn is killed with SIGKILL under load and started again. At the end nothing
// is missing: replicas equal sources, and every cut on the way was consistent.
func TestKillEachProcess(t *testing.T) {
	p := harness.New(t, harness.Options{Volumes: 2, Size: 64 << 20})
	p.Start()
	load := p.StartChains(4)
	load.Progress(t, 500)
	p.NewPoint(90 * time.Second) // a mirror that has nothing yet may begin behind a hole: see the design, mirror holes
	for _, victim := range p.All() {
		t.Logf("killing %s", victim.Name)
		victim.Kill()
		if victim == p.DRBus || victim == p.Applier || victim == p.Snapshotter {
			load.Progress(t, 200) // the primary's writes go on without them
		}
		victim.Start()
		victim.WaitReady()
		load.Progress(t, 500)
		p.NewPoint(90 * time.Second)
	}
	load.Stop()
	p.Drained("after-kills")
	checkCuts(t, p, 20)
}

// Four capturers, dependent writes across all of them, thousands of barriers, and one capturer
// after the other paused at random moments: every commit's cut is consistent.
func TestCutAcrossFourCapturers(t *testing.T) {
	const barriers = 2000
	p := harness.New(t, harness.Options{Volumes: 4, Size: 256 << 20, Interval: 5 * time.Millisecond, HoldLimit: 200 * time.Millisecond})
	p.Start()
	load := p.StartChains(8)
	repeatLate(t, p)
	site := p.DRSite(t.Context())
	paused := 0
	harness.Eventually(t, 4*time.Minute, fmt.Sprintf("%d barriers are committed", barriers), func() error {
		tail, err := site.Tail(t.Context(), journal.StreamID{Group: harness.Group, Part: journal.Control, Generation: 1}.Mirror(1))
		if err != nil {
			return err
		}
		if tail.Last >= barriers*5/4 { // heartbeats and roster changes are in it too; counted exactly below
			return nil
		}
		if paused < 6 && tail.Last > uint64(paused+1)*barriers/8 {
			p.Capturers[paused%len(p.Capturers)].Pause(3 * p.HoldLimit() / 2)
			paused++
			if paused == 3 { // from now on what repeatLate sends is an old snapshotter's
				p.Snapshotter.Kill()
				p.Snapshotter.Start()
				p.Snapshotter.WaitReady()
			}
		}
		return fmt.Errorf("the control stream is at %d", tail.Last)
	})
	load.Stop()
	p.Drained("after-pauses")
	checkCuts(t, p, barriers)
}

// Two processes write one volume's stream: the newer one wins, the older one is fenced, stops with
// exit code 3, and neither damages the stream.
func TestTwoWritersForOneVolume(t *testing.T) {
	p := harness.New(t, harness.Options{Volumes: 2})
	p.Start()
	load := p.StartChains(2)
	load.Progress(t, 200)
	load.Stop()
	second := p.Twin(0)
	second.Start()
	second.WaitReady()
	if code := p.Capturers[0].Wait(30 * time.Second); code != 3 {
		t.Fatalf("the fenced capturer ended with exit code %d, want 3\n%s", code, p.Capturers[0].Tail(20))
	}
	if !strings.Contains(p.Capturers[0].Log(), "fenced") {
		t.Errorf("the fenced capturer does not say so\n%s", p.Capturers[0].Tail(20))
	}
	p.Capturers[0].Start() // and back: the twin is fenced by the newer epoch
	p.Capturers[0].WaitReady()
	if code := second.Wait(30 * time.Second); code != 3 {
		t.Fatalf("the fenced twin ended with exit code %d, want 3\n%s", code, second.Tail(20))
	}
	load = p.StartChains(2)
	load.Progress(t, 200)
	load.Stop()
	p.Drained("after-two-writers")
}

// The same device under two capturers is refused before any stream is touched.
func TestOneDeviceOneCapturer(t *testing.T) {
	p := harness.New(t, harness.Options{Volumes: 1})
	p.Start()
	clone := p.Clone(p.Capturers[0])
	clone.Start()
	if code := clone.Wait(30 * time.Second); code == 0 || code == 3 {
		t.Fatalf("a second capturer on a locked device ended with exit code %d\n%s", code, clone.Tail(10))
	}
	load := p.StartChains(1)
	load.Progress(t, 100)
	load.Stop()
	p.Drained("still-alone")
}

// A message lost from the mirror stops the DR site at its recovery point, and says which.
func TestDamagedMirror(t *testing.T) {
	p := harness.New(t, harness.Options{Volumes: 2})
	p.Start()
	load := p.StartChains(2)
	load.Progress(t, 300)
	p.NewPoint(90 * time.Second)
	site := p.DRSite(t.Context())
	var before journal.Tail
	harness.Eventually(t, 30*time.Second, "the volume that the first points may lack is mirrored", func() (err error) {
		before, err = site.Tail(t.Context(), mirror(0))
		return err
	})
	p.Applier.Kill()
	load.Progress(t, 500)
	load.Stop()
	var lost uint64
	harness.Eventually(t, 30*time.Second, "more messages reach the mirror", func() error {
		tail, err := site.Tail(t.Context(), mirror(0))
		if err == nil && tail.Last < before.Last+10 {
			err = fmt.Errorf("at %d, was %d", tail.Last, before.Last)
		}
		lost = (before.Last + tail.Last) / 2
		return err
	})
	deleteMessage(t, site, mirror(0), lost)
	p.Applier.Start()
	p.Applier.WaitReady()
	want := fmt.Sprint(lost)
	harness.Eventually(t, 30*time.Second, "the damage is named", func() error {
		s, err := p.Status()
		if err != nil {
			return err
		}
		for _, c := range s.Conditions {
			if c.Type == group.ConditionComplete && !c.OK && strings.Contains(c.Message, mirror(0)) && strings.Contains(c.Message, want) {
				return nil
			}
		}
		return fmt.Errorf("phase %s, conditions %+v", s.Phase, s.Conditions)
	})
	s, err := p.Status()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range s.Volumes {
		if v.Name == harness.Volume(0) && v.AppliedSeq >= lost {
			t.Errorf("the replica went on to %d over the lost message %d", v.AppliedSeq, lost)
		}
	}
	into := filepath.Join(t.TempDir(), "latest")
	if out, err := p.Farshore("replay", "--to", "latest", "--into", into); err != nil {
		t.Errorf("the newest point before the damage can't be recovered: %v\n%s", err, out)
	}
}

// A full disk at the DR site: it stays at its recovery point, says so, and goes on once there is room.
func TestFullDiskAtDR(t *testing.T) {
	dir := t.TempDir()
	harness.Tmpfs(t, dir, 40<<20)
	p := harness.New(t, harness.Options{Volumes: 2, Size: 64 << 20, Recovery: filepath.Join(dir, "dr")})
	p.Start()
	load := p.StartChains(2)
	load.Progress(t, 200)
	load.Stop()
	p.NewPoint(90 * time.Second)
	ballast := filepath.Join(dir, "ballast")
	harness.Fill(t, ballast)
	load = p.StartChains(2)
	load.Progress(t, 4000) // 16 MiB, more than what is left and less than what there will be
	load.Stop()
	harness.Eventually(t, 60*time.Second, "the full disk is named", func() error {
		s, err := p.Status()
		if err != nil {
			return err
		}
		for _, c := range s.Conditions {
			if c.Type == group.ConditionStorage && !c.OK {
				return nil
			}
		}
		return fmt.Errorf("phase %s, conditions %+v", s.Phase, s.Conditions)
	})
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	p.Drained("room-again")
	checkCuts(t, p, 1)
}

// repeatLate sends every request that a snapshotter makes to a tap once more, up to thousands of barriers
// later: holds, marks and releases of tokens long gone, and of a snapshotter that no longer lives.
func repeatLate(t *testing.T, p *harness.Pair) {
	t.Helper()
	nc, err := nats.Connect(p.PrimaryURL)
	if err != nil {
		t.Fatal(err)
	}
	const marker = "Repeated"
	var mu sync.Mutex
	var old []*nats.Msg
	random := harness.Seeded(t)
	_, err = nc.Subscribe("fsctl."+harness.Group+".tap.>", func(m *nats.Msg) {
		if m.Header.Get(marker) != "" {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		old = append(old, m)
		late := old[random.IntN(len(old))]
		again := &nats.Msg{Subject: late.Subject, Reply: late.Reply, Data: late.Data, Header: nats.Header{marker: {"1"}}}
		if err := nc.PublishMsg(again); err != nil && !nc.IsClosed() {
			t.Errorf("repeat a request: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nc.Close()
		mu.Lock()
		defer mu.Unlock()
		if len(old) < 1000 {
			t.Errorf("only %d requests were there to repeat", len(old))
		}
	})
}
