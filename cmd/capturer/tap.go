package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/cdc/activity"
	"github.com/farshore/farshore/pkg/cdc/nbd"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

const (
	// drainLimit bounds how long an end waits for the journal. What isn't stored by then is listed in the
	// activity log, and the next start sends it.
	drainLimit = 15 * time.Second
	// movedGrace is how long a fenced tap goes on to answer EIO while it may turn out that the document has
	// given the volume to the capturer that fenced it.
	movedGrace = 5 * time.Second
	// measureEvery is how often a device is measured whose size the document leaves open.
	measureEvery = 5 * time.Second
	// incoming is what the data of a volume's writes has of the process's budget in any case, in bytes: a volume whose
	// writes wait keeps no other from receiving some.
	incoming = 2 * nbd.MaxIncoming
	// outgoing is what the data of all volumes' reads has in any case.
	outgoing = 2 * nbd.MaxOutgoing
)

// The scopes of metrics.
const (
	scopeCDC     = "github.com/farshore/farshore/pkg/cdc"
	scopeNBD     = "github.com/farshore/farshore/pkg/cdc/nbd"
	scopeTaps    = "github.com/farshore/farshore/cmd/capturer"
	scopeJournal = "github.com/farshore/farshore/pkg/journal"
	scopeWatch   = "github.com/farshore/farshore/pkg/resourcewatch"
)

// tap is one volume: its device, its activity log, the recorder in between, and the front. It serves the
// volume whether or not there is a journal; attend finds the journal to record into.
type tap struct {
	*capturer
	volume group.Volume
	log    *slog.Logger

	tls      *tls.Config // nil: none
	device   cdc.Device
	activity *activity.Log
	recorder *cdc.Recorder
	listener net.Listener
	resize   chan struct{} // a token: the volume's size may have changed

	tenure tenure // see attend
}

// newTap opens, in this order, what keeps others away: the device, the log, the address.
func newTap(ctx context.Context, c *capturer, v group.Volume) (t *tap, err error) {
	t = &tap{capturer: c, volume: v, log: c.env.Log.With("volume", v.Name), resize: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	if t.tls, err = serverTLS(v.TLS); err != nil {
		return t, err
	}
	if t.device, err = openDevice(v); err != nil {
		return t, err
	}
	capture, name := c.env.Group.Spec.Capture, c.env.Group.Metadata.Name
	t.activity, err = activity.Open(activity.Options{
		Path: filepath.Join(c.state, v.Name+".activity"), UID: v.UID, Size: t.device.Size(), Hot: capture.HotRegions,
		Flush: t.device.Flush, Modified: modified(v.Path), Log: t.log, Meter: c.env.Telemetry.Meter(scopeCDC),
		Attributes: attribute.NewSet(attribute.String("group", name), attribute.String("volume", v.Name)),
	})
	if err != nil {
		return t, err
	}
	o := cdc.Options{
		Device: t.device, Activity: t.activity, Budget: c.budget,
		Final:      func(err error) bool { return errors.Is(err, journal.ErrFenced) },
		FrameBytes: int(capture.FrameBytes), Linger: time.Duration(capture.Linger), Compress: capture.Compression == group.CompressionS2,
		PassBytesPerSecond: int64(capture.SeedRate), ScrubBytesPerSecond: c.scrubRate(),
		Log: t.log, Meter: c.env.Telemetry.Meter(scopeCDC), Group: name, Volume: v.Name,
	}
	if capture.WhenBusGone == group.BusGoneStall {
		o.WhenBusGone = cdc.Stall
	}
	t.recorder = cdc.NewRecorder(o)
	if t.listener, err = t.listen(ctx); err == nil {
		t.taps.add(t)
	}
	return t, err
}

// scrubRate is a volume's part of what the process may read to compare in the background.
func (c *capturer) scrubRate() int64 {
	rate := int64(c.env.Group.Spec.Capture.ScrubRate)
	if rate == 0 {
		return 0
	}
	return max(1, rate/int64(max(1, len(c.group.Load().VolumesOf(c.name)))))
}

// openDevice opens a volume's device. A file that the document wants larger than it is opens as it is: it grows
// once it is recorded.
func openDevice(v group.Volume) (cdc.Device, error) {
	size := int64(v.Size)
	if info, err := os.Stat(v.Path); err == nil && info.Mode().IsRegular() && info.Size() > 0 && info.Size() < size {
		size = 0
	}
	device, err := cdc.OpenFile(v.Path, size)
	if errors.Is(err, cdc.ErrLocked) {
		return nil, fmt.Errorf("%w; is another capturer running, or is it mounted?", err)
	}
	return device, err
}

// modified tells when a file was last changed; a block device doesn't tell.
func modified(path string) func() (time.Time, error) {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	return func() (time.Time, error) {
		info, err := os.Stat(path)
		if err != nil {
			return time.Time{}, err
		}
		return info.ModTime(), nil
	}
}

// run serves and records the volume until ctx ends or it fails for good. Then the front is closed first and
// the pipeline drained, so that what an application was told is in the journal or in the log.
func (t *tap) run(ctx context.Context, wanted func() int64) error {
	fronts, closeFronts := context.WithCancel(ctx)
	defer closeFronts()
	pipelines, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var first error
	var once sync.Once
	failed := func(err error) {
		if err != nil {
			once.Do(func() { first = fmt.Errorf("volume %s: %w", t.volume.Name, err) })
			closeFronts()
		}
	}
	var working, serving sync.WaitGroup
	working.Go(func() { failed(t.activity.Run(pipelines)) })
	working.Go(func() { failed(t.fencedFor(fronts, t.recorder.Run(pipelines))) })
	working.Go(func() { failed(t.attend(pipelines)) })
	serving.Go(func() { failed(t.export(fronts)) })
	serving.Go(func() { t.follow(fronts, wanted) })
	<-fronts.Done()
	serving.Wait()

	t.drain(pipelines)
	end()
	working.Wait()
	return errors.Join(first, t.close())
}

// fencedFor holds the end of a fenced tap back for a moment: where the document has given the volume to
// whoever fenced it, this one just leaves.
func (t *tap) fencedFor(ctx context.Context, err error) error {
	if !errors.Is(err, journal.ErrFenced) {
		return err
	}
	t.log.Error("fenced: another capturer took the volume over; everything that is written here is refused", "error", err)
	select {
	case <-ctx.Done():
	case <-time.After(movedGrace):
	}
	return err
}

// export serves the volume to its clients until ctx ends and its requests are answered.
func (t *tap) export(ctx context.Context) error {
	writes := t.budget.Reserve(incoming)
	defer writes.Close()
	server := nbd.NewServer(nbd.Options{
		Log: t.log, Meter: t.env.Telemetry.Meter(scopeNBD), TLS: t.tls, Incoming: writes, Outgoing: t.reads,
	})
	server.AddExport(t.volume.Name, t.recorder, false)
	t.log.Info("volume is served", "listen", t.volume.Listen, "bytes", t.recorder.Size())
	if err := server.Serve(ctx, t.listener); err != nil {
		return fmt.Errorf("serve NBD: %w", err)
	}
	return nil
}

// poke tells that the volume's size may have changed.
func (t *tap) poke() {
	select {
	case t.resize <- struct{}{}:
	default:
	}
}

// follow makes the volume as large as the document says, or where that leaves it open, as its device.
func (t *tap) follow(ctx context.Context, wanted func() int64) {
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	told := ""
	for {
		size := wanted()
		if size == 0 {
			size = measure(t.volume.Path)
		}
		if size > t.recorder.Size() {
			if err := t.recorder.Resize(ctx, size); err != nil && err.Error() != told {
				told = err.Error()
				t.log.Error("volume can't grow, trying again", "bytes", size, "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-t.resize:
		case <-tick.C:
		}
	}
}

// measure returns the size of a file or block device, in whole sectors; 0 where that can't be told.
func measure(path string) int64 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0
	}
	return size / sector * sector
}

const sector = 512 // bytes

// drain waits until everything acknowledged is stored, as long as there is a journal and for a while at most. The
// log lists what isn't.
func (t *tap) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	err := t.recorder.Drain(ctx)
	if err == nil || errors.Is(err, cdc.ErrStopped) || errors.Is(err, cdc.ErrDetached) && t.activity.StaleBytes() == 0 {
		return // the reason why it stopped is reported by run
	}
	t.log.Warn("not everything is in the journal yet; the activity log lists it, and the next start sends it",
		"bytes", t.recorder.Heartbeat().DebtBytes, "error", err)
}

// close unlocks what newTap opened; nothing uses it any more.
func (t *tap) close() error {
	t.taps.remove(t)
	var errs [2]error
	if t.listener != nil {
		_ = t.listener.Close() // it is closed already where it was served
	}
	if t.activity != nil {
		errs[0] = t.activity.Close()
	}
	if t.device != nil {
		errs[1] = t.device.Close()
	}
	if err := errors.Join(errs[:]...); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}
