package main

import (
	"context"
	"errors"
	"time"

	"github.com/farshore/farshore/integration/harness"
)

const (
	lagVolume = 512 << 20
	lagRate   = 8e6 // bytes per second
)

// measureArchiveLag measures transit lag with and without runs of the archive, which follow each other without a break.
func measureArchiveLag(ctx context.Context, m *measuring) error {
	s, err := m.sites(ctx, harness.Options{
		MaxBytes: "20Gi", Volumes: 1, Size: lagVolume, Interval: time.Second, Memory: "256Mi", Archive: "{every: 0s, labeled: true, prune: 0s}",
	})
	if err != nil {
		return err
	}
	if err := s.fill(ctx); err != nil {
		return err
	}
	begun := time.Now()
	if err := s.archive(ctx); err != nil { // the whole volume; later runs have what was written since
		return err
	}
	m.result("first archive of a volume that is being replicated", lagVolume/time.Since(begun).Seconds()/1e6, "MB/s", nil)
	var quiet, busy, quiet99, busy99, runs []float64
	for round := range 3 {
		for i := range 2 {
			w := &writers{size: lagVolume, length: 64 << 10, depth: 8, random: true, rate: lagRate}
			if (round+i)%2 == 0 {
				lags, _, err := s.lags(ctx, w, m.lasting(10*time.Second))
				if err != nil {
					return err
				}
				quiet, quiet99 = append(quiet, median(lags)), append(quiet99, percentile(lags, 99))
				continue
			}
			lags, n, err := s.whileArchiving(ctx, w, m.lasting(10*time.Second))
			if err != nil {
				return err
			}
			busy, busy99, runs = append(busy, median(lags)), append(busy99, percentile(lags, 99)), append(runs, float64(n))
		}
	}
	m.held("transit lag while archiving, against that without, p50", median(ratios(busy, quiet)), "x", atMost, 2,
		map[string]float64{"archiving ms": median(busy), "without ms": median(quiet), "runs in a round": median(runs), "writes MB/s": lagRate / 1e6})
	m.held("transit lag while archiving, against that without, p99", median(ratios(busy99, quiet99)), "x", atMost, 2,
		map[string]float64{"archiving ms": median(busy99), "without ms": median(quiet99)})
	return nil
}

// fill writes the whole volume once.
func (s *sites) fill(ctx context.Context) error {
	c, err := s.Dial(ctx, 0)
	if err != nil {
		return err
	}
	defer func() { _ = c.Disconnect() }()
	for off := int64(0); off < lagVolume; off += 1 << 20 {
		at := off % int64(len(noise)/2)
		if err := c.Write(ctx, noise[at:at+1<<20], off); err != nil {
			return err
		}
	}
	point, err := s.mark(ctx)
	if err != nil {
		return err
	}
	return s.appliedTo(ctx, point)
}

// archive makes a labelled point and waits until it is archived.
func (s *sites) archive(ctx context.Context) error {
	point, err := s.mark(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		status, err := s.Status()
		if err == nil && status.Archive != nil && status.Archive.Newest != nil && status.Archive.Newest.Barrier >= point.Token.Barrier {
			return nil
		}
		if err == nil && status.Archive != nil && status.Archive.Problem != "" {
			err = errors.New(status.Archive.Problem)
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// whileArchiving is lags while points are archived one after the other, and how many were.
func (s *sites) whileArchiving(ctx context.Context, w *writers, d time.Duration) (lags []float64, runs int, err error) {
	marking, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		for {
			if err := s.archive(marking); err != nil {
				ended <- err
				return
			}
			runs++
		}
	}()
	lags, _, err = s.lags(ctx, w, d)
	stopped := marking.Err()
	stop()
	if failed := <-ended; err == nil && stopped == nil && !errors.Is(failed, context.Canceled) {
		err = failed
	}
	return lags, runs, err
}
