package journal

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
)

// writerMetrics are a writer's instruments.
type writerMetrics struct {
	published metric.Int64Counter
	full      metric.Int64Gauge
	attrs     metric.MeasurementOption
}

func newWriterMetrics(meter metric.Meter, id StreamID) (writerMetrics, error) {
	if meter == nil {
		meter = noop.Meter{}
	}
	published, err := meter.Int64Counter("farshore.published", metric.WithUnit("By"),
		metric.WithDescription("Bytes of messages stored in the journal."))
	if err != nil {
		return writerMetrics{}, err
	}
	full, err := meter.Int64Gauge("farshore.journal.full",
		metric.WithDescription("1 while the stream refuses messages because it has reached its limit."))
	if err != nil {
		return writerMetrics{}, err
	}
	m := writerMetrics{published: published, full: full, attrs: metric.WithAttributeSet(attribute.NewSet(
		attribute.String("group", id.Group), attribute.String("volume", id.Part)))}
	m.setFull(false)
	return m, nil
}

func (m writerMetrics) stored(bytes int64) {
	m.published.Add(context.Background(), bytes, m.attrs)
}

func (m writerMetrics) setFull(full bool) {
	n := int64(0)
	if full {
		n = 1
	}
	m.full.Record(context.Background(), n, m.attrs)
}
