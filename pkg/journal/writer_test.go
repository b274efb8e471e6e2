package journal_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/journaltest"
)

// Every message is on the mirror exactly once and in order, although both servers are restarted
// and the link is cut while they are written.
func TestNothingIsLostOverRestartsAndCuts(t *testing.T) {
	t.Parallel()
	p := journaltest.Sites(t)
	ensure(t, p.Primary, journal.StreamOptions{})
	if err := p.DR.EnsureMirror(t.Context(), id, 1, 1); err != nil {
		t.Fatal(err)
	}
	x := start(t, p.Primary, "a")
	const total = 20000
	var wg sync.WaitGroup
	wg.Go(func() { appendAll(t, x, 0, total) })
	reached := func(n uint64) func() bool { return func() bool { return x.Stored() > n } }
	eventually(t, "a first part is stored", reached(1000))
	p.StopPrimary()
	p.StartPrimary()
	eventually(t, "the writer goes on after the primary's restart", reached(3000))
	p.Cut()
	eventually(t, "the writer goes on without the link", reached(6000))
	p.Heal()
	eventually(t, "the writer goes on", reached(8000))
	p.StopDR()
	eventually(t, "the writer goes on without the DR site", reached(10000))
	p.StartDR()
	p.StopPrimary()
	p.StartPrimary()
	wg.Wait()
	wait(t, x, total+1)
	// A mirror that attaches while its primary goes down may begin with whatever comes first (nats-server 2.15.2):
	// that is a hole as any other.
	m := &mirrored{Pair: p, x: x, next: total}
	m.reached(t, total+1)
	if found := holes(t, p.DR); len(found) > 0 {
		t.Logf("repairing %v", found)
		m.repair(t, 2)
	}
	m.whole(t)
	if err := x.end(t); err != nil {
		t.Fatal(err)
	}
}

// A newer writer fences the older one, and what is stored is a prefix of each.
func TestTakeoverFencesTheOlderWriter(t *testing.T) {
	t.Parallel()
	s := journaltest.One(t)
	ensure(t, s, journal.StreamOptions{})
	testTakeover(t, s)
}

func testTakeover(t *testing.T, s *journal.Site) {
	a := start(t, s, "a")
	appendAll(t, a, 0, 500)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	appended := 500
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := a.Append(context.Background(), numbered(appended)); err != nil {
				if !errors.Is(err, journal.ErrFenced) {
					t.Errorf("append after the takeover: %v", err)
				}
				return
			}
			appended++
		}
	})
	b := start(t, s, "b")
	if b.Epoch() != a.Epoch()+1 {
		t.Errorf("epochs %d and %d", a.Epoch(), b.Epoch())
	}
	if _, err := b.Append(t.Context(), numbered(-1&0xffff)); err != nil {
		t.Fatal(err)
	}
	wait(t, b, b.Previous()+2)
	select {
	case err := <-a.done:
		if !errors.Is(err, journal.ErrFenced) {
			t.Fatalf("the older writer ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the older writer was not fenced")
	}
	close(stop)
	wg.Wait()
	got := read(t, s, id.Name(), b.Previous()+2)
	if n := len(got) - 1; !slices.Equal(got[:n], count(n)) || n > appended || got[n] != 0xffff {
		t.Fatalf("stored is no prefix of the older writer with the newer one behind it: %d of %d", n, appended)
	}
	if _, err := a.Append(t.Context(), numbered(0)); !errors.Is(err, journal.ErrFenced) {
		t.Errorf("append of a fenced writer: %v", err)
	}
	if err := a.WaitStored(t.Context(), 1<<40); !errors.Is(err, journal.ErrFenced) {
		t.Errorf("wait of a fenced writer: %v", err)
	}
}

// What an older writer had in flight reaches the server late, when the newer one has appended as much
// as would make its sequences fit: none of it is stored.
func TestLateMessagesOfAnOlderWriterAreRefused(t *testing.T) {
	t.Parallel()
	s := journaltest.One(t)
	ensure(t, s, journal.StreamOptions{})
	testLateMessages(t, s)
}

func testLateMessages(t *testing.T, s *journal.Site) {
	t.Helper()
	a := start(t, s, "a")
	if err := a.end(t); err != nil { // it sends nothing any more
		t.Fatal(err)
	}
	var late []*nats.Msg
	for n := range uint64(40) {
		data, err := events.Append(nil, events.Header{Epoch: a.Epoch(), Time: time.Now()}, numbered(int(n)))
		if err != nil {
			t.Fatal(err)
		}
		late = append(late, a.Message(data, a.Stored()+1+n))
	}
	b := start(t, s, "b")
	appendAll(t, b, 0, 10)
	wait(t, b, b.Previous()+11)
	for _, m := range late {
		reply, err := s.Conn().RequestMsg(m, 5*time.Second)
		if err == nil && !strings.Contains(string(reply.Data), `"error"`) {
			t.Fatalf("a late message was answered %s", reply.Data)
		}
	}
	appendAll(t, b, 10, 20)
	wait(t, b, b.Previous()+21)
	tail, err := s.Tail(t.Context(), id.Name())
	if err != nil || tail.Last != b.Previous()+21 {
		t.Fatalf("the stream ends at %d, not %d: %v", tail.Last, b.Previous()+21, err)
	}
	if err := b.end(t); err != nil {
		t.Fatal(err)
	}
}

// Several writers that start at the same time: one of them stays, the others are fenced.
func TestOfSimultaneousTakeoversOneStays(t *testing.T) {
	t.Parallel()
	s := journaltest.One(t)
	ensure(t, s, journal.StreamOptions{})
	var mu sync.Mutex
	var all []*tenure
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			x := start(t, s, fmt.Sprint(n))
			mu.Lock()
			defer mu.Unlock()
			all = append(all, x)
		})
	}
	wg.Wait()
	slices.SortFunc(all, func(a, b *tenure) int { return cmp.Compare(a.Epoch(), b.Epoch()) })
	last := all[len(all)-1]
	for i, x := range all[:len(all)-1] {
		if x.Epoch() == all[i+1].Epoch() {
			t.Errorf("epoch %d was given twice", x.Epoch())
		}
		_, _ = x.Append(t.Context(), numbered(0)) // makes it ask; it may know already
		if err := <-x.done; !errors.Is(err, journal.ErrFenced) {
			t.Errorf("epoch %d ended with %v", x.Epoch(), err)
		}
	}
	appendAll(t, last, 0, 10)
	wait(t, last, last.Previous()+11)
}

// The chain itself: with one message left out, everything behind it is refused.
func TestChainRefusesWhatFollowsALostMessage(t *testing.T) {
	t.Parallel()
	s := journaltest.One(t)
	ensure(t, s, journal.StreamOptions{})
	x := start(t, s, "a")
	wait(t, x, 1)
	for seq := uint64(2); seq < 20; seq++ {
		if seq == 5 {
			continue
		}
		data, err := events.Append(nil, events.Header{Epoch: x.Epoch(), Time: time.Now()}, numbered(int(seq)))
		if err != nil {
			t.Fatal(err)
		}
		m := &nats.Msg{Subject: id.Subject(), Data: data, Header: nats.Header{"Nats-Expected-Last-Sequence": {fmt.Sprint(seq - 1)}}}
		_, err = s.JetStream().PublishMsg(t.Context(), m)
		if stored := err == nil; stored != (seq < 5) {
			t.Fatalf("message %d: %v", seq, err)
		}
	}
	tail, err := s.Tail(t.Context(), id.Name())
	if err != nil || tail.Last != 4 {
		t.Fatal(tail.Last, err)
	}
}

// An append that was stored although its acknowledgement was lost is not stored twice: the writer
// reads back. Here somebody else appends the very bytes that the writer is about to send.
func TestForeignMessageUnderOurSequenceIsHistoryLost(t *testing.T) {
	t.Parallel()
	s := journaltest.One(t)
	ensure(t, s, journal.StreamOptions{})
	x := start(t, s, "a")
	data, err := events.Append(nil, events.Header{Epoch: x.Epoch(), Time: time.Now()}, numbered(7))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.JetStream().Publish(t.Context(), id.Subject(), data); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Append(t.Context(), numbered(1)); err != nil {
		t.Fatal(err)
	}
	if err := <-x.done; !errors.Is(err, journal.ErrHistoryLost) {
		t.Fatalf("Run ended with %v", err)
	}
}

// A stream that ends below what it acknowledged has lost history, and that is never continued.
func TestRolledBackStreamIsHistoryLost(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]int{"shorter": 0, "made again and as long": 200} {
		t.Run(name, func(t *testing.T) {
			s := journaltest.One(t)
			ensure(t, s, journal.StreamOptions{})
			x := start(t, s, "a")
			appendAll(t, x, 0, 100)
			wait(t, x, 101)
			if err := s.JetStream().DeleteStream(t.Context(), id.Name()); err != nil {
				t.Fatal(err)
			}
			ensure(t, s, journal.StreamOptions{})
			for n := range again {
				if _, err := s.JetStream().Publish(t.Context(), id.Subject(), fmt.Appendf(nil, "%d", n)); err != nil {
					t.Fatal(err)
				}
			}
			if again > 0 { // a plausible end: an event of the same epoch
				data, _ := events.Append(nil, events.Header{Epoch: x.Epoch(), Time: time.Now()}, numbered(1))
				if _, err := s.JetStream().Publish(t.Context(), id.Subject(), data); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := x.Append(t.Context(), numbered(100)); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-x.done:
				if !errors.Is(err, journal.ErrHistoryLost) {
					t.Fatalf("Run ended with %v", err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the loss was not noticed")
			}
		})
	}
}

// What is appended and not stored is bounded, and a blocked Append obeys its context.
func TestAppendBlocksAtItsBound(t *testing.T) {
	t.Parallel()
	p := journaltest.Sites(t)
	ensure(t, p.Primary, journal.StreamOptions{})
	x := start(t, p.Primary, "a", func(o *journal.WriterOptions) { o.MaxPending = 4096 })
	wait(t, x, 1)
	p.StopPrimary()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	n := 0
	for ; ; n++ {
		if _, err := x.Append(ctx, numbered(n)); err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			break
		}
	}
	if bytes, _ := x.Pending(); n == 0 || bytes > 4096 {
		t.Fatalf("%d appended, %d bytes pending", n, bytes)
	}
	p.StartPrimary()
	appendAll(t, x, n, n+100)
	wait(t, x, uint64(n)+101)
	if got := read(t, p.Primary, id.Name(), uint64(n)+101); !slices.Equal(got, count(n+100)) {
		t.Fatal("something was lost or repeated")
	}
}

func TestHeartbeatsOnAnIdleStream(t *testing.T) {
	t.Parallel()
	s := journaltest.One(t)
	ensure(t, s, journal.StreamOptions{})
	start(t, s, "a", func(o *journal.WriterOptions) { o.HeartbeatEvery = 20 * time.Millisecond })
	eventually(t, "heartbeats are stored", func() bool {
		tail, err := s.Tail(t.Context(), id.Name())
		return err == nil && tail.Last > 5 && tail.Kind == events.KindHeartbeat && time.Since(tail.Header.Time) < time.Second
	})
}

// The origin is trimmed only behind what the DR site has stored.
func TestTrimWaitsForTheMirror(t *testing.T) {
	t.Parallel()
	p := journaltest.Sites(t)
	ensure(t, p.Primary, journal.StreamOptions{})
	x := start(t, p.Primary, "a")
	appendAll(t, x, 0, 1000)
	wait(t, x, 1001)
	if err := x.TrimTo(t.Context(), 900); err != nil {
		t.Fatal(err)
	}
	tail, err := p.Primary.Tail(t.Context(), id.Name())
	if err != nil || tail.First != 1 {
		t.Fatalf("trimmed to %d without a mirror: %v", tail.First, err)
	}
	if err := p.DR.EnsureMirror(t.Context(), id, 1, 1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the origin is trimmed to the margin", func() bool {
		if err := x.TrimTo(t.Context(), 900); err != nil {
			t.Fatal(err)
		}
		tail, err := p.Primary.Tail(t.Context(), id.Name())
		return err == nil && tail.First == 901
	})
	if got := read(t, p.DR, id.Mirror(1), 1001); !slices.Equal(got, count(1000)) {
		t.Fatal("the mirror lacks something")
	}
}
