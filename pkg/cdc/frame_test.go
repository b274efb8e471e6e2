package cdc

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
)

// apply does what a reader of the frame does.
func apply(t *testing.T, image []byte, ops []events.Op, content []byte) {
	t.Helper()
	for _, op := range ops {
		to := image[op.Offset : op.Offset+op.Length]
		if op.Kind == events.OpWrite {
			content = content[copy(to, content[:op.Length]):]
		} else {
			clear(to)
		}
	}
	if len(content) > 0 {
		t.Fatalf("%d bytes of content belong to no write", len(content))
	}
}

// Merging and zero detection change how a frame is told, never what it does.
func TestMergingAndSqueezingKeepTheEffect(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	const size = 32 << 10
	var merged, squeezed int
	for range 300 {
		want := bytes.Repeat([]byte{0xee}, size)
		got := bytes.Clone(want)
		var f openFrame
		n := 1 + rnd.IntN(60)
		for range n {
			op, data := randomOp(rnd, size)
			apply(t, want, []events.Op{op}, data)
			if !f.rewrite(op, data) && !f.extend(op, data) {
				f.add(op, data)
			}
		}
		merged += n - len(f.ops)
		apply(t, got, f.ops, f.content)
		if !bytes.Equal(got, want) {
			t.Fatal("merging changed the effect")
		}
		before := len(f.content)
		ops, content := squeeze(f.ops, f.content)
		squeezed += before - len(content)
		got = bytes.Repeat([]byte{0xee}, size)
		apply(t, got, ops, content)
		if !bytes.Equal(got, want) {
			t.Fatal("zero detection changed the effect")
		}
		if again, _ := squeeze(ops, content); len(again) != len(ops) {
			t.Fatal("zero detection left zeros")
		}
	}
	if merged == 0 || squeezed == 0 {
		t.Fatalf("%d operations merged and %d bytes squeezed: nothing was tested", merged, squeezed)
	}
}

func randomOp(rnd *rand.Rand, size int64) (events.Op, []byte) {
	op := events.Op{Kind: events.OpWrite, Offset: rnd.Int64N(size/512) * 512, Length: (1 + rnd.Int64N(24)) * 512}
	if rnd.IntN(3) == 0 {
		op.Offset, op.Length = rnd.Int64N(size), 1+rnd.Int64N(9000)
	}
	if rnd.IntN(2) == 0 { // sequential and rewriting loads
		op.Offset = rnd.Int64N(4) * 4096
	}
	op.Length = min(op.Length, size-op.Offset)
	switch rnd.IntN(8) {
	case 0:
		op.Kind = events.OpZero
		return op, nil
	case 1:
		op.Kind = events.OpTrim
		return op, nil
	}
	data := make([]byte, op.Length)
	for range len(data) / 5000 {
		data[rnd.IntN(len(data))] = byte(rnd.Uint32()) // mostly zeros, with islands
	}
	if rnd.IntN(2) == 0 {
		for i := range data {
			data[i] = byte(i%255 + 1)
		}
	}
	return op, data
}

func TestMerging(t *testing.T) {
	w := func(off, n int64) events.Op { return events.Op{Kind: events.OpWrite, Offset: off, Length: n} }
	z := func(off, n int64) events.Op { return events.Op{Kind: events.OpZero, Offset: off, Length: n} }
	for name, c := range map[string]struct{ in, want []events.Op }{
		"adjacent writes":          {[]events.Op{w(0, 10), w(10, 10), w(20, 5)}, []events.Op{w(0, 25)}},
		"adjacent zeros":           {[]events.Op{z(0, 10), z(10, 10)}, []events.Op{z(0, 20)}},
		"rewrite":                  {[]events.Op{w(0, 100), w(200, 10), w(10, 20)}, []events.Op{w(0, 100), w(200, 10)}},
		"overlap in between":       {[]events.Op{w(0, 100), z(0, 20), w(10, 20)}, []events.Op{w(0, 100), z(0, 20), w(10, 20)}},
		"reaches beyond":           {[]events.Op{w(0, 100), w(90, 20)}, []events.Op{w(0, 100), w(90, 20)}},
		"another kind":             {[]events.Op{w(0, 100), z(0, 50)}, []events.Op{w(0, 100), z(0, 50)}},
		"zero inside zero":         {[]events.Op{z(0, 100), w(200, 5), z(10, 5)}, []events.Op{z(0, 100), w(200, 5)}},
		"before, not behind":       {[]events.Op{w(10, 10), w(0, 10)}, []events.Op{w(10, 10), w(0, 10)}},
		"adjacent to an old write": {[]events.Op{w(0, 10), w(50, 10), w(10, 10)}, []events.Op{w(0, 10), w(50, 10), w(10, 10)}},
	} {
		var f openFrame
		for _, op := range c.in {
			var data []byte
			if op.Kind == events.OpWrite {
				data = make([]byte, op.Length)
			}
			if !f.rewrite(op, data) && !f.extend(op, data) {
				f.add(op, data)
			}
		}
		if !equalOps(f.ops, c.want) {
			t.Errorf("%s: %v, want %v", name, f.ops, c.want)
		}
	}
}

func equalOps(a, b []events.Op) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestSqueezeFindsAlignedZeros(t *testing.T) {
	data := bytes.Repeat([]byte{1}, 5*4096)
	clear(data[4096-100 : 3*4096+100]) // units 1 and 2 are zeros, seen from the volume's start
	ops, content := squeeze([]events.Op{{Kind: events.OpWrite, Offset: 8192, Length: int64(len(data))}}, bytes.Clone(data))
	want := []events.Op{
		{Kind: events.OpWrite, Offset: 8192, Length: 4096},
		{Kind: events.OpZero, Offset: 8192 + 4096, Length: 8192},
		{Kind: events.OpWrite, Offset: 8192 + 3*4096, Length: 8192},
	}
	if !equalOps(ops, want) || len(content) != 3*4096 {
		t.Errorf("%v with %d bytes, want %v", ops, len(content), want)
	}
	// Shifted by half a unit, only one whole unit of zeros is left.
	ops, _ = squeeze([]events.Op{{Kind: events.OpWrite, Offset: 2048, Length: int64(len(data))}}, bytes.Clone(data))
	if len(ops) != 3 || ops[1] != (events.Op{Kind: events.OpZero, Offset: 8192, Length: 4096}) {
		t.Errorf("shifted: %v", ops)
	}
}

// Zero detection of the worst frame stays within the format's limit.
func TestSqueezeStaysWithinLimits(t *testing.T) {
	var f openFrame
	for i := range int64(maxOps) { // single bytes that nothing merges, and units of zeros between ones
		if len(f.content)+2*zeroUnit+1 > events.MaxContent {
			f.add(events.Op{Kind: events.OpZero, Offset: 1<<40 + 2*i, Length: 1}, nil)
			continue
		}
		data := make([]byte, 2*zeroUnit+1)
		data[0], data[2*zeroUnit] = 1, 1
		f.add(events.Op{Kind: events.OpWrite, Offset: i*16*zeroUnit + zeroUnit - 1, Length: int64(len(data))}, data)
	}
	ops, content := squeeze(f.ops, f.content)
	if _, err := events.NewFrame(ops, content, events.Uncompressed); err != nil {
		t.Error(err)
	}
	if len(ops) <= len(f.ops) {
		t.Errorf("%d operations became %d", len(f.ops), len(ops))
	}
}

// A compressor gives up on content that doesn't shrink, tries again now and then, and comes back to
// content that does.
func TestCompressorGivesUp(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 64<<10)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	text := bytes.Repeat([]byte("farshore "), 7000)
	c := compressor{on: true}
	frame := func(content []byte) *events.Frame {
		t.Helper()
		f, err := c.frame([]events.Op{{Kind: events.OpWrite, Length: int64(len(content))}}, content)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for range 1000 {
		if f := frame(noise); f.Compression != events.Uncompressed {
			t.Fatal("noise was compressed")
		}
	}
	if c.tried < 10 || c.tried > 30 {
		t.Errorf("tried %d times on 1000 frames", c.tried)
	}
	skipped := 0
	for frame(text).Compression == events.Uncompressed {
		if skipped++; skipped > maxPause {
			t.Fatal("never tried again")
		}
	}
	for range 100 {
		if frame(text).Compression != events.S2 {
			t.Fatal("compressible content was let pass")
		}
	}
}
