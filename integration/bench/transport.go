package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

const transportSize = 512 << 20

// sites is a pair that runs, with connections to it.
type sites struct {
	*harness.Pair
	primary, dr *journal.Site
}

func (m *measuring) sites(ctx context.Context, o harness.Options) (*sites, error) {
	p, err := m.pair(o)
	if err != nil {
		return nil, err
	}
	p.Start()
	s := &sites{p, p.PrimarySite(ctx), p.DRSite(ctx)}
	c, err := s.mark(ctx)
	if err == nil {
		err = s.appliedTo(ctx, c)
	}
	if err != nil {
		return nil, fmt.Errorf("wait for the first recovery point: %w", err)
	}
	return s, nil
}

func measureTransport(ctx context.Context, m *measuring) error {
	s, err := m.sites(ctx, harness.Options{MaxBytes: "20Gi", Volumes: 1, Size: transportSize, Interval: time.Second, Memory: "256Mi"})
	if err != nil {
		return err
	}
	if err := makePlainStream(ctx, s.Pair, s.primary.JetStream(), s.dr.JetStream()); err != nil {
		return err
	}
	consumer, err := self("consume", s.DRURL)
	if err != nil {
		return err
	}
	m.later(consumer.stop)
	stored, applied, plain := Series{Name: "stored at DR"}, Series{Name: "durable replica"}, Series{Name: "plain JetStream"}
	var half float64
	for _, length := range []int{4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20} {
		rounds := 1
		if length == 256<<10 {
			rounds = 5
		}
		var at, there, bare []float64
		for round := range rounds {
			for i := range 2 {
				if (round+i)%2 == 0 {
					n, err := plainRun(ctx, s.Pair, s.dr.JetStream(), min(length, 1000<<10), m.lasting(3*time.Second))
					if err != nil {
						return err
					}
					bare = append(bare, n)
					continue
				}
				a, b, err := s.throughput(ctx, length, m.lasting(3*time.Second))
				if err != nil {
					return err
				}
				at, there = append(at, a), append(there, b)
			}
		}
		x := float64(length) / 1024
		stored.Points = append(stored.Points, [2]float64{x, median(at) / 1e6})
		applied.Points = append(applied.Points, [2]float64{x, median(there) / 1e6})
		plain.Points = append(plain.Points, [2]float64{x, median(bare) / 1e6})
		if length == 256<<10 {
			half = median(at) / 2
			m.held("source to stored at DR, 256 KiB", median(ratios(at, bare)), "x", atLeast, 0.8,
				map[string]float64{"farshore MB/s": median(at) / 1e6, "plain MB/s": median(bare) / 1e6})
			m.held("source to durable replica, 256 KiB", median(ratios(there, bare)), "x", atLeast, 0.6,
				map[string]float64{"farshore MB/s": median(there) / 1e6, "plain MB/s": median(bare) / 1e6})
		} else {
			m.result(fmt.Sprintf("source to stored at DR, %d KiB", length>>10), median(at)/1e6, "MB/s",
				map[string]float64{"durable replica MB/s": median(there) / 1e6, "plain MB/s": median(bare) / 1e6})
		}
	}
	m.plot(Plot{File: "throughput", Title: "Throughput by write size", X: "size of a write, KiB", Y: "MB/s", LogX: true,
		Series: []Series{plain, stored, applied}})
	return m.measureLag(ctx, s, half)
}

// throughput writes for a while, and returns how many bytes a second were stored at the DR site, and how many
// were durable in its replica.
func (s *sites) throughput(ctx context.Context, length int, d time.Duration) (stored, applied float64, err error) {
	c, err := s.Dial(ctx, 0)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = c.Disconnect() }()
	w := &writers{size: transportSize, length: length, depth: 8}
	begun := time.Now()
	if err := w.run(ctx, c, d); err != nil {
		return 0, 0, err
	}
	point, err := s.mark(ctx)
	if err != nil {
		return 0, 0, err
	}
	if err := s.arrived(ctx, point); err != nil {
		return 0, 0, err
	}
	n := float64(w.written.Load())
	stored = n / time.Since(begun).Seconds()
	if err := s.appliedTo(ctx, point); err != nil {
		return 0, 0, err
	}
	return stored, n / time.Since(begun).Seconds(), nil
}

// lags writes for a while, and takes the transit lag, in milliseconds, of every event of the volume that arrives at the DR site, and when it
// arrived, in seconds.
func (s *sites) lags(ctx context.Context, w *writers, d time.Duration) (lags, at []float64, err error) {
	id := journal.StreamID{Group: harness.Group, Part: harness.Volume(0), Generation: 1}
	mirror, err := s.dr.Mirror(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	r, err := s.dr.OpenMirror(ctx, id, mirror.Last()+1)
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	c, err := s.Dial(ctx, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = c.Disconnect() }()
	reading, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	begun := time.Now()
	done := make(chan error, 1)
	go func() { done <- w.run(ctx, c, d) }()
	for {
		e, err := r.Next(reading)
		if err != nil {
			if reading.Err() == nil {
				return nil, nil, err
			}
			break
		}
		if _, is := e.Event.(*events.Frame); is {
			lags, at = append(lags, ms(time.Since(e.Header.Time))), append(at, time.Since(begun).Seconds())
		}
	}
	return lags, at, <-done
}

// measureLag writes at a rate, and shows the transit lag.
func (m *measuring) measureLag(ctx context.Context, s *sites, rate float64) error {
	d := m.lasting(15 * time.Second)
	lags, times, err := s.lags(ctx, &writers{size: transportSize, length: 256 << 10, depth: 8, rate: rate}, d)
	if err != nil {
		return err
	}
	worst := map[int]float64{} // ms, by tenth of a second
	for i, lag := range lags {
		worst[int(times[i]*10)] = max(worst[int(times[i]*10)], lag)
	}
	m.held("transit lag p99 at half load, 256 KiB writes", percentile(lags, 99), "ms", atMost, 60, map[string]float64{
		"p50 ms": median(lags), "largest ms": percentile(lags, 100), "MB/s": rate / 1e6, "events": float64(len(lags)),
	})
	line := Series{Name: "largest of each 100 ms"}
	for i := range int(math.Ceil(d.Seconds() * 10)) {
		if lag, is := worst[i]; is {
			line.Points = append(line.Points, [2]float64{float64(i) / 10, lag})
		}
	}
	m.plot(Plot{File: "lag", Title: "Transit lag at half load", X: "s", Y: "ms", Series: []Series{line}})
	return nil
}
