package telemetry

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

func start(t *testing.T, o Options) *Telemetry {
	t.Helper()
	tel, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tel.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return tel
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// The names that dashboards use come from OpenTelemetry names and units by the exporter's
// translation: this test holds it to what docs/metrics.md promises.
func TestMetricsAreExported(t *testing.T) {
	tel := start(t, Options{Service: "capturer", Instance: "a", Version: "v1", Listen: "127.0.0.1:0"})
	meter := tel.Meter("test")
	labels := metric.WithAttributes(attribute.String("group", "shop"), attribute.String("volume", "orders"))

	lag, err := meter.Float64Gauge("farshore.transit.lag", metric.WithUnit("s"))
	if err != nil {
		t.Fatal(err)
	}
	lag.Record(t.Context(), 1.5, labels)
	captured, err := meter.Int64Counter("farshore.captured", metric.WithUnit("By"))
	if err != nil {
		t.Fatal(err)
	}
	captured.Add(t.Context(), 7, labels)
	operations, err := meter.Int64Counter("farshore.captured.operations", metric.WithUnit("{operation}"))
	if err != nil {
		t.Fatal(err)
	}
	operations.Add(t.Context(), 3, labels)
	hold, err := meter.Float64Histogram("farshore.barrier.hold", metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(0.0005, 0.001))
	if err != nil {
		t.Fatal(err)
	}
	hold.Record(t.Context(), 0.001, labels)
	ratio, err := meter.Float64Gauge("farshore.pass.progress", metric.WithUnit("1"))
	if err != nil {
		t.Fatal(err)
	}
	ratio.Record(t.Context(), 0.5, labels)

	status, body := get(t, "http://"+tel.Addr()+"/metrics")
	if status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	for _, want := range []string{
		`farshore_transit_lag_seconds{group="shop",volume="orders"} 1.5`,
		`farshore_captured_bytes_total{group="shop",volume="orders"} 7`,
		`farshore_captured_operations_total{group="shop",volume="orders"} 3`,
		`farshore_barrier_hold_seconds_count{group="shop",volume="orders"} 1`,
		`farshore_barrier_hold_seconds_bucket{group="shop",volume="orders",le="0.0005"} 0`,
		`farshore_barrier_hold_seconds_bucket{group="shop",volume="orders",le="0.001"} 1`,
		`farshore_pass_progress_ratio{group="shop",volume="orders"} 0.5`,
		`target_info{service_instance_id="a",service_name="capturer",service_namespace="farshore",service_version="v1"} 1`,
		"go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	if status, body := get(t, "http://"+tel.Addr()+"/healthz"); status != http.StatusOK || body != "ok\n" {
		t.Errorf("healthz: %d %q", status, body)
	}
	if status, _ := get(t, "http://"+tel.Addr()+"/"); status != http.StatusNotFound {
		t.Errorf("root: %d", status)
	}
}

// Two set-ups in one process share nothing.
func TestNothingIsGlobal(t *testing.T) {
	for range 2 {
		tel := start(t, Options{Service: "x", Listen: "127.0.0.1:0"})
		c, err := tel.Meter("test").Int64Counter("farshore.frames")
		if err != nil {
			t.Fatal(err)
		}
		c.Add(t.Context(), 1)
		if _, body := get(t, "http://"+tel.Addr()+"/metrics"); !strings.Contains(body, "\nfarshore_frames_total 1\n") {
			t.Errorf("no single count in\n%s", body)
		}
	}
}

// Without any exporter a span has a context that can travel; with one it is exported.
func TestSpansHaveContexts(t *testing.T) {
	tel := start(t, Options{Service: "x"})
	if tel.Addr() != "" {
		t.Errorf("serves %s, asked for nothing", tel.Addr())
	}
	_, span := tel.Tracer("test").Start(t.Context(), "write")
	if sc := span.SpanContext(); !sc.IsValid() || !sc.IsSampled() {
		t.Errorf("span context %v", sc)
	}
	span.End()

	recorder := tracetest.NewInMemoryExporter()
	exporting := start(t, Options{Service: "x", SpanProcessor: sdktrace.NewSimpleSpanProcessor(recorder)})
	_, span = exporting.Tracer("test").Start(t.Context(), "write")
	span.End()
	if n := len(recorder.GetSpans()); n != 1 {
		t.Errorf("%d spans exported", n)
	}
}

func TestAddressInUse(t *testing.T) {
	tel := start(t, Options{Service: "x", Listen: "127.0.0.1:0"})
	if _, err := Start(t.Context(), Options{Service: "y", Listen: tel.Addr()}); err == nil {
		t.Error("the same address was served twice")
	}
}
