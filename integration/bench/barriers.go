package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

func measureBarriers(ctx context.Context, m *measuring) error {
	const volumes, size = 8, 64 << 20
	s, err := m.sites(ctx, harness.Options{MaxBytes: "256Mi", Volumes: volumes, Each: 2, Size: size, Interval: 100 * time.Millisecond})
	if err != nil {
		return err
	}
	from := make([]uint64, volumes)
	for i := range volumes {
		t, err := s.primary.Tail(ctx, stream(i).Name())
		if err != nil {
			return err
		}
		from[i] = t.Last + 1
	}
	d := m.lasting(20 * time.Second)
	g, writing := errgroup.WithContext(ctx)
	for i := range volumes {
		g.Go(func() error {
			c, err := s.Dial(writing, i)
			if err != nil {
				return err
			}
			defer func() { _ = c.Disconnect() }()
			return (&writers{size: size, length: 4 << 10, depth: 4, random: true, rate: 1e6}).run(writing, c, d)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	var holds []float64
	for i := range volumes {
		h, err := s.holds(ctx, stream(i), from[i])
		if err != nil {
			return err
		}
		holds = append(holds, h...)
	}
	of := map[string]float64{"marks": float64(len(holds)), "largest ms": percentile(holds, 100)}
	m.held("hold of a tap, p50", median(holds), "ms", atMost, 5, of)
	m.held("hold of a tap, p99", percentile(holds, 99), "ms", atMost, 30, nil)
	return nil
}

// stream is the first generation of volume i.
func stream(i int) journal.StreamID {
	return journal.StreamID{Group: harness.Group, Part: harness.Volume(i), Generation: 1}
}

// holds reads from the marks of a stream how long admission was closed, in ms.
func (s *sites) holds(ctx context.Context, id journal.StreamID, from uint64) ([]float64, error) {
	t, err := s.primary.Tail(ctx, id.Name())
	if err != nil {
		return nil, err
	}
	r, err := s.primary.OpenReader(ctx, id.Name(), from)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var out []float64
	for {
		e, err := r.Next(ctx)
		if err != nil {
			return nil, err
		}
		if mark, is := e.Event.(*events.Mark); is {
			out = append(out, ms(mark.Hold))
		}
		if e.Seq >= t.Last {
			break
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("stream %s: %w", id.Name(), errors.New("no mark was made"))
	}
	return out, nil
}
