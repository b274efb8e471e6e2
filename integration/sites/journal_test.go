package sites

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

var (
	orders  = journal.StreamID{Group: "shop", Part: "orders", Generation: 1}
	control = journal.StreamID{Group: "shop", Part: journal.Control, Generation: 1}
)

// write opens the stream as the role may and appends heartbeats.
func write(t *testing.T, s *journal.Site, id journal.StreamID, n int) *journal.Writer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	generation, err := s.Generation(ctx, id.Group, id.Part)
	if err != nil || generation != 1 {
		t.Fatalf("generation %d, %v", generation, err)
	}
	if err := s.EnsureStream(ctx, id, journal.StreamOptions{UID: "u", MaxBytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	w, err := s.OpenWriter(ctx, id, journal.WriterOptions{
		Writer: "test", HeartbeatEvery: -1,
		Open: func(uint64) *events.Epoch { return &events.Epoch{Writer: "test", UID: "u"} },
	})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = w.Run(running) // what it fails with, WaitStored tells
	}()
	t.Cleanup(func() { stop(); <-ended })
	appendAll(t, w, n)
	return w
}

func appendAll(t *testing.T, w *journal.Writer, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var seq uint64
	for range n {
		var err error
		if seq, err = w.Append(ctx, new(events.Heartbeat)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WaitStored(ctx, seq); err != nil {
		t.Fatal(err)
	}
}

// mirrored waits until the applier's mirror holds as much as the writer stored, and reads it.
func mirrored(t *testing.T, dr *journal.Site, id journal.StreamID, last uint64) {
	t.Helper()
	eventually(t, 30*time.Second, "the mirror catches up", func() error {
		if err := dr.EnsureMirror(t.Context(), id, 1, 1); err != nil {
			return err // while the connection is down
		}
		tail, err := dr.Tail(t.Context(), id.Mirror(1))
		if err == nil && tail.Last != last {
			err = fmt.Errorf("mirror at %d, stream at %d", tail.Last, last)
		}
		return err
	})
	r, err := dr.OpenReader(t.Context(), id.Mirror(1), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for seq := uint64(1); seq <= last; seq++ {
		if m, err := r.Next(ctx); err != nil || m.Seq != seq {
			t.Fatalf("read %d: %d, %v", seq, m.Seq, err)
		}
	}
}

// Each role can do all of its work, and what is written arrives, also across a restart of either server.
func TestRolesCanWork(t *testing.T) {
	p := startPair(t)
	capturer, snapshotter, applier := p.connect(t, "primary", "capturer"), p.connect(t, "primary", "snapshotter"), p.connect(t, "dr", "applier")
	volume, log := write(t, capturer, orders, 3000), write(t, snapshotter, control, 100)
	streams, err := applier.PeerStreams(t.Context(), "shop")
	if err != nil || len(streams) != 2 {
		t.Fatalf("origins: %v, %v", streams, err)
	}
	mirrored(t, applier, orders, volume.Stored())
	mirrored(t, applier, control, log.Stored())
	for _, site := range []string{"primary", "dr"} {
		p.restart(t, site)
		appendAll(t, volume, 100)
		mirrored(t, applier, orders, volume.Stored())
	}
	if err := applier.Purge(t.Context(), orders.Mirror(1), 10); err != nil {
		t.Error(err)
	}
	if err := capturer.Purge(t.Context(), orders.Name(), 10); err != nil {
		t.Error(err)
	}
	stream, err := capturer.JetStream().Stream(t.Context(), orders.Name())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := capturer.JetStream().UpdateStream(t.Context(), stream.CachedInfo().Config); err != nil {
		t.Errorf("the writer can't claim its stream: %v", err)
	}
	kv, err := applier.KV(t.Context(), "farshore-status", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(t.Context(), "shop", []byte("{}")); err != nil {
		t.Error(err)
	}
	operator := p.connect(t, "dr", "operator")
	if kv, err = operator.KV(t.Context(), "farshore-status", 0); err != nil {
		t.Fatal(err)
	}
	if e, err := kv.Get(t.Context(), "shop"); err != nil || string(e.Value()) != "{}" {
		t.Errorf("status: %v", err)
	}
	if _, err := operator.Tail(t.Context(), control.Mirror(1)); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := kv.Put(ctx, "shop", []byte("forged")); err == nil {
		t.Error("the operator wrote the status")
	}
}

// party answers what either shore asks of the other.
type party struct {
	repair.Capture
	repair.Recovery
}

func (party) Stored(context.Context, string, uint32) (uint64, error) { return 7, nil }

func (party) Scrub(context.Context) (repair.Scrub, error) { return repair.Scrub{Number: 1}, nil }

// The shores can ask each other for repair, each with its own key, and get their answers.
func TestRolesCanRepair(t *testing.T) {
	p := startPair(t)
	capturer, snapshotter := p.connect(t, "primary", "capturer"), p.connect(t, "primary", "snapshotter")
	applier := p.connect(t, "dr", "applier")
	ctx, stop := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	defer func() { stop(); serving.Wait() }()
	for _, serve := range []func() error{
		func() error { return repair.ServeCapture(ctx, capturer.Conn(), "shop", "orders", party{}) },
		func() error { return repair.ServeCapture(ctx, snapshotter.Conn(), "shop", journal.Control, party{}) },
		func() error { return repair.ServeRecovery(ctx, applier.Conn(), "shop", party{}) },
	} {
		serving.Go(func() {
			if err := serve(); err != nil {
				t.Error(err)
			}
		})
	}
	for _, role := range []string{"capturer", "snapshotter"} {
		conn := p.connect(t, "primary", role).Conn()
		eventually(t, 20*time.Second, "the applier answers the "+role, func() error {
			_, err := repair.RecoveryOf(conn, "shop").Stored(t.Context(), "orders", 1)
			return err
		})
	}
	for _, asker := range [][2]string{{"dr", "applier"}, {"dr", "operator"}, {"primary", "operator"}} {
		conn := p.connect(t, asker[0], asker[1]).Conn()
		for _, part := range []string{"orders", journal.Control} {
			eventually(t, 20*time.Second, part+"'s writer answers the "+asker[1], func() error {
				_, err := repair.CaptureOf(conn, "shop", part).Scrub(t.Context())
				return err
			})
		}
	}
}

// A capturer can make, change, pause and delete what mending a history takes.
func TestCapturerCanMend(t *testing.T) {
	p := startPair(t)
	capturer := p.connect(t, "primary", "capturer")
	w := write(t, capturer, orders, 10)
	js := capturer.JetStream()
	c, err := js.CreatePushConsumer(t.Context(), orders.Name(), jetstream.ConsumerConfig{
		Durable: "dr_m2", DeliverSubject: "fsmirror.shop.orders.g1.m2", DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: 5,
		AckPolicy: jetstream.AckFlowControlPolicy, FlowControl: true, IdleHeartbeat: time.Second, MaxAckPending: 20000,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.PauseConsumer(t.Context(), orders.Name(), c.CachedInfo().Name, time.Now().Add(time.Hour)); err != nil {
		t.Error(err)
	}
	if _, err := js.ResumeConsumer(t.Context(), orders.Name(), c.CachedInfo().Name); err != nil {
		t.Error(err)
	}
	if err := js.DeleteStream(t.Context(), w.ID().Name()); err != nil {
		t.Errorf("an old generation can't be deleted: %v", err)
	}
}

// A capturer can write the objects stream, and remember what it sent as its memory does: note, read as a whole, forget, and drop a
// generation.
func TestCapturerCanRecordObjects(t *testing.T) {
	p := startPair(t)
	capturer := p.connect(t, "primary", "capturer")
	write(t, capturer, journal.StreamID{Group: "shop", Part: journal.Objects, Generation: 1}, 10)
	ctx := t.Context()
	kv, err := capturer.JetStream().CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "farshore-objects", LimitMarkerTTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"shop.g1", "shop.g1.apps.deployments.bank.web", "shop.g1._.configmaps.bank.a"} {
		if _, err := kv.Put(ctx, key, []byte("x")); err != nil {
			t.Fatalf("note %s: %v", key, err)
		}
	}
	if err := kv.Purge(ctx, "shop.g1._.configmaps.bank.a", jetstream.PurgeTTL(time.Hour)); err != nil {
		t.Errorf("forget: %v", err)
	}
	w, err := kv.Watch(ctx, "shop.g1.>", jetstream.IgnoreDeletes())
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	n := 0
	for e := range w.Updates() {
		if e == nil {
			break
		}
		n++
	}
	if err := w.Stop(); err != nil || n != 1 {
		t.Errorf("%d entries were read, %v", n, err)
	}
	if _, err := kv.Get(ctx, "shop.g1"); err != nil {
		t.Errorf("read one: %v", err)
	}
	stream, err := capturer.JetStream().Stream(ctx, "KV_farshore-objects")
	if err == nil {
		err = stream.Purge(ctx, jetstream.WithPurgeSubject("$KV.farshore-objects.shop.g1.>"))
	}
	if err != nil {
		t.Errorf("drop a generation: %v", err)
	}
}
