package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/cdc/activity"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

const (
	inProcessSize  = 256 << 20
	inProcessWrite = 4 << 10
)

// storing is a way to store writes in a stream.
type storing interface {
	write(ctx context.Context, p []byte, off int64) error
	// drain returns when everything is stored.
	drain(ctx context.Context) error
}

func measureInProcess(ctx context.Context, m *measuring) error {
	p, err := m.pair(harness.Options{Volumes: 1})
	if err != nil {
		return err
	}
	p.PrimaryBus.Start()
	p.PrimaryBus.WaitReady()
	site := p.PrimarySite(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	one, err := newPerMessage(ctx, m, p.PrimaryURL)
	if err != nil {
		return err
	}
	recorders := map[string]storing{}
	for _, compress := range []bool{false, true} {
		name := map[bool]string{false: "recorder", true: "recorder, compressing"}[compress]
		r, err := newRecording(ctx, m, site, compress)
		if err != nil {
			return err
		}
		recorders[name] = r
	}
	for _, kind := range []struct {
		name, recorder string
		target         float64
		compressible   bool
	}{{"random data", "recorder", 1.5, false}, {"compressible data", "recorder, compressing", 3, true}} {
		rate := map[string][]float64{}
		for round := range 5 {
			for i := range 2 {
				name, s := "one message per write", storing(one)
				if (round+i)%2 == 0 {
					name, s = kind.recorder, recorders[kind.recorder]
				}
				n, err := storeFor(ctx, s, m.lasting(2*time.Second), kind.compressible)
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				rate[name] = append(rate[name], n)
			}
		}
		m.held(kind.name, median(ratios(rate[kind.recorder], rate["one message per write"])), "x", atLeast, kind.target, map[string]float64{
			kind.recorder + " per s": median(rate[kind.recorder]), "one message per write per s": median(rate["one message per write"]),
		})
	}
	return nil
}

// storeFor writes for a while, and returns how many writes a second were stored.
func storeFor(ctx context.Context, s storing, d time.Duration, compressible bool) (float64, error) {
	data := noise
	if compressible {
		data = text
	}
	begun := time.Now()
	var count atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for i := range 8 {
		g.Go(func() error {
			r := rand.New(rand.NewPCG(uint64(begun.UnixNano()), uint64(i)))
			for time.Since(begun) < d {
				at := r.IntN((len(data)-inProcessWrite)/512) * 512
				if err := s.write(ctx, data[at:at+inProcessWrite], r.Int64N(inProcessSize/inProcessWrite)*inProcessWrite); err != nil {
					return err
				}
				count.Add(1)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	if err := s.drain(context.WithoutCancel(ctx)); err != nil {
		return 0, err
	}
	return float64(count.Load()) / time.Since(begun).Seconds(), nil
}

// text compresses to about a third, as databases' pages often do: each 4 KiB have some that is random.
var text = func() []byte {
	b := append([]byte(nil), noise...)
	const line = "2026-01-02T03:04:05Z INFO order accepted customer=4711 amount=12.50 currency=EUR "
	for at := 0; at < len(b); at += 128 {
		copy(b[at:min(at+96, len(b))], line+line)
	}
	return b
}()

// perMessage stores each write in a message of its own.
type perMessage struct {
	device *cdc.Passthrough
	js     jetstream.JetStream
}

func newPerMessage(ctx context.Context, m *measuring, url string) (*perMessage, error) {
	d, err := cdc.OpenFile(m.path("messages.img"), inProcessSize)
	if err != nil {
		return nil, err
	}
	m.later(func() { _ = d.Close() })
	nc, err := nats.Connect(url)
	if err != nil {
		return nil, err
	}
	m.later(nc.Close)
	js, err := jetstream.NewWithDomain(nc, "primary", jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		return nil, err
	}
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "MESSAGES", Subjects: []string{"messages"}, Discard: jetstream.DiscardOld, MaxBytes: 4 << 30})
	return &perMessage{cdc.Direct(d), js}, err
}

func (s *perMessage) write(ctx context.Context, p []byte, off int64) error {
	if err := s.device.Write(ctx, p, off, false); err != nil {
		return err
	}
	_, err := s.js.PublishAsync("messages", p, jetstream.WithStallWait(10*time.Second))
	return err
}

func (s *perMessage) drain(ctx context.Context) error {
	select {
	case <-s.js.PublishAsyncComplete():
		return nil
	case <-time.After(time.Minute):
		return errors.New("messages aren't acknowledged after a minute")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// recording is a recorder with a stream.
type recording struct{ *cdc.Recorder }

func (r recording) write(ctx context.Context, p []byte, off int64) error {
	return r.Write(ctx, p, off, false)
}
func (r recording) drain(ctx context.Context) error { return r.Drain(ctx) }

// newRecording records a device of its own until ctx ends, and returns when it is equal to its stream.
func newRecording(ctx context.Context, m *measuring, site *journal.Site, compress bool) (storing, error) {
	part := map[bool]string{false: "plain", true: "compressed"}[compress]
	device, err := cdc.OpenFile(m.path(part+".img"), inProcessSize)
	if err != nil {
		return nil, err
	}
	log, err := activity.Open(activity.Options{Path: m.path(part + ".activity"), UID: part, Size: inProcessSize, Flush: device.Flush})
	if err != nil {
		return nil, err
	}
	generation, err := site.Generation(ctx, "bench", part)
	if err != nil {
		return nil, err
	}
	id := journal.StreamID{Group: "bench", Part: part, Generation: generation}
	if err := site.EnsureStream(ctx, id, journal.StreamOptions{UID: part, Size: inProcessSize, Replicas: 1}); err != nil {
		return nil, err
	}
	r := cdc.NewRecorder(cdc.Options{Device: device, Activity: log, Budget: cdc.NewBudget(256 << 20), Compress: compress})
	writer, err := site.OpenWriter(ctx, id, journal.WriterOptions{
		Writer: "bench", Heartbeat: r.Heartbeat,
		Open: func(uint64) *events.Epoch {
			return &events.Epoch{Writer: "bench", UID: part, Size: inProcessSize, BlockSize: device.BlockSize()}
		},
	})
	if err != nil {
		return nil, err
	}
	if err := log.Adopt(activity.Stream{Generation: generation, Created: writer.Created(), Epoch: writer.Epoch()}); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	for _, f := range []func(context.Context) error{
		log.Run, r.Run, writer.Run,
		func(ctx context.Context) error { return r.Record(ctx, writer, cdc.Tenure{}) },
	} {
		work.Go(func() {
			if err := f(ctx); err != nil {
				m.tb.Error(err)
			}
		})
	}
	m.later(func() {
		cancel()
		work.Wait()
		_ = log.Close() // nothing of this is used again
		_ = device.Close()
	})
	for limit := time.Now().Add(time.Minute); ; pause(ctx, 5*time.Millisecond) {
		if ok, _ := r.Ready(); ok {
			return recording{r}, nil
		}
		if time.Now().After(limit) {
			return nil, errors.New("the recorder's first pass doesn't end")
		}
	}
}
