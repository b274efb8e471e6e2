package faults

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/journal"
)

// The link is cut until the journal is full: with track the application goes on as before, and once the link is
// back all that wasn't recorded is sent.
func TestJournalFullTracks(t *testing.T) {
	t.Parallel()
	random := harness.Seeded(t)
	p, load := filled(t, random, "track")
	// Full now, on every volume: what is acknowledged from here on can't be in the journal.
	load.Progress(t, 20_000)
	if _, failed := load.Worst(); failed > 0 {
		t.Errorf("%d writes failed", failed)
	}
	mend(t, p, load, random)
}

// With stall writes wait instead, none of them fails, and they go on with the link.
func TestJournalFullStalls(t *testing.T) {
	t.Parallel()
	random := harness.Seeded(t)
	p, load := filled(t, random, "stall")
	last := int64(-1)
	harness.Eventually(t, time.Minute, "writes wait", func() error {
		was := last
		last = load.Acked()
		if was != last {
			harness.Settle()
			return fmt.Errorf("%d writes, then %d", was, last)
		}
		return nil
	})
	if _, failed := load.Worst(); failed > 0 {
		t.Errorf("%d writes failed", failed)
	}
	mend(t, p, load, random)
}

// mend heals the link and ends the test under a load that the streams have room for: the margin keeps what was
// sent for a minute.
func mend(t *testing.T, p *harness.Pair, load *harness.Chains, random *rand.Rand) {
	t.Helper()
	p.Link.Heal()
	load.Stop()
	load = p.StartLoad(harness.Load{Chains: 4, Pace: 20 * time.Millisecond})
	p.NewPoint(4 * time.Minute)
	load.Progress(t, 100)
	conclude(t, p, load, random, 5)
	kept(t, p, "before")
}

// filled returns a pair whose link is cut and whose streams are full, under load.
func filled(t *testing.T, random *rand.Rand, whenBusGone string) (*harness.Pair, *harness.Chains) {
	t.Helper()
	const limit = 64 << 20
	p, load := begun(t, harness.Options{Volumes: 2, Size: 64 << 20, MaxBytes: "64Mi", Margin: "1m", WhenBusGone: whenBusGone},
		harness.Load{Chains: 4, Pace: 20 * time.Millisecond})
	p.Recovered("before", time.Minute)
	p.Link.Cut()
	load.Stop()
	load = p.StartLoad(harness.Load{Chains: 4, Noise: true, Seed: random.Uint64()})
	site := p.PrimarySite(t.Context())
	harness.Eventually(t, 3*time.Minute, "the streams are full", func() error {
		for i := range 2 {
			s, err := site.JetStream().Stream(t.Context(), journal.StreamID{Group: harness.Group, Part: harness.Volume(i), Generation: 1}.Name())
			if err != nil {
				return err
			}
			if size := s.CachedInfo().State.Bytes; size < limit-1<<20 {
				return fmt.Errorf("%s holds %d bytes", harness.Volume(i), size)
			}
		}
		return nil
	})
	return p, load
}

// More is written than a narrow link carries; when the load ends, the DR site catches up.
func TestNarrowLink(t *testing.T) {
	t.Parallel()
	random := harness.Seeded(t)
	p, load := begun(t, harness.Options{Volumes: 2, Size: 32 << 20}, harness.Load{Chains: 4, Pace: 2 * time.Millisecond})
	p.Link.Limit(1 << 20)
	from := p.Link.Carried()
	load.Progress(t, 8000)
	load.Stop()
	carried := p.Link.Carried() - from
	told := time.Now()
	lag := func() (float64, error) {
		s, err := p.Status()
		if err != nil || s.Lags.TransitLagSeconds == nil {
			return 0, fmt.Errorf("no lag is known: %w", err)
		}
		return *s.Lags.TransitLagSeconds, nil
	}
	behind, err := lag()
	t.Logf("%d bytes passed the link under load; transit lag %.1f s (%v)", carried, behind, err)
	harness.Eventually(t, 5*time.Minute, "the DR site has caught up", func() error {
		now, err := lag()
		behind = max(behind, now)
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			t.Logf("transit lag %.1f s (%v), %d bytes have passed", now, err, p.Link.Carried()-from)
		}
		if err == nil && now > 3 {
			err = fmt.Errorf("transit lag %.1f s", now)
		}
		return err
	})
	t.Logf("the lag was %.1f s at most", behind)
	conclude(t, p, load, random, 10)
}

// A link that is cut and mended again and again, faster than a mirror gets going.
func TestLinkFlaps(t *testing.T) {
	t.Parallel()
	random := harness.Seeded(t)
	p, load := begun(t, harness.Options{Volumes: 2, Size: 32 << 20}, steady(random))
	for range 15 {
		p.Link.Cut()
		<-time.After(time.Duration(random.Int64N(int64(300 * time.Millisecond))))
		p.Link.Heal()
		<-time.After(time.Duration(random.Int64N(int64(2 * time.Second))))
	}
	p.NewPoint(90 * time.Second)
	conclude(t, p, load, random, 10)
}
