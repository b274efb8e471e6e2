package replica_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

// BenchmarkAdvance applies 64 MiB per commit over two volumes, from memory to files: reading, verifying,
// reserving, writing and syncing, without a broker.
func BenchmarkAdvance(b *testing.B) {
	for _, bb := range []struct {
		name  string
		write int64 // bytes of one operation
	}{{"256KiB", 256 << 10}, {"4KiB-random", 4 << 10}} {
		b.Run(bb.name, func(b *testing.B) { benchmark(b, bb.write, (*replica.Set).Advance) })
	}
}

// BenchmarkAdvanceBesideSnapshot is BenchmarkAdvance with a snapshot that nobody reads: every chunk that is written is copied first. With "read"
// nothing is left of it to be kept.
func BenchmarkAdvanceBesideSnapshot(b *testing.B) {
	for _, bb := range []struct {
		name string
		read bool
	}{{"kept", false}, {"read", true}} {
		b.Run(bb.name, func(b *testing.B) {
			dir := b.TempDir()
			benchmark(b, 4<<10, func(s *replica.Set, ctx context.Context, src replica.Source, c *events.Commit) error {
				if cp := s.Checkpoint(); !cp.Whole() {
					return s.Advance(ctx, src, c)
				}
				snap, err := s.Snapshot(ctx, dir)
				if err != nil {
					return err
				}
				if bb.read {
					snap.Only("a", grid.New(0))
					snap.Only("b", grid.New(0))
				}
				return errors.Join(s.Advance(ctx, src, c), snap.Close())
			})
		})
	}
}

// BenchmarkFill is BenchmarkAdvance for a set that nobody relies on yet: the core of a replay.
func BenchmarkFill(b *testing.B) {
	benchmark(b, 256<<10, (*replica.Set).Fill)
}

func benchmark(b *testing.B, write int64, advance advancer) {
	const size, perCommit = 256 << 20, 64 << 20
	h, src := replicatest.MemoryHistory("g", 1)
	if err := errors.Join(h.Add("a", size, false), h.Add("b", size, false)); err != nil {
		b.Fatal(err)
	}
	h.Join("a")
	h.Join("b")
	r := rand.New(rand.NewPCG(1, 1))
	content := make([]byte, events.MaxContent)
	for i := range content {
		content[i] = byte(r.Uint32())
	}
	for range 3 {
		for n := 0; n < perCommit; n += len(content) {
			var ops []events.Op
			for range int64(len(content)) / write {
				ops = append(ops, events.Op{Kind: events.OpWrite, Offset: r.Int64N(size/write) * write, Length: write})
			}
			f, err := events.NewFrame(ops, content, events.Uncompressed)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := h.Sink([]string{"a", "b"}[n/len(content)%2], f); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := h.Commit(""); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(perCommit)

	set, next := (*replica.Set)(nil), 0
	for b.Loop() {
		if next == 0 {
			b.StopTimer()
			if set != nil {
				if err := set.Close(); err != nil {
					b.Fatal(err)
				}
			}
			var err error
			if set, err = replica.Open(b.TempDir()+fmt.Sprint(time.Now().UnixNano()), replica.Options{Group: "g", Memory: 2 * perCommit}); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		if err := advance(set, b.Context(), src, h.Commits[next]); err != nil {
			b.Fatal(err)
		}
		next = (next + 1) % len(h.Commits)
	}
	if err := set.Close(); err != nil {
		b.Fatal(err)
	}
}

type advancer func(*replica.Set, context.Context, replica.Source, *events.Commit) error
