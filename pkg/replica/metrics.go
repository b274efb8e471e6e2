package replica

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

// instruments are what a Follower measures.
type instruments struct {
	group string

	rpo, transit, replaySeconds, captureSeconds, offset, pointTime metric.Float64Gauge
	replayBytes, replayMessages, captureBytes                      metric.Int64Gauge
	journalBytes, journalLimit                                     metric.Int64Gauge
	objectsStored                                                  metric.Int64Gauge
	appliedBytes, appliedCommits, mismatches, mends                metric.Int64Counter
	appliedObjects                                                 metric.Int64Counter
}

// What was mended, as metrics name it.
const (
	mendedHole   = "hole"   // another incarnation of a mirror was made
	mendedLoss   = "loss"   // a new generation was asked for
	mendedRegion = "region" // regions that differ were asked for
)

func newInstruments(m metric.Meter, groupName string) (*instruments, error) {
	if m == nil {
		m = noop.NewMeterProvider().Meter("")
	}
	i := &instruments{group: groupName}
	for _, g := range []struct {
		to         *metric.Float64Gauge
		name, help string
	}{
		{&i.rpo, "farshore.recoverable.rpo", "now minus the time of the newest recovery point"},
		{&i.transit, "farshore.transit.lag", "now minus the source time of the newest event stored at the DR site"},
		{&i.replaySeconds, "farshore.replay.debt.seconds", "stored at the DR site, not applied yet: age"},
		{&i.captureSeconds, "farshore.capture.debt.seconds", "acknowledged to the application, not yet stored in the journal: age of the oldest"},
		{&i.offset, "farshore.clock.offset", "the primary's clock minus the DR site's"},
		{&i.pointTime, "farshore.recovery.point.time", "time of the newest recovery point since 1970"},
	} {
		var err error
		if *g.to, err = m.Float64Gauge(g.name, metric.WithUnit("s"), metric.WithDescription(g.help)); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	for _, g := range []struct {
		to               *metric.Int64Gauge
		name, unit, help string
	}{
		{&i.replayBytes, "farshore.replay.debt.bytes", "By", "stored at the DR site, not applied yet"},
		{&i.replayMessages, "farshore.replay.debt.messages", "{message}", "stored at the DR site, not applied yet"},
		{&i.journalBytes, "farshore.mirrors.bytes", "By", "used by the mirrors of the group's streams at the DR site"},
		{&i.journalLimit, "farshore.mirrors.limit", "By", "what they may use, spec.recovery.journal.maxBytes; 0: no limit"},
		{&i.objectsStored, "farshore.objects.stored", "{object}", "Kubernetes objects in the durable copy at the DR site"},
		{&i.captureBytes, "farshore.capture.debt.bytes", "By", "acknowledged to the application, not yet stored in the journal"},
	} {
		var err error
		if *g.to, err = m.Int64Gauge(g.name, metric.WithUnit(g.unit), metric.WithDescription(g.help)); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	for _, c := range []struct {
		to               *metric.Int64Counter
		name, unit, help string
	}{
		{&i.appliedBytes, "farshore.applied.bytes", "By", "bytes written to replicas"},
		{&i.appliedCommits, "farshore.applied.commits", "{commit}", "commits that the replicas were advanced to"},
		{&i.appliedObjects, "farshore.applied.objects", "{change}", "changes of Kubernetes objects taken into the durable copy"},
		{&i.mends, "farshore.mends", "{mend}", "what was asked for to mend a history, by kind: hole, loss or region"},
		{&i.mismatches, "farshore.region.mismatches", "{region}", "regions that differed from the hash in the journal"},
	} {
		var err error
		if *c.to, err = m.Int64Counter(c.name, metric.WithUnit(c.unit), metric.WithDescription(c.help)); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	i.appliedCommits.Add(context.Background(), 0, i.of(""))
	i.appliedObjects.Add(context.Background(), 0, i.of(""))
	return i, nil
}

func (i *instruments) of(volume string) metric.MeasurementOption {
	labels := []attribute.KeyValue{attribute.String("group", i.group)}
	if volume != "" {
		labels = append(labels, attribute.String("volume", volume))
	}
	return metric.WithAttributeSet(attribute.NewSet(labels...))
}

// mended counts something that was mended, or asked for.
func (i *instruments) mended(ctx context.Context, kind, part string) {
	i.mends.Add(context.WithoutCancel(ctx), 1, i.of(part), metric.WithAttributes(attribute.String("kind", kind)))
}

// room measures what the mirrors use.
func (i *instruments) room(ctx context.Context, bytes, limit uint64) {
	i.journalBytes.Record(ctx, int64(bytes), i.of(""))
	i.journalLimit.Record(ctx, int64(limit), i.of(""))
}

// show measures what a status says. What is not known is not measured.
func (i *instruments) show(ctx context.Context, s *group.Status) {
	of := i.of("")
	if v := s.Lags.RecoverableRPOSeconds; v != nil {
		i.rpo.Record(ctx, *v, of)
	}
	if v := s.ClockOffsetSeconds; v != nil {
		i.offset.Record(ctx, *v, of)
	}
	if p := s.RecoveryPoint; p != nil {
		i.pointTime.Record(ctx, float64(p.Time.UnixNano())/float64(time.Second), of)
	}
	o := s.Objects
	if o == nil {
		o = new(group.ObjectsStatus)
	}
	i.objectsStored.Record(ctx, int64(o.Count), of)
	i.lags(ctx, &o.Lags, i.of(journal.Objects))
	for _, v := range s.Volumes {
		of := i.of(v.Name)
		i.lags(ctx, &v.Lags, of)
		i.mismatches.Add(ctx, 0, of)
		i.appliedBytes.Add(ctx, 0, of)
	}
}

// lags measures the lags of a part.
func (i *instruments) lags(ctx context.Context, l *group.Lags, of metric.MeasurementOption) {
	if l := l.TransitLagSeconds; l != nil {
		i.transit.Record(ctx, *l, of)
	}
	if d := l.ReplayDebt; d != nil {
		i.replaySeconds.Record(ctx, d.Seconds, of)
		i.replayBytes.Record(ctx, int64(d.Bytes), of)
		i.replayMessages.Record(ctx, int64(d.Messages), of)
	}
	if d := l.CaptureDebt; d != nil {
		i.captureSeconds.Record(ctx, d.Seconds, of)
		i.captureBytes.Record(ctx, int64(d.Bytes), of)
	}
}
