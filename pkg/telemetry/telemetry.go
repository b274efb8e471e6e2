// Package telemetry sets up OpenTelemetry for one process: metrics with a Prometheus endpoint, and
// traces whose contexts travel inside events. Nothing here is global: a process, or a test, can
// have several, and packages get a metric.Meter and a trace.Tracer handed to them.
//
// The endpoint serves /metrics and /healthz in plain HTTP. It tells how far replication has come
// and nothing about content, but it has no authentication: bind it to an address that only the
// monitoring reaches.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Options tell who the process is and where it is asked.
type Options struct {
	Service  string // name of the program: capturer, snapshotter, applier
	Instance string // which one of them, unique among its kind
	Version  string // of the build
	Listen   string // TCP address of /metrics and /healthz, "host:port"; "" for none
	Log      *slog.Logger

	// SpanProcessor gets every span that ends. Nil, the default, exports none: events still
	// carry real trace contexts.
	SpanProcessor sdktrace.SpanProcessor
}

// Telemetry is a process's set-up. Its methods may be called concurrently.
type Telemetry struct {
	meters   *sdkmetric.MeterProvider
	tracers  *sdktrace.TracerProvider
	registry *prometheus.Registry
	server   *http.Server
	addr     string
	served   chan struct{} // closed when the server has ended
}

// Start sets telemetry up and serves it at o.Listen until Shutdown. An address that can't be
// bound is an error; what happens to the endpoint later is logged and harms nothing else.
func Start(ctx context.Context, o Options) (*Telemetry, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo())
	if err != nil {
		return nil, fmt.Errorf("set up metrics: %w", err)
	}
	res := resource.NewSchemaless(
		attribute.String("service.namespace", "farshore"),
		attribute.String("service.name", o.Service),
		attribute.String("service.instance.id", o.Instance),
		attribute.String("service.version", o.Version),
	)
	spans := []sdktrace.TracerProviderOption{sdktrace.WithResource(res)}
	if o.SpanProcessor != nil {
		spans = append(spans, sdktrace.WithSpanProcessor(o.SpanProcessor))
	}
	t := &Telemetry{
		meters:   sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter), sdkmetric.WithResource(res)),
		tracers:  sdktrace.NewTracerProvider(spans...),
		registry: registry,
	}
	if o.Listen == "" {
		return t, nil
	}
	if err := t.serve(ctx, o); err != nil {
		return nil, errors.Join(err, t.Shutdown(ctx))
	}
	return t, nil
}

func (t *Telemetry) serve(ctx context.Context, o Options) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	t.addr = listener.Addr().String()
	t.server = &http.Server{Handler: t.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	t.served = make(chan struct{})
	go func() {
		defer close(t.served)
		if err := t.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) && o.Log != nil {
			o.Log.Error("metrics endpoint ended", "address", t.addr, "error", err)
		}
	}()
	return nil
}

// Meter returns the meter that the package of the given import path makes its instruments with.
func (t *Telemetry) Meter(name string) metric.Meter { return t.meters.Meter(name) }

// Tracer returns the tracer of the package of the given import path. Every span is sampled, so
// that each event can be followed from one site to the other.
func (t *Telemetry) Tracer(name string) trace.Tracer { return t.tracers.Tracer(name) }

// Handler serves /metrics and /healthz, for a process that has an HTTP server of its own.
func (t *Telemetry) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{
		Registry:      t.registry,
		ErrorHandling: promhttp.ContinueOnError, // one bad metric must not hide the lags
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// Addr returns the address that is served, with the real port where Listen asked for port 0; ""
// where there is none.
func (t *Telemetry) Addr() string { return t.addr }

// Shutdown ends the endpoint and flushes spans; it gives up when ctx ends. Instruments may still
// be used behind it and do nothing.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	var errs []error
	if t.server != nil {
		errs = append(errs, t.server.Shutdown(ctx))
		<-t.served
	}
	errs = append(errs, t.meters.Shutdown(ctx), t.tracers.Shutdown(ctx))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("shut telemetry down: %w", err)
	}
	return nil
}
