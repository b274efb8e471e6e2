package journal_test

import (
	"context"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/journaltest"
)

func TestAppendedEventsArriveAtTheMirror(t *testing.T) {
	p := journaltest.Sites(t)
	id := journal.StreamID{Group: "g", Part: "v", Generation: 1}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := p.Primary.EnsureStream(ctx, id, journal.StreamOptions{UID: "u"}); err != nil {
		t.Fatal(err)
	}
	if err := p.DR.EnsureMirror(ctx, id); err != nil {
		t.Fatal(err)
	}
	w, err := p.Primary.OpenWriter(ctx, id, journal.WriterOptions{Writer: "a", HeartbeatEvery: -1, Open: func(uint64) *events.Epoch {
		return &events.Epoch{Writer: "a", UID: "u", Size: 1 << 20, BlockSize: 4096}
	}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	runCtx, stop := context.WithCancel(ctx)
	go func() { done <- w.Run(runCtx) }()
	for i := range 1000 {
		seq, err := w.Append(ctx, &events.Resize{Old: 1 << 20, New: 1<<20 + int64(i+1)*4096})
		if err != nil || seq != uint64(i)+2 {
			t.Fatal(seq, err)
		}
	}
	r, err := p.DR.OpenReader(ctx, id.Mirror(1), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := range 1001 {
		m, err := r.Next(ctx)
		if err != nil || m.Seq != uint64(i)+1 {
			t.Fatal(m.Seq, err)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
