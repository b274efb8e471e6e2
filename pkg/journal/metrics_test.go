package journal_test

import (
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/journaltest"
)

// What is stored is counted once, and a full stream is seen.
func TestMetrics(t *testing.T) {
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader))
	s := journaltest.One(t)
	ensure(t, s, journal.StreamOptions{MaxBytes: 32 << 10})
	x := start(t, s, "a", func(o *journal.WriterOptions) { o.Meter = provider.Meter("test") })
	look := func() (published, full int64) {
		var all metricdata.ResourceMetrics
		if err := reader.Collect(t.Context(), &all); err != nil {
			t.Fatal(err)
		}
		for _, scope := range all.ScopeMetrics {
			for _, m := range scope.Metrics {
				switch data := m.Data.(type) {
				case metricdata.Sum[int64]:
					published = data.DataPoints[0].Value
				case metricdata.Gauge[int64]:
					full = data.DataPoints[0].Value
				}
			}
		}
		return published, full
	}
	filled := make(chan struct{})
	go func() {
		defer close(filled)
		for n := range 400 {
			if _, err := x.Append(t.Context(), sized(n)); err != nil {
				t.Error(err)
			}
		}
	}()
	eventually(t, "the stream is full", x.Full)
	eventually(t, "a full stream is shown", func() bool { _, full := look(); return full == 1 })
	var tail journal.Tail
	eventually(t, "nothing more comes", func() bool {
		var err error
		tail, err = s.Tail(t.Context(), id.Name())
		return err == nil && tail.Last == x.Stored()
	})
	want, err := s.Bytes(t.Context(), id.Name(), 2, tail.Last) // from behind the Epoch, which OpenWriter stored
	if err != nil {
		t.Fatal(err)
	}
	if published, _ := look(); published != int64(want) {
		t.Errorf("%d bytes published, %d are stored", published, want)
	}
	if err := s.Purge(t.Context(), id.Name(), tail.Last); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the room is seen", func() bool { _, full := look(); return full == 0 })
	for purging := true; purging; {
		select {
		case <-filled:
			purging = false
		case <-time.After(50 * time.Millisecond):
			if err := s.Purge(t.Context(), id.Name(), x.Stored()); err != nil {
				t.Fatal(err)
			}
		}
	}
}
