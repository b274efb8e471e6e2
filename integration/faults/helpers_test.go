package faults

import (
	"context"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/journal"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

func mirror(volume int) string {
	return journal.StreamID{Group: harness.Group, Part: harness.Volume(volume), Generation: 1}.Mirror(1)
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
	p.NewPoint(90 * time.Second)
	return p, load
}

// kept fails unless the point of the given label can still be recovered.
func kept(t *testing.T, p *harness.Pair, label string) {
	t.Helper()
	p.Replay(label)
}
