package activity

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/metric"
)

// counters are what is counted under the log's lock.
type counters struct {
	commits int64
	errors  int64
	flushes int64 // of the device, by the log itself
	waits   int64 // of mutations, for room
}

// observe registers the log's instruments. It returns what takes them back.
func (l *Log) observe(m metric.Meter) (stop func(), err error) {
	if m == nil {
		return func() {}, nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("register metrics: %w", err)
		}
	}()
	hot, err0 := m.Int64ObservableGauge("farshore.activity.hot.bytes", metric.WithUnit("By"),
		metric.WithDescription("what a crash would make to be sent again, beside what is stale"))
	stale, err1 := m.Int64ObservableGauge("farshore.activity.stale.bytes", metric.WithUnit("By"),
		metric.WithDescription("what has to be sent again"))
	commits, err2 := m.Int64ObservableCounter("farshore.activity.commits", metric.WithUnit("{commit}"),
		metric.WithDescription("commits of the activity log"))
	failed, err3 := m.Int64ObservableCounter("farshore.activity.commits.failed", metric.WithUnit("{commit}"),
		metric.WithDescription("commits of the activity log that failed"))
	waits, err4 := m.Int64ObservableCounter("farshore.activity.waits", metric.WithUnit("{operation}"),
		metric.WithDescription("mutations that waited for room in the activity log"))
	for _, err := range []error{err0, err1, err2, err3, err4} {
		if err != nil {
			return nil, err
		}
	}
	labels := metric.WithAttributeSet(l.o.Attributes)
	reg, err := m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		o.ObserveInt64(hot, int64(l.lru.n)*RegionSize, labels)
		o.ObserveInt64(stale, l.staleBytes(), labels)
		o.ObserveInt64(commits, l.count.commits, labels)
		o.ObserveInt64(failed, l.count.errors, labels)
		o.ObserveInt64(waits, l.count.waits, labels)
		return nil
	}, hot, stale, commits, failed, waits)
	if err != nil {
		return nil, err
	}
	return func() { _ = reg.Unregister() }, nil // it fails only where it was done before
}
