package journal_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/journaltest"
)

// frame makes a frame of one write with content that doesn't compress.
func frame(tb testing.TB, size int) *events.Frame {
	tb.Helper()
	content := make([]byte, size)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(content) // never fails
	f, err := events.NewFrame([]events.Op{{Kind: events.OpWrite, Length: int64(size)}}, content, events.Uncompressed)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

var sizes = []int{4 << 10, 256 << 10}

// What the chain, the encoding and the bookkeeping cost is the difference to BenchmarkPublishAsync.
func BenchmarkWriter(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			s := journaltest.One(b)
			if err := s.EnsureStream(b.Context(), id, journal.StreamOptions{}); err != nil {
				b.Fatal(err)
			}
			x := start(b, s, "a")
			e := frame(b, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			var last uint64
			var err error
			for b.Loop() {
				if last, err = x.Append(b.Context(), e); err != nil {
					b.Fatal(err)
				}
			}
			if err := x.WaitStored(b.Context(), last); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func BenchmarkPublishAsync(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			s := journaltest.One(b)
			if err := s.EnsureStream(b.Context(), id, journal.StreamOptions{}); err != nil {
				b.Fatal(err)
			}
			js, err := jetstream.New(s.Conn(), jetstream.WithPublishAsyncMaxPending(256))
			if err != nil {
				b.Fatal(err)
			}
			data, err := events.Append(nil, events.Header{Epoch: 1, Time: time.Now()}, frame(b, size))
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := js.PublishAsync(id.Subject(), data, jetstream.WithStallWait(time.Minute)); err != nil {
					b.Fatal(err)
				}
			}
			<-js.PublishAsyncComplete()
		})
	}
}

func BenchmarkReader(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			s := journaltest.One(b)
			if err := s.EnsureStream(b.Context(), id, journal.StreamOptions{}); err != nil {
				b.Fatal(err)
			}
			x := start(b, s, "a")
			e := frame(b, size)
			messages := min(20000, 512<<20/size)
			for range messages {
				if _, err := x.Append(b.Context(), e); err != nil {
					b.Fatal(err)
				}
			}
			if err := x.WaitStored(b.Context(), uint64(messages)+1); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			var r *journal.Reader
			var err error
			at := messages
			for b.Loop() {
				if at == messages {
					if r != nil {
						r.Close()
					}
					if r, err = s.OpenReader(b.Context(), id.Name(), 2); err != nil {
						b.Fatal(err)
					}
					at = 0
				}
				if _, err := r.Next(b.Context()); err != nil {
					b.Fatal(err)
				}
				at++
			}
			r.Close()
		})
	}
}
