package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/journal"
)

// steady is the load of the tests that need some and not all the machine has.
func steady(random *rand.Rand) harness.Load {
	return harness.Load{Chains: 4, Pace: 2 * time.Millisecond, Noise: true, Seed: random.Uint64()}
}

// The primary's NATS server loses power and with it the last seconds of what it acknowledged, while
// capturers live on, while they end with it, and with the link down, so that the DR site hasn't seen what was
// lost either.
func TestPrimaryStoreRolledBack(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name            string
		capturers, link bool // go down with it
	}{
		{"capturers live on", false, false},
		{"capturers end with it", true, false},
		{"the DR site has not seen it", false, true},
		{"nobody has seen it", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			random := harness.Seeded(t)
			p, load := begun(t, harness.Options{Volumes: 2, Size: 32 << 20}, steady(random))
			p.Recovered("before", time.Minute)
			if tt.link {
				p.Link.Cut()
			}
			store := p.CopyPrimaryStore()
			load.Progress(t, 1500)
			store.PutBack()
			if tt.capturers {
				for _, x := range append(p.Capturers, p.Snapshotter) {
					x.Kill()
				}
			}
			p.Link.Heal()
			p.PrimaryBus.Start()
			if tt.capturers {
				for _, x := range append(p.Capturers, p.Snapshotter) {
					x.Start()
				}
			}
			load.Progress(t, 500)
			p.NewPoint(90 * time.Second)
			conclude(t, p, load, random, 10)
			kept(t, p, "before")
		})
	}
}

// The same again and again, in a row on one pair: each time a history is left behind.
func TestPrimaryStoreRolledBackTwice(t *testing.T) {
	t.Parallel()
	random := harness.Seeded(t)
	p, load := begun(t, harness.Options{Volumes: 2, Size: 32 << 20}, steady(random))
	for range 2 {
		store := p.CopyPrimaryStore()
		load.Progress(t, 1000)
		p.NewPoint(90 * time.Second)
		store.PutBack()
		p.PrimaryBus.Start()
		load.Progress(t, 500)
		p.NewPoint(90 * time.Second)
	}
	conclude(t, p, load, random, 10)
}

// The DR site's NATS server loses power: its mirrors end below what the primary knows them to have, and below
// what the replicas hold. What is missing is fetched again.
func TestDRStoreRolledBack(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		applier bool // is stopped before the store is copied: its checkpoint stays inside
	}{
		{"checkpoint beyond", false},
		{"checkpoint inside", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			random := harness.Seeded(t)
			p, load := begun(t, harness.Options{Volumes: 2, Size: 32 << 20}, steady(random))
			p.Recovered("before", time.Minute)
			if tt.applier {
				p.Applier.Kill()
			}
			store := p.CopyDRStore()
			load.Progress(t, 1500)
			if !tt.applier {
				p.NewPoint(90 * time.Second)
			}
			store.PutBack()
			p.DRBus.Start()
			if tt.applier {
				p.Applier.Start()
			}
			load.Progress(t, 500)
			p.NewPoint(90 * time.Second)
			waitWhole(t, p)
			conclude(t, p, load, random, 10)
			kept(t, p, "before")
		})
	}
}

// Both sites lose power at once, and what each lost is not the same. The DR site may have lost more of
// its mirrors than its replicas had taken; an applier that starts later finds its way all the same.
func TestBothStoresRolledBack(t *testing.T) {
	t.Parallel()
	random := harness.Seeded(t)
	p, load := begun(t, harness.Options{Volumes: 2, Size: 32 << 20}, steady(random))
	dr := p.CopyDRStore()
	load.Progress(t, 700)
	primary := p.CopyPrimaryStore()
	load.Progress(t, 700)
	primary.PutBack()
	dr.PutBack()
	p.PrimaryBus.Start()
	p.DRBus.Start()
	load.Progress(t, 500)
	p.NewPoint(90 * time.Second)
	harness.Restart(p.Applier)
	p.NewPoint(90 * time.Second)
	conclude(t, p, load, random, 10)
}

// An operator deletes a stream at the primary, or deletes it and makes it again as it was.
func TestOperatorDeletesStream(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		part  string
		again bool
	}{
		{harness.Volume(0), false}, {harness.Volume(0), true}, {journal.Control, false}, {journal.Control, true},
	} {
		name := tt.part + " deleted"
		if tt.again {
			name += " and made again"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			random := harness.Seeded(t)
			p, load := begun(t, harness.Options{Volumes: 2, Size: 32 << 20}, steady(random))
			p.Recovered("before", time.Minute)
			deleteStream(t, p.PrimarySite(t.Context()), tt.part, tt.again)
			load.Progress(t, 500)
			p.NewPoint(90 * time.Second)
			conclude(t, p, load, random, 10)
			kept(t, p, "before")
		})
	}
}

// waitWhole waits until no mirror lacks anything in its middle: what the replicas have behind them may be
// mended after they have gone on.
func waitWhole(t *testing.T, p *harness.Pair) {
	t.Helper()
	site := p.DRSite(t.Context())
	harness.Eventually(t, time.Minute, "the mirrors are whole", func() error {
		streams, err := site.Streams(t.Context(), harness.Group)
		if err != nil {
			return err
		}
		for _, m := range journal.Mirrors(streams) {
			holes, err := site.Holes(t.Context(), m, 1)
			if err != nil {
				return err
			}
			if len(holes) > 0 {
				return fmt.Errorf("%s lacks %v", m.ID.Name(), holes)
			}
		}
		return nil
	})
}

// deleteStream deletes the first generation of a part, and with again makes it as it was.
func deleteStream(t *testing.T, site *journal.Site, part string, again bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	name := journal.StreamID{Group: harness.Group, Part: part, Generation: 1}.Name()
	js := site.JetStream()
	s, err := js.Stream(ctx, name)
	if err == nil {
		err = js.DeleteStream(ctx, name)
	}
	if err == nil && again {
		_, err = js.CreateStream(ctx, s.CachedInfo().Config)
	}
	if err != nil {
		t.Fatal(fmt.Errorf("delete %s: %w", name, err))
	}
}
