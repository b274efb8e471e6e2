package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/farshore/farshore/integration/harness"
)

func measureRecovery(ctx context.Context, m *measuring) error {
	const size = 256 << 20
	s, err := m.sites(ctx, harness.Options{MaxBytes: "20Gi", Volumes: 1, Size: size, Interval: time.Second, Memory: "256Mi"})
	if err != nil {
		return err
	}
	c, err := s.Dial(ctx, 0)
	if err != nil {
		return err
	}
	defer func() { _ = c.Disconnect() }()
	var rates []float64
	for range 3 {
		s.Applier.Terminate()
		w := &writers{size: size, length: 64 << 10, depth: 8, random: true}
		if err := w.run(ctx, c, m.lasting(3*time.Second)); err != nil {
			return err
		}
		commit, err := s.mark(ctx)
		if err != nil {
			return err
		}
		if err := s.arrived(ctx, commit); err != nil {
			return err
		}
		begun := time.Now()
		s.Applier.Start()
		if err := s.appliedTo(ctx, commit); err != nil {
			return err
		}
		rates = append(rates, float64(w.written.Load())/time.Since(begun).Seconds()/1e6)
	}
	m.result("catching up, from the applier's start", median(rates), "MB/s", map[string]float64{"slowest MB/s": percentile(rates, 0)})
	if err := m.measureReplay(ctx, s); err != nil {
		return err
	}
	return m.measureKill(ctx, s, median(rates)*1e6/4)
}

// measureReplay recovers the newest point from the journal.
func (m *measuring) measureReplay(ctx context.Context, s *sites) error {
	mirror, err := s.dr.Mirror(ctx, stream(0))
	if err != nil {
		return err
	}
	bytes, err := s.dr.MirrorBytes(ctx, mirror, 1, mirror.Last())
	if err != nil {
		return err
	}
	var rates []float64
	for i := range 3 {
		into := m.path(fmt.Sprintf("replay%d", i))
		begun := time.Now()
		if _, err := s.Farshore("replay", "--to", "latest", "--into", into); err != nil {
			return err
		}
		rates = append(rates, float64(bytes)/time.Since(begun).Seconds()/1e6)
		if err := os.RemoveAll(into); err != nil {
			return err
		}
	}
	m.result("replay of the whole journal, by the command", median(rates), "MB/s", map[string]float64{"journal MB": float64(bytes) / 1e6})
	return nil
}

// measureKill kills the applier while writes go on at a rate, starts it at once, and takes the time until it has
// applied a point that was made after its start.
func (m *measuring) measureKill(ctx context.Context, s *sites, rate float64) error {
	c, err := s.Dial(ctx, 0)
	if err != nil {
		return err
	}
	defer func() { _ = c.Disconnect() }()
	writing, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &writers{size: 256 << 20, length: 64 << 10, depth: 8, random: true, rate: rate}
	done := make(chan error, 1)
	go func() { done <- w.run(writing, c, time.Hour) }()
	var times []float64
	for range 5 {
		pause(ctx, m.lasting(2*time.Second))
		begun := time.Now()
		s.Applier.Kill()
		s.Applier.Start()
		commit, err := s.mark(ctx)
		if err != nil {
			return err
		}
		if err := s.appliedTo(ctx, commit); err != nil {
			return err
		}
		times = append(times, time.Since(begun).Seconds())
	}
	cancel()
	if err := <-done; err != nil {
		return err
	}
	m.result("from SIGKILL of the applier to caught up, p50", median(times), "s",
		map[string]float64{"largest s": percentile(times, 100), "writes MB/s": rate / 1e6})
	return nil
}
