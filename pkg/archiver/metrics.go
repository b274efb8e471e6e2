package archiver

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
)

// instruments are what an Archiver measures.
type instruments struct {
	of metric.MeasurementOption

	points, waiting                    metric.Int64Gauge
	lag                                metric.Float64Gauge
	runs, failures, read, stored, lost metric.Int64Counter
	duration                           metric.Float64Histogram
}

func newInstruments(m metric.Meter, group string) (*instruments, error) {
	if m == nil {
		m = noop.NewMeterProvider().Meter("")
	}
	i := &instruments{of: metric.WithAttributes(attribute.String("group", group))}
	var err error
	for _, g := range []struct {
		to         *metric.Int64Gauge
		name, help string
	}{
		{&i.points, "farshore.archive.points", "points in the archive"},
		{&i.waiting, "farshore.archive.waiting", "labelled commits that are still to be archived"},
	} {
		if *g.to, err = m.Int64Gauge(g.name, metric.WithUnit("{point}"), metric.WithDescription(g.help)); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	for _, c := range []struct {
		to               *metric.Int64Counter
		name, unit, help string
	}{
		{&i.runs, "farshore.archive.runs", "{run}", "commits that were archived"},
		{&i.failures, "farshore.archive.failures", "{failure}", "attempts to archive that failed"},
		{&i.lost, "farshore.archive.lost", "{point}", "labelled commits whose history went before they were archived"},
		{&i.read, "farshore.archive.read", "By", "read from the replicas to be archived"},
		{&i.stored, "farshore.archive.stored", "By", "stored in the archive"},
	} {
		if *c.to, err = m.Int64Counter(c.name, metric.WithUnit(c.unit), metric.WithDescription(c.help)); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	if i.lag, err = m.Float64Gauge("farshore.archive.lag", metric.WithUnit("s"),
		metric.WithDescription("how far the newest archived commit is behind the replicas' one")); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	if i.duration, err = m.Float64Histogram("farshore.archive.run", metric.WithUnit("s"), metric.WithDescription("how long it took to archive a commit"),
		metric.WithExplicitBucketBoundaries(0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000)); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return i, nil
}

// archived measures a commit that was archived.
func (i *instruments) archived(ctx context.Context, read, stored int64, took time.Duration) {
	ctx = context.WithoutCancel(ctx)
	i.runs.Add(ctx, 1, i.of)
	i.read.Add(ctx, read, i.of)
	i.stored.Add(ctx, stored, i.of)
	i.duration.Record(ctx, took.Seconds(), i.of)
}

// failed counts an attempt that failed.
func (i *instruments) failed(ctx context.Context) {
	i.failures.Add(context.WithoutCancel(ctx), 1, i.of)
}

// gone counts a commit that can't be archived any more.
func (i *instruments) gone() { i.lost.Add(context.Background(), 1, i.of) }

// measure shows how the archive stands. Counters are there from the start, as 0.
func (a *Archiver) measure(ctx context.Context) {
	s := a.Status()
	if s == nil {
		return
	}
	i := a.metrics
	i.points.Record(ctx, int64(s.Points), i.of)
	i.waiting.Record(ctx, int64(s.Waiting), i.of)
	for _, c := range []metric.Int64Counter{i.runs, i.failures, i.lost, i.read, i.stored} {
		c.Add(ctx, 0, i.of)
	}
	if s.LagSeconds != nil {
		i.lag.Record(ctx, *s.LagSeconds, i.of)
	}
}
