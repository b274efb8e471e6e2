package activity

import (
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
)

// BenchmarkBeginHot is what a write into a region that is hot pays.
func BenchmarkBeginHot(b *testing.B) {
	l := opened(b, somewhere(b, 10<<30))
	for r := range int64(512) {
		write(b, l, r*RegionSize, 4096, 2)
	}
	var streams atomic.Uint64
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		rnd := rand.New(rand.NewPCG(1, streams.Add(1)))
		for pb.Next() {
			off := rnd.Int64N(512) * RegionSize
			if err := l.Begin(b.Context(), off, 4096); err != nil {
				b.Error(err)
				return
			}
			l.End(off, 4096, 3)
		}
	})
}

// BenchmarkBeginWide is what a random write over 1 TiB pays, of 16 at a time.
func BenchmarkBeginWide(b *testing.B) {
	const size = 1 << 40
	o := somewhere(b, size)
	var flushes atomic.Int64
	o.Flush = func() error { flushes.Add(1); return nil }
	l := opened(b, o)
	var streams, place atomic.Uint64
	place.Store(1)
	before := l.counters()
	b.ReportAllocs()
	b.SetParallelism(16 / runtime.GOMAXPROCS(0))
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		rnd := rand.New(rand.NewPCG(1, streams.Add(1)))
		for pb.Next() {
			off := rnd.Int64N(size/RegionSize) * RegionSize
			if err := l.Begin(b.Context(), off, 4096); err != nil {
				b.Error(err)
				return
			}
			p := place.Add(1)
			l.End(off, 4096, p)
			l.Stored(p, p)
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(l.counters().commits-before.commits)/float64(b.N), "commits/op")
	b.ReportMetric(float64(flushes.Load())/float64(b.N), "flushes/op")
}
