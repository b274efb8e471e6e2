package barrier

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/farshore/farshore/pkg/events"
)

// How a barrier ended, as the label of a metric.
const (
	resultCommitted = "committed"
	resultMissing   = "missing" // a member didn't vote
	resultFailed    = "failed"  // the coordinator could not go on
)

// instruments are the coordinator's metrics.
type instruments struct {
	group    attribute.KeyValue
	interval metric.Float64Histogram
	hold     metric.Float64Histogram
	objects  metric.Float64Histogram
	barriers metric.Int64Counter
	missing  metric.Int64Counter
}

func newInstruments(m metric.Meter, group string) (*instruments, error) {
	if m == nil {
		m = noop.Meter{}
	}
	i := &instruments{group: attribute.String("group", group)}
	var errs [5]error
	i.interval, errs[0] = m.Float64Histogram("farshore.barrier.interval", metric.WithUnit("s"),
		metric.WithDescription("Time between two commits."),
		metric.WithExplicitBucketBoundaries(.01, .05, .1, .25, .5, .75, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 30, 60, 300))
	i.hold, errs[1] = m.Float64Histogram("farshore.barrier.hold", metric.WithUnit("s"),
		metric.WithDescription("How long writes were withheld by a barrier: the longest of its volumes."),
		metric.WithExplicitBucketBoundaries(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1))
	i.objects, errs[4] = m.Float64Histogram("farshore.barrier.objects_hold", metric.WithUnit("s"),
		metric.WithDescription("How long a barrier kept the objects' watcher from appending, the proof of the revision included. No writer of an object waits."),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10))
	i.barriers, errs[2] = m.Int64Counter("farshore.barriers",
		metric.WithDescription("Barriers by how they ended."))
	i.missing, errs[3] = m.Int64Counter("farshore.barrier.missing_votes",
		metric.WithDescription("Votes that a barrier lacked, by the member that was absent."))
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("make metrics of barriers: %w", err)
		}
	}
	return i, nil
}

// committed counts a commit. since is the time since the one before, 0 for the first; objects is how long the
// objects' watcher was held.
func (i *instruments) committed(ctx context.Context, c *events.Commit, since, objects time.Duration) {
	group := metric.WithAttributes(i.group)
	i.barriers.Add(ctx, 1, metric.WithAttributes(i.group, attribute.String("result", resultCommitted)))
	i.hold.Record(ctx, c.Hold.Seconds(), group)
	if c.Objects != nil {
		i.objects.Record(ctx, objects.Seconds(), group)
	}
	if since > 0 {
		i.interval.Record(ctx, since.Seconds(), group)
	}
}

// failed counts a barrier without a commit.
func (i *instruments) failed(ctx context.Context, result string, missing []Absent) {
	i.barriers.Add(ctx, 1, metric.WithAttributes(i.group, attribute.String("result", result)))
	for _, m := range missing {
		i.missing.Add(ctx, 1, metric.WithAttributes(i.group, attribute.String("volume", m.Volume)))
	}
}
