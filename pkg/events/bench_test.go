package events

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// benchFrame returns a frame of writes of size bytes each that together fill MaxContent.
func benchFrame(b *testing.B, size int, c Compression) *Frame {
	b.Helper()
	content := make([]byte, MaxContent)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range content {
		content[i] = byte(rng.Uint32())
		if c == S2 {
			content[i] &= 3
		}
	}
	ops := make([]Op, MaxContent/size)
	for i := range ops {
		ops[i] = Op{Kind: OpWrite, Offset: rng.Int64N(1 << 40), Length: int64(size)}
	}
	f, err := NewFrame(ops, content, c)
	if err != nil {
		b.Fatal(err)
	}
	return f
}

func benchHeader() Header { return Header{Epoch: 7, Time: time.Unix(1, 2), Trace: make([]byte, 25)} }

var benchSizes = []int{512, 4 << 10, 64 << 10, 256 << 10}

// BenchmarkCopy is the yardstick: what merely copying a frame's content takes here.
func BenchmarkCopy(b *testing.B) {
	src, dst := make([]byte, MaxContent), make([]byte, MaxContent)
	b.SetBytes(MaxContent)
	for b.Loop() {
		copy(dst, src)
	}
}

func BenchmarkAppendFrame(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprintf("writes=%dB", size), func(b *testing.B) {
			f, h, buf := benchFrame(b, size, Uncompressed), benchHeader(), make([]byte, 0, MaxMessage)
			b.SetBytes(MaxContent)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Append(buf, h, f); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecodeFrame(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprintf("writes=%dB", size), func(b *testing.B) {
			msg, err := Append(nil, benchHeader(), benchFrame(b, size, Uncompressed))
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(MaxContent)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := Decode("s", 1, msg); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecodeHeader(b *testing.B) {
	msg, err := Append(nil, benchHeader(), benchFrame(b, 4<<10, Uncompressed))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(MaxContent)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := DecodeHeader("s", 1, msg); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNewFrame(b *testing.B) {
	for _, c := range []Compression{Uncompressed, S2} {
		b.Run(fmt.Sprintf("compression=%d", c), func(b *testing.B) {
			f := benchFrame(b, 4<<10, c)
			content, err := f.Content(nil)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(MaxContent)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := NewFrame(f.Ops, content, c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkContent(b *testing.B) {
	for _, c := range []Compression{Uncompressed, S2} {
		b.Run(fmt.Sprintf("compression=%d", c), func(b *testing.B) {
			f, buf := benchFrame(b, 4<<10, c), make([]byte, MaxContent)
			b.SetBytes(MaxContent)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.Content(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkHeartbeat(b *testing.B) {
	h, e, buf := benchHeader(), &Heartbeat{DebtBytes: 1 << 30, DebtAge: time.Second}, make([]byte, 0, 1<<10)
	b.ReportAllocs()
	for b.Loop() {
		msg, err := Append(buf, h, e)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := Decode("s", 1, msg); err != nil {
			b.Fatal(err)
		}
	}
}
