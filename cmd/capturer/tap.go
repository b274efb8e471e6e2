package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/barrier"
	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/cdc/activity"
	"github.com/farshore/farshore/pkg/cdc/nbd"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

// retryEvery is the pause between two attempts to reach the journal at the start.
const retryEvery = 2 * time.Second

// nbdMemory bounds the payloads that a volume's clients have in flight, in bytes. It stands beside
// the recorders' budget.
const nbdMemory = 64 << 20

// tap is one volume: its device, its stream, the recorder in between, and the front.
type tap struct {
	env    *daemon.Env
	volume group.Volume
	name   string // of the writer
	log    *slog.Logger

	tls      *tls.Config // nil: none
	device   cdc.Device
	listener net.Listener

	site     *journal.Site
	writer   *journal.Writer
	activity *activity.Log
	recorder *cdc.Recorder
}

// newTap opens and locks the volume's device. It doesn't need the journal.
func newTap(env *daemon.Env, v group.Volume, writer, state string) (*tap, error) {
	config, err := serverTLS(v.TLS)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	device, err := cdc.OpenFile(v.Path, int64(v.Size))
	if errors.Is(err, cdc.ErrLocked) {
		return nil, fmt.Errorf("volume %s: %w; is another capturer running, or is it mounted?", v.Name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	t := &tap{env: env, volume: v, name: writer, tls: config, device: device, log: env.Log.With("volume", v.Name)}
	t.activity, err = activity.Open(activity.Options{
		Path: filepath.Join(state, v.Name+".activity"), UID: v.UID, Size: device.Size(), Hot: env.Group.Spec.Capture.HotRegions,
		Flush: device.Flush, Log: t.log, Meter: env.Telemetry.Meter("github.com/farshore/farshore/pkg/cdc/activity"),
	})
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", v.Name, errors.Join(err, device.Close()))
	}
	return t, nil
}

// attach takes the volume's stream over and puts the recorder between it and the device. It tries
// again while the journal can't be reached, and gives up only on what waiting doesn't change.
func (t *tap) attach(ctx context.Context, site *journal.Site, budget *cdc.Budget) error {
	t.site = site
	for {
		err := t.takeOver(ctx)
		var config *journal.ConfigError
		if err == nil {
			break
		}
		if ctx.Err() != nil || errors.As(err, &config) {
			return fmt.Errorf("volume %s: %w", t.volume.Name, err)
		}
		t.log.Warn("journal is not available, trying again", "error", err)
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
			return fmt.Errorf("volume %s: %w", t.volume.Name, ctx.Err())
		}
	}
	c := t.env.Group.Spec.Capture
	t.recorder = cdc.NewRecorder(cdc.Options{
		Device: t.device, Activity: t.activity, Budget: budget, WhenBusGone: whenBusGone(c.WhenBusGone),
		Final: func(err error) bool {
			return errors.Is(err, journal.ErrFenced) || errors.Is(err, journal.ErrHistoryLost)
		},
		FrameBytes: int(c.FrameBytes), Linger: time.Duration(c.Linger),
		Compress: c.Compression == group.CompressionS2, PassBytesPerSecond: int64(c.SeedRate), ScrubBytesPerSecond: int64(c.ScrubRate),
		Log: t.log, Meter: t.env.Telemetry.Meter("github.com/farshore/farshore/pkg/cdc"),
		Group: t.env.Group.Metadata.Name, Volume: t.volume.Name,
	})
	var err error
	t.listener, err = t.listen(ctx)
	return err
}

func (t *tap) takeOver(ctx context.Context) error {
	g := t.env.Group
	generation, err := t.site.Generation(ctx, g.Metadata.Name, t.volume.Name)
	if err != nil {
		return err
	}
	id := journal.StreamID{Group: g.Metadata.Name, Part: t.volume.Name, Generation: generation}
	err = t.site.EnsureStream(ctx, id, journal.StreamOptions{
		UID: t.volume.UID, Size: t.device.Size(),
		MaxBytes: int64(g.Spec.Journal.MaxBytes), Replicas: g.Spec.Journal.Replicas,
	})
	if err != nil {
		return err
	}
	// The recorder doesn't exist yet; the writer calls these from its Run, when it does.
	t.writer, err = t.site.OpenWriter(ctx, id, journal.WriterOptions{
		Writer: t.name,
		Open: func(uint64) *events.Epoch {
			return &events.Epoch{Writer: t.name, UID: t.volume.UID, Size: t.device.Size(), BlockSize: t.device.BlockSize()}
		},
		Heartbeat: func() *events.Heartbeat { return t.recorder.Heartbeat() },
		Trim:      &journal.TrimOptions{Margin: time.Duration(g.Spec.Journal.Margin)},
		Log:       t.log, Meter: t.env.Telemetry.Meter("github.com/farshore/farshore/pkg/journal"),
	})
	if err != nil {
		return err
	}
	// A log of another stream, or a stream that begins, tells nothing about what is stored in it.
	adopted, _ := t.activity.Tenure()
	if _, fresh := t.activity.Fresh(); fresh || adopted.Generation != generation || t.writer.Previous() == 0 {
		t.activity.AllStale()
	}
	return t.activity.Adopt(activity.Stream{Generation: generation, Epoch: t.writer.Epoch()})
}

func whenBusGone(w group.WhenBusGone) cdc.WhenBusGone {
	if w == group.BusGoneStall {
		return cdc.Stall
	}
	return cdc.Track
}

// record runs the stream's writer and the recorder until ctx ends or one of them fails for good; the
// other one ends with it, and every mutation answers EIO from then on.
func (t *tap) record(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return t.writer.Run(ctx) })
	g.Go(func() error { return t.activity.Run(ctx) })
	g.Go(func() error { return t.recorder.Run(ctx) })
	g.Go(func() error { return t.recorder.Record(ctx, t.writer, cdc.Tenure{}) })
	if err := g.Wait(); err != nil {
		return fmt.Errorf("volume %s: %w", t.volume.Name, err)
	}
	return nil
}

// vote takes part in the group's barriers until ctx ends.
func (t *tap) vote(ctx context.Context) error {
	info := barrier.Info{
		UID: t.volume.UID, Generation: t.writer.ID().Generation, Epoch: t.writer.Epoch(), Size: t.device.Size(),
	}
	return barrier.Serve(ctx, t.site.Conn(), t.env.Group.Metadata.Name, t.volume.Name, info, t.recorder)
}

// export serves the volume to its clients until ctx ends and its requests are answered.
func (t *tap) export(ctx context.Context) error {
	server := nbd.NewServer(nbd.Options{
		Log: t.log, Meter: t.env.Telemetry.Meter("github.com/farshore/farshore/pkg/cdc/nbd"), TLS: t.tls, Memory: nbdMemory,
	})
	server.AddExport(t.volume.Name, t.recorder, false)
	t.log.Info("volume is served", "listen", t.volume.Listen, "bytes", t.device.Size(), "epoch", t.writer.Epoch())
	if err := server.Serve(ctx, t.listener); err != nil {
		return fmt.Errorf("volume %s: serve NBD: %w", t.volume.Name, err)
	}
	return nil
}

// drain waits until everything acknowledged is stored.
func (t *tap) drain(ctx context.Context) error {
	err := t.recorder.Drain(ctx)
	if err == nil || errors.Is(err, cdc.ErrStopped) || errors.Is(err, cdc.ErrDetached) {
		return nil // the reason why it stopped is reported by record
	}
	debt := t.recorder.Heartbeat()
	return fmt.Errorf("volume %s: %d bytes are not in the journal yet, the next start sends them: %w", t.volume.Name, debt.DebtBytes, err)
}

// close unlocks the device; nothing uses it any more.
func (t *tap) close() error {
	if t.listener != nil {
		_ = t.listener.Close() // it is closed already where it was served
	}
	if err := errors.Join(t.activity.Close(), t.device.Close()); err != nil {
		return fmt.Errorf("close volume %s: %w", t.volume.Name, err)
	}
	return nil
}
