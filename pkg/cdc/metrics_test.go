package cdc_test

import (
	"context"
	"math/rand/v2"
	"testing"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/events"
)

func TestMetrics(t *testing.T) {
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader))
	r := newRig(t, 1<<20, func(o *cdc.Options) { o.Meter = provider.Meter("test"); o.Group = "g"; o.Volume = "v" })
	r.journal.lazy = true
	r.run(t)
	ctx := deadline(t)
	must(t, r.Write(ctx, noise(rand.New(rand.NewPCG(1, 1)), 10000), 0, false))
	must(t, r.Trim(ctx, 0, 512, false))
	eventually(t, "frame appended", func() bool { return count[*events.Frame](r.journal.events(t)) == 1 })
	got := collect(t, reader)
	for name, want := range map[string]float64{
		"farshore.captured.bytes":      10000,
		"farshore.captured.operations": 2,
		"farshore.frames":              1,
		"farshore.capture.stale.bytes": 0,
		"farshore.capture.debt.bytes":  10000,
		"farshore.pass.progress":       1,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	if got["farshore.capture.debt.seconds"] <= 0 {
		t.Errorf("debt is %v s old", got["farshore.capture.debt.seconds"])
	}
	must(t, r.stop())
	if got := collect(t, reader); len(got) != 0 {
		t.Errorf("a recorder that has ended still tells %v", got)
	}
}

func collect(t *testing.T, reader metric.Reader) map[string]float64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	must(t, reader.Collect(context.Background(), &all))
	got := map[string]float64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				got[m.Name] = float64(data.DataPoints[0].Value)
			case metricdata.Gauge[int64]:
				got[m.Name] = float64(data.DataPoints[0].Value)
			case metricdata.Gauge[float64]:
				got[m.Name] = data.DataPoints[0].Value
			}
		}
	}
	return got
}
