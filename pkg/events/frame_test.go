package events

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
)

func TestNewFrameCompressesWhatShrinks(t *testing.T) {
	noise := make([]byte, 64<<10)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	words := bytes.Repeat([]byte("words "), 10<<10)
	for what, c := range map[string]struct {
		content []byte
		asked   Compression
		want    Compression
	}{
		"words":            {words, S2, S2},
		"words as told":    {words, Uncompressed, Uncompressed},
		"noise":            {noise, S2, Uncompressed},
		"one byte":         {[]byte{1}, S2, Uncompressed},
		"nothing":          {nil, S2, Uncompressed},
		"zeros of a frame": {make([]byte, MaxContent), S2, S2},
	} {
		ops := []Op{{OpZero, 0, 1}}
		if len(c.content) > 0 {
			ops = append(ops, Op{OpWrite, 0, int64(len(c.content))})
		}
		f, err := NewFrame(ops, c.content, c.asked)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if f.Compression != c.want || f.Length != len(c.content) || c.want == S2 && len(f.Payload) >= f.Length {
			t.Errorf("%s: compression %d, %d bytes for %d", what, f.Compression, len(f.Payload), f.Length)
		}
		got, err := f.Content(nil)
		if err != nil || !bytes.Equal(got, c.content) {
			t.Errorf("%s: content differs, error %v", what, err)
		}
	}
}

func TestNewFrameRefuses(t *testing.T) {
	for what, c := range map[string]struct {
		ops     []Op
		content []byte
		as      Compression
	}{
		"no operations":       {nil, nil, S2},
		"unknown compression": {[]Op{{OpWrite, 0, 1}}, []byte{1}, S2 + 1},
		"content too short":   {[]Op{{OpWrite, 0, 2}}, []byte{1}, S2},
		"content too large":   {[]Op{{OpWrite, 0, MaxContent + 1}}, make([]byte, MaxContent+1), S2},
	} {
		if f, err := NewFrame(c.ops, c.content, c.as); !errors.Is(err, ErrMalformed) || f != nil {
			t.Errorf("%s: frame %v, error %v", what, f, err)
		}
	}
}

// TestContentUsesTheBuffer: decompression takes new memory only where the buffer is too small.
func TestContentUsesTheBuffer(t *testing.T) {
	f, err := NewFrame([]Op{{OpWrite, 0, 4096}}, make([]byte, 4096), S2)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 0, 4096)
	got, err := f.Content(buf)
	if err != nil || &got[0] != &buf[:1][0] {
		t.Errorf("content is not in the buffer, error %v", err)
	}
	if got, err = f.Content(buf[:0:4095]); err != nil || len(got) != 4096 {
		t.Errorf("with a small buffer: %d bytes, error %v", len(got), err)
	}
}

// TestContentIsVerified [I]: content that is not what was written is never returned, whoever lost it.
func TestContentIsVerified(t *testing.T) {
	words := bytes.Repeat([]byte("words "), 1000)
	for _, c := range []Compression{Uncompressed, S2} {
		f, err := NewFrame([]Op{{OpWrite, 0, int64(len(words))}}, bytes.Clone(words), c)
		if err != nil {
			t.Fatal(err)
		}
		for bit := range len(f.Payload) * 8 {
			f.Payload[bit/8] ^= 1 << (bit % 8)
			if _, err := f.Content(nil); !errors.Is(err, ErrChecksum) && !errors.Is(err, ErrMalformed) {
				t.Fatalf("compression %d: bit %d: error %v", c, bit, err)
			}
			f.Payload[bit/8] ^= 1 << (bit % 8)
		}
		f.CRC++
		if _, err := f.Content(nil); !errors.Is(err, ErrChecksum) {
			t.Errorf("compression %d: wrong CRC: error %v", c, err)
		}
	}
}
