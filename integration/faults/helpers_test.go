package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/journal"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

// seeded returns a source of random numbers whose seed is printed, and taken from FARSHORE_SEED where that is set.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("FARSHORE_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatalf("FARSHORE_SEED=%q is no number", s)
		}
	}
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func mirror(volume int) string {
	return journal.StreamID{Group: harness.Group, Part: harness.Volume(volume), Generation: 1}.Mirror(1)
}

func waitNewPoint(t *testing.T, p *harness.Pair) {
	t.Helper()
	waitPoint(t, p, 90*time.Second)
}

// waitPoint waits until a point is applied that was made later than now.
func waitPoint(t *testing.T, p *harness.Pair, limit time.Duration) {
	t.Helper()
	from := time.Now()
	harness.Eventually(t, limit, "a new recovery point is applied", func() error {
		s, err := p.Status()
		if err != nil {
			return err
		}
		if s.Applied == nil || s.Applied.Time.Before(from) {
			return fmt.Errorf("%s", harness.Describe(s))
		}
		return nil
	})
}

func checkCuts(t *testing.T, p *harness.Pair, least int) harness.Cuts {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cuts, err := p.CheckCuts(ctx, p.DRSite(ctx))
	if err != nil {
		t.Fatalf("after %d commits: %v", cuts.Commits, err)
	}
	if cuts.Commits < least {
		t.Fatalf("only %d commits to check, want at least %d", cuts.Commits, least)
	}
	t.Logf("%d cuts checked, %d passed over that lost history; %d generations begun", cuts.Commits, cuts.Lost, cuts.Began)
	return cuts
}

func deleteMessage(t *testing.T, site *journal.Site, stream string, seq uint64) {
	t.Helper()
	s, err := site.JetStream().Stream(t.Context(), stream)
	if err == nil {
		err = s.DeleteMsg(t.Context(), seq)
	}
	if err != nil {
		t.Fatalf("delete message %d of %s: %v", seq, stream, err)
	}
}

func mountTmpfs(t *testing.T, dir string, size int64) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("not run: a small file system of its own needs root")
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("not run: mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
}

// fill writes a file until its file system is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 64<<10)
	for i := range block {
		block[i] = 1
	}
	for {
		if _, err := f.Write(block); err != nil {
			if !strings.Contains(err.Error(), "no space") {
				t.Fatal(err)
			}
			return
		}
	}
}

// conclude ends a workload and the test: replicas equal their sources, every cut was consistent, and what is
// listed as restorable can be restored.
func conclude(t *testing.T, p *harness.Pair, load *harness.Chains, random *rand.Rand, least int) harness.Cuts {
	t.Helper()
	load.Stop()
	p.Drained("the-end")
	cuts := checkCuts(t, p, least)
	p.CheckPoints(3, random)
	return cuts
}

// begun starts a pair and a workload, and returns when points are applied under it.
func begun(t *testing.T, o harness.Options, l harness.Load) (*harness.Pair, *harness.Chains) {
	t.Helper()
	p := harness.New(t, o)
	p.Start()
	load := p.StartLoad(l)
	load.Progress(t, 300)
	waitNewPoint(t, p)
	return p, load
}

// kept fails unless the point of the given label can still be recovered.
func kept(t *testing.T, p *harness.Pair, label string) {
	t.Helper()
	p.Replay(label)
}
