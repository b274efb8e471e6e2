package nbd

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/cdc/activity"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/journaltest"
)

// recorded is a volume whose mutations go to a real stream. settle drains it and compares what the
// stream says with what the device holds.
func recorded(t testing.TB) *volume {
	t.Helper()
	v := &volume{path: filepath.Join(t.TempDir(), "volume.img")}
	device := v.open(t)
	site := journaltest.One(t)
	id := journal.StreamID{Group: "tools", Part: "disk", Generation: 1}
	ctx, cancel := context.WithCancel(context.Background())
	check(t, site.EnsureStream(ctx, id, journal.StreamOptions{UID: "uid", Size: size, MaxBytes: 4 << 30}))
	writer, err := site.OpenWriter(ctx, id, journal.WriterOptions{
		Writer: "test",
		Open: func(uint64) *events.Epoch {
			return &events.Epoch{Writer: "test", UID: "uid", Size: size, BlockSize: device.BlockSize()}
		},
	})
	check(t, err)
	regions, err := activity.Open(activity.Options{Path: v.path + ".activity", UID: "uid", Size: size, Flush: device.Flush})
	check(t, err)
	recorder := cdc.NewRecorder(cdc.Options{
		Device: device, Activity: regions, Compress: true, Group: id.Group, Volume: id.Part,
		Budget: cdc.NewBudget(cdc.DefaultBudget),
	})
	v.export = recorder
	var wg sync.WaitGroup
	for _, f := range []func(context.Context) error{
		writer.Run, regions.Run, recorder.Run,
		func(ctx context.Context) error { return recorder.Record(ctx, writer, cdc.Tenure{}) },
	} {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		check(t, regions.Close())
	})
	recorded := func() bool { ready, _ := recorder.Ready(); return ready }
	for limit := time.Now().Add(time.Minute); !recorded() && time.Now().Before(limit); {
		time.Sleep(time.Millisecond)
	}
	v.settle = func() {
		t.Helper()
		limit, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		check(t, recorder.Drain(limit))
		got := make([]byte, size)
		replay(t, limit, site, id, writer.Stored(), got)
		equal(t, "what the journal says", got, v.content(t))
	}
	return v
}

// replay applies a stream's frames up to a sequence.
func replay(t testing.TB, ctx context.Context, site *journal.Site, id journal.StreamID, last uint64, to []byte) {
	t.Helper()
	r, err := site.OpenReader(ctx, id.Name(), 1)
	check(t, err)
	defer r.Close()
	frames, buf := 0, make([]byte, events.MaxContent)
	for {
		m, err := r.Next(ctx)
		check(t, err)
		if f, is := m.Event.(*events.Frame); is {
			frames++
			content, err := f.Content(buf)
			check(t, err)
			for _, op := range f.Ops {
				if op.Kind == events.OpWrite {
					n := copy(to[op.Offset:op.Offset+op.Length], content)
					content = content[n:]
				} else {
					clear(to[op.Offset : op.Offset+op.Length])
				}
			}
		}
		if m.Seq >= last {
			t.Logf("%d messages, %d frames", last, frames)
			return
		}
	}
}
