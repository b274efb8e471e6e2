package cdc

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// counters are what the write path counts; the meter reads them when it is asked.
type counters struct {
	bytes      atomic.Int64 // of writes acknowledged
	operations atomic.Int64 // acknowledged
}

// observe registers the recorder's instruments. It returns what takes them back.
func (r *Recorder) observe(m metric.Meter) (stop func(), err error) {
	if m == nil {
		return func() {}, nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("register metrics: %w", err)
		}
	}()
	bytes, err0 := m.Int64ObservableCounter("farshore.captured.bytes", metric.WithUnit("By"),
		metric.WithDescription("bytes of writes acknowledged to the application"))
	operations, err1 := m.Int64ObservableCounter("farshore.captured.operations", metric.WithUnit("{operation}"),
		metric.WithDescription("writes, zeroes and trims acknowledged"))
	frames, err2 := m.Int64ObservableCounter("farshore.frames", metric.WithUnit("{frame}"),
		metric.WithDescription("frames handed to the journal"))
	debtBytes, err3 := m.Int64ObservableGauge("farshore.capture.debt.bytes", metric.WithUnit("By"),
		metric.WithDescription("acknowledged to the application, not yet stored in the journal"))
	debtAge, err4 := m.Float64ObservableGauge("farshore.capture.debt.seconds", metric.WithUnit("s"),
		metric.WithDescription("age of the oldest such byte"))
	stale, err6 := m.Int64ObservableGauge("farshore.capture.stale.bytes", metric.WithUnit("By"),
		metric.WithDescription("of the volume, that have to be sent again"))
	progress, err5 := m.Float64ObservableGauge("farshore.pass.progress", metric.WithUnit("1"),
		metric.WithDescription("how far an open region pass has come; 1 where none is open"))
	for _, err := range []error{err0, err1, err2, err3, err4, err5, err6} {
		if err != nil {
			return nil, err
		}
	}
	labels := metric.WithAttributeSet(attribute.NewSet(
		attribute.String("group", r.o.Group), attribute.String("volume", r.o.Volume)))
	reg, err := m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(bytes, r.count.bytes.Load(), labels)
		o.ObserveInt64(operations, r.count.operations.Load(), labels)
		o.ObserveInt64(frames, r.pipe.frames.Load(), labels)
		o.ObserveInt64(stale, r.log.StaleBytes(), labels)
		debt, since := r.debt()
		o.ObserveInt64(debtBytes, debt, labels)
		o.ObserveFloat64(debtAge, age(since).Seconds(), labels)
		ratio := 1.0
		if p := r.pass.progress(); p.Pass != 0 && p.Total > 0 {
			ratio = float64(p.Done) / float64(p.Total)
		}
		o.ObserveFloat64(progress, ratio, labels)
		return nil
	}, bytes, operations, frames, debtBytes, debtAge, stale, progress)
	if err != nil {
		return nil, err
	}
	return func() { _ = reg.Unregister() }, nil // it fails only where it was done before
}

func age(since time.Time) time.Duration {
	if since.IsZero() {
		return 0
	}
	return time.Since(since)
}
