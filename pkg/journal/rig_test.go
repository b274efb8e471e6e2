package journal_test

import (
	"context"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

var id = journal.StreamID{Group: "shop", Part: "db", Generation: 1}

// tenure is a running writer.
type tenure struct {
	*journal.Writer
	done chan error
	stop context.CancelFunc
}

func (x *tenure) end(t *testing.T) error {
	t.Helper()
	x.stop()
	select {
	case err := <-x.done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("Run did not return")
		return nil
	}
}

func ensure(t *testing.T, s *journal.Site, o journal.StreamOptions) {
	t.Helper()
	o.UID = "uid"
	if err := s.EnsureStream(t.Context(), id, o); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, s *journal.Site, id journal.StreamID, change ...func(*journal.WriterOptions)) (*journal.Writer, error) {
	t.Helper()
	o := journal.WriterOptions{Writer: "w", HeartbeatEvery: -1}
	for _, c := range change {
		c(&o)
	}
	o.Open = func(uint64) *events.Epoch {
		return &events.Epoch{Writer: o.Writer, UID: "uid", Size: 1 << 30, BlockSize: 4096}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return s.OpenWriter(ctx, id, o)
}

func start(t testing.TB, s *journal.Site, name string, change ...func(*journal.WriterOptions)) *tenure {
	t.Helper()
	w, err := open(t, s, id, append(change, func(o *journal.WriterOptions) { o.Writer = name })...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	x := &tenure{w, make(chan error, 1), cancel}
	go func() { x.done <- w.Run(ctx) }()
	t.Cleanup(cancel)
	return x
}

// numbered is an event that says its number.
func numbered(n int) events.Event {
	return &events.PassDone{Pass: events.PassSeed, Regions: uint64(n)}
}

// sized is content that says its number.
func sized(n int) events.Event {
	e := &events.RegionHash{Offset: int64(n) * 4096, Length: 4096}
	e.Hash[0] = 1
	return e
}

// append adds the numbers from up to to, and ends the test on an error.
func appendAll(t *testing.T, x *tenure, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if _, err := x.Append(t.Context(), numbered(n)); err != nil {
			t.Fatalf("append %d: %v", n, err)
		}
	}
}

// read returns the numbers that the stream holds, in order, up to sequence last.
func read(t *testing.T, s *journal.Site, name string, last uint64) []int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var r *journal.Reader
	eventually(t, "the stream can be opened", func() bool { // not while it has no leader
		var err error
		r, err = s.OpenReader(ctx, name, 1)
		return err == nil
	})
	defer r.Close()
	return readFrom(t, r, last)
}

// readFrom returns the numbers that come from r, in order, up to sequence last.
func readFrom(t *testing.T, r *journal.Reader, last uint64) []int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var out []int
	for seq := uint64(0); seq < last; {
		m, err := r.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		seq = m.Seq
		if e, ok := m.Event.(*events.PassDone); ok {
			out = append(out, int(e.Regions))
		}
	}
	return out
}

func count(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

func wait(t *testing.T, x *tenure, seq uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := x.WaitStored(ctx, seq); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !check() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		<-tick.C
	}
}
