package journal_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/journaltest"
)

// At its limit the stream takes no more content, and the writer waits; everything is there once there was room.
func TestFullStreamIsWaitedOut(t *testing.T) {
	t.Parallel()
	s := journaltest.One(t)
	ensure(t, s, journal.StreamOptions{MaxBytes: 64 << 10})
	x := start(t, s, "a")
	const total = 1500
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := range total {
			if _, err := x.Append(t.Context(), sized(n)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	eventually(t, "the stream is full", x.Full)
	next, got := uint64(1), 0
	for got < total {
		tail, err := s.Tail(t.Context(), id.Name())
		if err != nil {
			t.Fatal(err)
		}
		if tail.Bytes > 64<<10 {
			t.Fatalf("content takes %d bytes", tail.Bytes)
		}
		if tail.Last < next {
			continue
		}
		r, err := s.OpenReader(t.Context(), id.Name(), next)
		if err != nil {
			t.Fatal(err)
		}
		for ; next <= tail.Last; next++ {
			m, err := r.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if e, ok := m.Event.(*events.RegionHash); ok {
				if e.Offset != int64(got)*4096 {
					t.Fatalf("number %d is at the place of %d", e.Offset/4096, got)
				}
				got++
			}
		}
		r.Close()
		if err := s.Purge(t.Context(), id.Name(), next); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	wait(t, x, total+1)
	eventually(t, "it isn't called full any more", func() bool { return !x.Full() })
}

// A full stream still has room for marks, heartbeats and for the next writer's takeover, and content that waits
// can be taken back.
func TestFullStreamKeepsAReserve(t *testing.T) {
	t.Parallel()
	s := journaltest.One(t)
	o := journal.StreamOptions{MaxBytes: 64 << 10}
	ensure(t, s, o)
	x := start(t, s, "a", func(o *journal.WriterOptions) { o.HeartbeatEvery = 20 * time.Millisecond })
	fill(t, x)
	if seq, err := x.Append(t.Context(), &events.Mark{Token: events.Token{Epoch: 1, Barrier: 1}}); err != nil {
		t.Fatal(err)
	} else {
		wait(t, x, seq+5) // heartbeats behind it, too
	}
	y := start(t, s, "b")
	wait(t, y, y.Previous()+1)
	ends(t, x, journal.ErrFenced)
	fill(t, y)
	// A limit that is raised makes room at once; one that is lowered is refused.
	o.MaxBytes *= 2
	ensure(t, s, o)
	if _, err := y.Append(t.Context(), sized(0)); err != nil {
		t.Fatal(err)
	}
	o.UID, o.MaxBytes = "uid", o.MaxBytes/2
	var refused *journal.ConfigError
	if err := s.EnsureStream(t.Context(), id, o); !errors.As(err, &refused) {
		t.Errorf("a lowered limit: %v", err)
	}
}

// A stream of an older version has no reserve, and a server's disk has none either: what is refused is sent again
// until there is room.
func TestRefusedMessagesAreSentAgain(t *testing.T) {
	t.Parallel()
	s := journaltest.One(t)
	ensure(t, s, journal.StreamOptions{})
	stream, err := s.JetStream().Stream(t.Context(), id.Name())
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.MaxBytes = 64 << 10
	if _, err := s.JetStream().UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	x := start(t, s, "a")
	const total = 1000
	var wg sync.WaitGroup
	wg.Go(func() { appendAll(t, x, 0, total) })
	var got []int
	next := uint64(1)
	for len(got) < total {
		eventually(t, "the stream is full, or all is stored", func() bool { return x.Full() || x.Stored() == total+1 })
		tail, err := s.Tail(t.Context(), id.Name())
		if err != nil {
			t.Fatal(err)
		}
		if tail.Last < next {
			continue
		}
		r, err := s.OpenReader(t.Context(), id.Name(), next)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, readFrom(t, r, tail.Last)...)
		r.Close()
		next = tail.Last + 1
		if err := s.Purge(t.Context(), id.Name(), next); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if !slices.Equal(got, count(total)) {
		t.Fatal("something was lost or repeated")
	}
	wait(t, x, total+1)
	if x.Full() {
		t.Error("still called full")
	}
}

// fill appends content until the stream is full, and takes back what waits then.
func fill(t *testing.T, x *tenure) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		for {
			if _, err := x.Append(ctx, sized(0)); err != nil {
				done <- err
				return
			}
		}
	}()
	eventually(t, "the stream is full", x.Full)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}
