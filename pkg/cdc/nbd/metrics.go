package nbd

import (
	"context"
	"log/slog"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// metrics are counted here and read by the meter when it collects, since an instrument's Add would
// cost a small request as much as its reply.
type metrics struct {
	connections atomic.Int64
	requests    [commands]atomic.Int64
	errors      [commands]atomic.Int64
	received    atomic.Int64 // bytes of writes
	sent        atomic.Int64 // bytes of reads
}

func newMetrics(meter metric.Meter, log *slog.Logger) *metrics {
	m := &metrics{}
	if meter == nil {
		return m
	}
	if err := m.register(meter); err != nil {
		log.Error("register NBD metrics", "error", err)
	}
	return m
}

func (m *metrics) register(meter metric.Meter) error {
	connections, err := meter.Int64ObservableUpDownCounter("farshore.nbd.connections",
		metric.WithUnit("{connection}"), metric.WithDescription("NBD connections that are open."))
	if err != nil {
		return err
	}
	requests, err := meter.Int64ObservableCounter("farshore.nbd.requests",
		metric.WithUnit("{request}"), metric.WithDescription("NBD requests, by operation."))
	if err != nil {
		return err
	}
	failed, err := meter.Int64ObservableCounter("farshore.nbd.errors",
		metric.WithUnit("{request}"), metric.WithDescription("NBD requests answered with an error, by operation."))
	if err != nil {
		return err
	}
	bytes, err := meter.Int64ObservableCounter("farshore.nbd.io",
		metric.WithUnit("By"), metric.WithDescription("Payload of NBD requests, by direction as the client sees it."))
	if err != nil {
		return err
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(connections, m.connections.Load())
		for c := range commands {
			op := metric.WithAttributes(attribute.String("operation", c.String()))
			o.ObserveInt64(requests, m.requests[c].Load(), op)
			o.ObserveInt64(failed, m.errors[c].Load(), op)
		}
		o.ObserveInt64(bytes, m.sent.Load(), metric.WithAttributes(attribute.String("direction", "read")))
		o.ObserveInt64(bytes, m.received.Load(), metric.WithAttributes(attribute.String("direction", "write")))
		return nil
	}, connections, requests, failed, bytes)
	return err
}

// count notes a request that was answered.
func (m *metrics) count(q request, e errno) {
	c := q.cmd
	if c >= commands {
		return
	}
	m.requests[c].Add(1)
	switch {
	case e != ok:
		m.errors[c].Add(1)
	case c == cmdRead:
		m.sent.Add(int64(q.length))
	case c == cmdWrite:
		m.received.Add(int64(q.length))
	}
}
