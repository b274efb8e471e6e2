package main

import (
	"context"
	"fmt"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/farshore/farshore/pkg/journal"
)

// taps are those that are open. Its methods may be called concurrently.
type taps struct {
	mu   sync.Mutex
	open map[*tap]bool
}

func (t *taps) add(one *tap) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = make(map[*tap]bool)
	}
	t.open[one] = true
}

func (t *taps) remove(one *tap) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, one)
}

// observe registers what the taps measure beside their recorders. It returns what takes that back.
func (c *capturer) observe() (stop func(), err error) {
	m := c.env.Telemetry.Meter(scopeTaps)
	recording, err0 := m.Int64ObservableGauge("farshore.recording",
		metric.WithDescription("1 while the volume is recorded into a stream, 0 while it is only served; objects: 1 in the one capturer that records them"))
	generation, err1 := m.Int64ObservableGauge("farshore.stream.generation",
		metric.WithDescription("generation of the stream that is recorded into"))
	for _, err := range []error{err0, err1} {
		if err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	reg, err := m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		c.taps.mu.Lock()
		defer c.taps.mu.Unlock()
		tell := func(part string, n int64) {
			labels := metric.WithAttributeSet(attribute.NewSet(
				attribute.String("group", c.env.Group.Metadata.Name), attribute.String("volume", part)))
			o.ObserveInt64(recording, min(n, 1), labels)
			if n > 0 {
				o.ObserveInt64(generation, n, labels)
			}
		}
		for t := range c.taps.open {
			tell(t.volume.Name, t.tenure.generation())
		}
		if c.objects != nil {
			tell(journal.Objects, c.objects.tenure.generation())
		}
		return nil
	}, recording, generation)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return func() { _ = reg.Unregister() }, nil // it fails only where it was done before
}

// generation is the one that is recorded into; 0: none.
func (t *tenure) generation() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.writer == nil {
		return 0
	}
	return int64(t.writer.ID().Generation)
}
