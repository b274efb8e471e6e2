package rebuild

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/farshore/farshore/pkg/group"
)

// instruments are what a Rebuilder measures.
type instruments struct {
	of                                metric.MeasurementOption
	writes, rehearsals                metric.Int64Counter
	count, current, heldBack, refused metric.Int64Gauge
}

// actions are what the writes are counted by.
var actions = []string{"apply", "replace", "delete"}

func newInstruments(m metric.Meter, groupName string) (*instruments, error) {
	if m == nil {
		m = noop.NewMeterProvider().Meter("")
	}
	i := &instruments{of: metric.WithAttributes(attribute.String("group", groupName))}
	for _, c := range []struct {
		to         *metric.Int64Counter
		name, help string
	}{
		{&i.writes, "farshore.rebuild.writes", "changes made at the DR API server, by action: apply, replace or delete"},
		{&i.rehearsals, "farshore.rebuild.rehearsals", "dry runs of what is held back until a release"},
	} {
		var err error
		if *c.to, err = m.Int64Counter(c.name, metric.WithUnit("{request}"), metric.WithDescription(c.help)); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	for _, g := range []struct {
		to         *metric.Int64Gauge
		name, help string
	}{
		{&i.count, "farshore.rebuild.objects", "objects that the DR site should have"},
		{&i.current, "farshore.rebuild.current", "objects that the DR API server has as they should be"},
		{&i.heldBack, "farshore.rebuild.heldback", "objects that are not applied before a release"},
		{&i.refused, "farshore.rebuild.refused", "objects that the DR API server doesn't take"},
	} {
		var err error
		if *g.to, err = m.Int64Gauge(g.name, metric.WithUnit("{object}"), metric.WithDescription(g.help)); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	for _, action := range actions {
		i.writes.Add(context.Background(), 0, i.of, metric.WithAttributes(attribute.String("action", action)))
	}
	return i, nil
}

// wrote counts a change that the API server stored.
func (i *instruments) wrote(ctx context.Context, action string) {
	i.writes.Add(context.WithoutCancel(ctx), 1, i.of, metric.WithAttributes(attribute.String("action", action)))
}

func (i *instruments) rehearsed(ctx context.Context) {
	i.rehearsals.Add(context.WithoutCancel(ctx), 1, i.of)
}

// show measures what a status says.
func (i *instruments) show(ctx context.Context, count int, s *group.ObjectsStatus) {
	i.count.Record(ctx, int64(count), i.of)
	i.current.Record(ctx, int64(s.Current), i.of)
	i.heldBack.Record(ctx, int64(s.HeldBack), i.of)
	i.refused.Record(ctx, int64(s.Refusals), i.of)
}
