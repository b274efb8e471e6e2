package faults

import (
	"fmt"
	"testing"
	"time"

	"github.com/farshore/farshore/integration/harness"
)

// Wall clocks step by an hour, forwards and backwards, at one site and then at the other, its NATS server
// included. Commit times stay in order, points are applied on, lags are what they are once the difference
// was measured, and a time chooses the point it should.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	random := harness.Seeded(t)
	p, load := begun(t, harness.Options{Volumes: 2, Size: 32 << 20, Clocks: true}, steady(random))
	for _, step := range []struct {
		site  string
		clock *harness.Clock
		by    time.Duration
	}{
		{"primary", p.PrimaryClock, time.Hour},
		{"primary", p.PrimaryClock, -time.Hour},
		{"DR", p.DRClock, -time.Hour},
		{"DR", p.DRClock, time.Hour},
		{"primary", p.PrimaryClock, 0},
	} {
		step.clock.Set(step.by)
		t.Logf("the %s site's clock is wrong by %v", step.site, step.by)
		load.Progress(t, 300)
		p.Recovered(fmt.Sprintf("%s%v", step.site, step.by), time.Minute)
	}
	harness.Eventually(t, 2*time.Minute, "lags are what they are", func() error { return saneLags(p) })
	checkTimes(t, p)
	// Processes that start with clocks an hour apart.
	for _, x := range p.All() {
		x.Kill()
	}
	for _, x := range p.All() {
		x.Start()
	}
	p.Recovered("restarted", time.Minute)
	harness.Eventually(t, 2*time.Minute, "lags are what they are", func() error { return saneLags(p) })
	conclude(t, p, load, random, 10)
}

// saneLags tells whether every lag is one that a pair on one machine under this load can have.
func saneLags(p *harness.Pair) error {
	const most = 60 // seconds; an hour shows
	s, err := p.Status()
	if err != nil {
		return err
	}
	for name, lag := range map[string]*float64{"recoverable RPO": s.Lags.RecoverableRPOSeconds, "transit lag": s.Lags.TransitLagSeconds} {
		if lag == nil {
			return fmt.Errorf("the %s is not known", name)
		}
		if *lag < 0 || *lag > most {
			return fmt.Errorf("the %s is %.1f s", name, *lag)
		}
	}
	for name, debt := range map[string]float64{"replay": s.Lags.ReplayDebt.Seconds, "capture": s.Lags.CaptureDebt.Seconds} {
		if debt < 0 || debt > most {
			return fmt.Errorf("the %s debt is %.1f s", name, debt)
		}
	}
	return nil
}

// checkTimes checks that the times of points are in their order, and that some of them, given as a time,
// choose themselves.
func checkTimes(t *testing.T, p *harness.Pair) {
	t.Helper()
	points := p.Points()
	for i := 1; i < len(points); i++ {
		if a, b := points[i-1], points[i]; !b.Time.After(a.Time) {
			t.Errorf("barrier %d at %v, barrier %d at %v", a.Barrier, a.Time, b.Barrier, b.Time)
		}
	}
	for _, i := range []int{len(points) / 2, len(points) - 1} {
		if got := p.RecoveredBarrier(points[i].Time.Format(time.RFC3339Nano)); got != points[i].Barrier {
			t.Errorf("replay to %v chose barrier %d, want %d", points[i].Time, got, points[i].Barrier)
		}
	}
}
