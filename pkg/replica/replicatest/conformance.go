// Package replicatest holds what proves replicas: the conformance suite of replica.Target, histories with
// a model of what every commit holds, and a machine that fails and crashes where a test wants it.
package replicatest

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/farshore/farshore/pkg/replica"
)

// Run checks that targets are what replica.Target promises. open makes a target of the given size that
// reads as zero and is at least grow bytes large where it can't grow; the suite closes it.
func Run(t *testing.T, open func(t *testing.T, size, grow int64) replica.Target) {
	const size, grow = 1<<20 + 512, 2 << 20
	for name, test := range map[string]func(*testing.T, *checked){
		"blank reads as zero":       func(t *testing.T, c *checked) { c.compare(t) },
		"random operations":         random,
		"bounds":                    bounds,
		"reserving changes nothing": reserving,
		"growing":                   growing,
		"empty ranges":              empty,
		"reading meanwhile":         meanwhile,
	} {
		t.Run(name, func(t *testing.T) {
			target := open(t, size, grow)
			t.Cleanup(func() {
				if err := target.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			if target.Size() != size {
				t.Fatalf("size %d, want %d", target.Size(), size)
			}
			test(t, &checked{target: target, model: make([]byte, size), grow: grow})
		})
	}
}

// checked is a target beside what it should hold.
type checked struct {
	target replica.Target
	model  []byte
	grow   int64
}

func (c *checked) compare(t *testing.T) {
	t.Helper()
	got := make([]byte, len(c.model))
	if _, err := c.target.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if i := firstDifference(got, c.model); i >= 0 {
		t.Fatalf("byte %d is %#x, want %#x", i, got[i], c.model[i])
	}
}

func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func (c *checked) write(t *testing.T, r *rand.Rand, off, n int64) {
	t.Helper()
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(r.Uint32()) | 1
	}
	if got, err := c.target.WriteAt(data, off); err != nil || got != len(data) {
		t.Fatalf("write %d bytes at %d: %d, %v", n, off, got, err)
	}
	copy(c.model[off:], data)
}

func random(t *testing.T, c *checked) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		off := r.Int64N(int64(len(c.model)))
		n := 1 + r.Int64N(min(100_000, int64(len(c.model))-off))
		if r.IntN(2) == 0 { // as file systems do it
			off, n = off&^4095, max(512, n&^511)
			n = min(n, int64(len(c.model))-off)
		}
		var err error
		switch r.IntN(5) {
		case 0:
			err = c.target.Zero(off, n)
			clear(c.model[off : off+n])
		case 1:
			err = c.target.Trim(off, n)
			clear(c.model[off : off+n])
		case 2:
			err = c.target.Reserve([]replica.Extent{{Offset: off, Length: n}})
		case 3:
			err = c.target.Sync()
		default:
			c.write(t, r, off, n)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	c.compare(t)
}

func bounds(t *testing.T, c *checked) {
	size := int64(len(c.model))
	for _, e := range []replica.Extent{{Offset: -1, Length: 1}, {Offset: size, Length: 1}, {Offset: size - 1, Length: 2}, {Offset: 1 << 62, Length: 1 << 62}} {
		if e.Length < 1<<20 {
			if _, err := c.target.WriteAt(bytes.Repeat([]byte{1}, int(e.Length)), e.Offset); err == nil {
				t.Errorf("a write of %+v was accepted", e)
			}
			if _, err := c.target.ReadAt(make([]byte, e.Length), e.Offset); err == nil {
				t.Errorf("a read of %+v was accepted", e)
			}
		}
		if c.target.Zero(e.Offset, e.Length) == nil {
			t.Errorf("zeroing %+v was accepted", e)
		}
		if c.target.Trim(e.Offset, e.Length) == nil {
			t.Errorf("trimming %+v was accepted", e)
		}
		if c.target.Reserve([]replica.Extent{e}) == nil {
			t.Errorf("reserving %+v was accepted", e)
		}
	}
	c.compare(t)
}

func reserving(t *testing.T, c *checked) {
	r := rand.New(rand.NewPCG(1, 2))
	c.write(t, r, 5000, 10000)
	if err := c.target.Reserve([]replica.Extent{{Offset: 0, Length: 6000}, {Offset: 14000, Length: 70000}, {Offset: int64(len(c.model)) - 1, Length: 1}}); err != nil {
		t.Fatal(err)
	}
	c.compare(t)
	if err := c.target.Reserve(nil); err != nil {
		t.Fatal(err)
	}
}

func growing(t *testing.T, c *checked) {
	r := rand.New(rand.NewPCG(3, 4))
	c.write(t, r, int64(len(c.model))-100, 100)
	if c.target.Resize(int64(len(c.model))-1) == nil {
		t.Error("shrinking was accepted")
	}
	if err := c.target.Resize(c.grow); err != nil {
		t.Fatal(err)
	}
	c.model = append(c.model, make([]byte, c.grow-int64(len(c.model)))...)
	if c.target.Size() != c.grow {
		t.Fatalf("size %d, want %d", c.target.Size(), c.grow)
	}
	c.compare(t)
	c.write(t, r, c.grow-5000, 5000)
	if err := c.target.Reserve([]replica.Extent{{Offset: c.grow - 8192, Length: 8192}}); err != nil {
		t.Fatal(err)
	}
	c.compare(t)
}

func empty(t *testing.T, c *checked) {
	if err := c.target.Zero(100, 0); err != nil {
		t.Error(err)
	}
	if err := c.target.Trim(int64(len(c.model)), 0); err != nil {
		t.Error(err)
	}
	if _, err := c.target.WriteAt(nil, 7); err != nil {
		t.Error(err)
	}
	c.compare(t)
}

// meanwhile reads what nobody changes while everything else goes on.
func meanwhile(t *testing.T, c *checked) {
	r := rand.New(rand.NewPCG(5, 6))
	const still = 256 << 10
	c.write(t, r, 0, still)
	end := make(chan struct{})
	var readers sync.WaitGroup
	for i := range int64(2) {
		readers.Go(func() {
			got := make([]byte, 64<<10)
			for off := i * 4096; ; off = (off + 8192) % (still - int64(len(got))) {
				if _, err := c.target.ReadAt(got, off); err != nil {
					t.Errorf("read at %d: %v", off, err)
					return
				}
				if j := firstDifference(got, c.model[off:off+int64(len(got))]); j >= 0 {
					t.Errorf("byte %d differs", off+int64(j))
					return
				}
				select {
				case <-end:
					return
				default:
				}
			}
		})
	}
	rest := make([]byte, 100_000)
	for i := range int64(100) {
		off := still + i*4096
		_, err := c.target.WriteAt(rest, off)
		for _, f := range []func() error{
			func() error { return c.target.Zero(off, 4096) },
			func() error { return c.target.Trim(off+4096, 8192) },
			func() error { return c.target.Reserve([]replica.Extent{{Offset: off, Length: 65536}}) },
			func() error { return c.target.Resize(c.target.Size() + (c.grow-c.target.Size())/8/512*512) },
			c.target.Sync,
		} {
			if err == nil {
				err = f()
			}
		}
		if err != nil {
			t.Error(err)
			break
		}
	}
	close(end)
	readers.Wait()
}
