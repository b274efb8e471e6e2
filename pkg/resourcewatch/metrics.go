package resourcewatch

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// counters are what tenures count; the meter reads them when it is asked.
type counters struct{ upserts, deletes, lists atomic.Int64 }

// observe registers the watcher's instruments. It returns what takes them back.
func (w *Watcher) observe(m metric.Meter) (stop func(), err error) {
	if m == nil {
		return func() {}, nil
	}
	var failed []error
	gauge := func(name, unit, description string) metric.Int64ObservableGauge {
		g, err := m.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description))
		failed = append(failed, err)
		return g
	}
	counter := func(name, unit, description string) metric.Int64ObservableCounter {
		c, err := m.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
		failed = append(failed, err)
		return c
	}
	watched := gauge("farshore.objects.watched", "{object}", "objects that the API server holds of the kinds that are watched")
	captured := gauge("farshore.objects.captured", "{object}", "objects of the group that the journal holds")
	refused := gauge("farshore.objects.refused", "{request}", "kinds, by namespace and verb, that the API server refuses to show")
	failing := gauge("farshore.objects.failing", "{kind}", "kinds that are not captured for another reason")
	queued := gauge("farshore.objects.queue.bytes", "By", "changes that wait for the journal")
	sent := counter("farshore.objects.events", "{event}", "changes of objects handed to the journal")
	dropped := counter("farshore.objects.queue.drops", "{queue}", "queues given up for want of room: of these kinds only the newest state is sent")
	age, err := m.Float64ObservableGauge("farshore.objects.proven.age", metric.WithUnit("s"),
		metric.WithDescription("now minus the time of the API server's revision up to which every change is in the journal"))
	if err := errors.Join(append(failed, err)...); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	group := attribute.String("group", w.o.Group)
	labels := metric.WithAttributeSet(attribute.NewSet(group))
	verb := func(v string) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(group, attribute.String("verb", v)))
	}
	upserts, deletes, lists := verb("upsert"), verb("delete"), verb("list")
	reg, err := m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := w.Status()
		used, overflows := w.budget.state()
		o.ObserveInt64(watched, int64(s.Objects), labels)
		o.ObserveInt64(refused, int64(len(s.Refused)), labels)
		o.ObserveInt64(failing, int64(len(s.Failing)), labels)
		o.ObserveInt64(queued, used, labels)
		o.ObserveInt64(dropped, overflows, labels)
		o.ObserveInt64(sent, w.count.upserts.Load(), upserts)
		o.ObserveInt64(sent, w.count.deletes.Load(), deletes)
		o.ObserveInt64(sent, w.count.lists.Load(), lists)
		if w.tenure() != nil {
			o.ObserveInt64(captured, int64(s.Selected), labels)
		}
		if !s.Proven.IsZero() {
			o.ObserveFloat64(age, time.Since(s.Proven).Seconds(), labels)
		}
		return nil
	}, watched, captured, refused, failing, queued, sent, dropped, age)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return func() { _ = reg.Unregister() }, nil // it fails only where it was done before
}
