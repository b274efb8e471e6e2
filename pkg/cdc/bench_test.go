package cdc_test

import (
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/cdc/activity"
)

// BenchmarkWrite is what 4 KiB random writes cost, in parallel, with content that compresses to about a half.
func BenchmarkWrite(b *testing.B) {
	const size = 256 << 20
	for _, mode := range []string{"direct", "recorded", "compressed", "wide"} {
		b.Run(mode, func(b *testing.B) {
			d, err := cdc.OpenFile(filepath.Join(b.TempDir(), "v.img"), size)
			must(b, err)
			defer d.Close()
			bench(b, d, mode, 4096)
		})
	}
}

// BenchmarkWriteLarge is the same with 1 MiB.
func BenchmarkWriteLarge(b *testing.B) {
	const size = 256 << 20
	for _, mode := range []string{"direct", "recorded", "compressed"} {
		b.Run(mode, func(b *testing.B) {
			d, err := cdc.OpenFile(filepath.Join(b.TempDir(), "v.img"), size)
			must(b, err)
			defer d.Close()
			bench(b, d, mode, 1<<20)
		})
	}
}

// BenchmarkWritePath leaves the device out: what recording itself costs.
func BenchmarkWritePath(b *testing.B) {
	for _, mode := range []string{"recorded", "compressed"} {
		b.Run(mode, func(b *testing.B) { bench(b, nowhere{}, mode, 4096) })
	}
}

// nowhere is a device that forgets.
type nowhere struct{}

func (nowhere) ReadAt(p []byte, _ int64) (int, error)  { clear(p); return len(p), nil }
func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (nowhere) Zero(_, _ int64, _ bool) error          { return nil }
func (nowhere) Trim(_, _ int64) error                  { return nil }
func (nowhere) Grow(int64) error                       { return nil }
func (nowhere) Flush() error                           { return nil }
func (nowhere) Size() int64                            { return 256 << 20 }
func (nowhere) BlockSize() int64                       { return 512 }
func (nowhere) Close() error                           { return nil }
func (nowhere) Segments(off, n int64) ([]cdc.Segment, error) {
	return []cdc.Segment{{Offset: off, Length: n}}, nil
}

// bench writes with the whole device among the hot regions, unless mode is "wide".
func bench(b *testing.B, d cdc.Device, mode string, length int) {
	hot := activity.DefaultHot
	if mode == "wide" {
		hot = 8
	}
	journal := newMemJournal()
	journal.discard = true
	l := openLog(b, filepath.Join(b.TempDir(), "log"), d.Size(), hot, d.Flush)
	clean(b, l)
	r := &rig{journal: journal, log: l, Recorder: cdc.NewRecorder(cdc.Options{
		Device: d, Activity: l, Budget: cdc.NewBudget(64 << 20), Compress: mode == "compressed",
	})}
	r.run(b)
	write := r.Write
	if mode == "direct" {
		write = cdc.Direct(d).Write
	}
	blocks := d.Size() / int64(length)
	var streams atomic.Uint64
	b.SetBytes(int64(length))
	b.ReportAllocs()
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		rnd := rand.New(rand.NewPCG(1, streams.Add(1)))
		content := noise(rnd, 4<<20+length) // half of it is text
		for i := 0; i+64 <= len(content); i += 64 {
			copy(content[i:i+32], "what compresses as logs often do")
		}
		for pb.Next() {
			at := rnd.IntN(4<<20/64) * 64
			p := content[at : at+length]
			if err := write(b.Context(), p, rnd.Int64N(blocks)*int64(length), false); err != nil {
				b.Error(err)
				return
			}
		}
	})
	if mode != "direct" {
		r.drain(b)
	}
	b.StopTimer()
	if mode != "direct" && b.N > 1000 {
		b.ReportMetric(float64(journal.bytes)/float64(b.N*length), "stored/written")
	}
}
