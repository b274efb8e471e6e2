package archive_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
)

// drawn makes content as volumes have it: nothing, what compresses, what doesn't, and repetitions, in runs of any length.
func drawn(random *rand.Rand, size int64) []byte {
	b := make([]byte, size)
	noise := rand.NewChaCha8([32]byte{byte(random.Uint32())})
	for at := int64(0); at < size; {
		n := min(random.Int64N(5*grid.Chunk)+1, size-at)
		switch run := b[at : at+n]; random.IntN(4) {
		case 0:
			noise.Read(run)
		case 1:
			for i := range run {
				run[i] = byte(i / 7)
			}
		case 2:
			copy(run, b)
		}
		at += n
	}
	return b
}

// chunks gives each chunk of a part content of its own that is quickly made: zeros but for its number.
type chunks int64

func (s chunks) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for at := (off + grid.Chunk - 1) / grid.Chunk * grid.Chunk; at+8 <= off+int64(len(p)); at += grid.Chunk {
		binary.LittleEndian.PutUint64(p[at-off:], uint64(at/grid.Chunk)+1)
	}
	return len(p), nil
}

// collected is a Sink in memory, which fails the test that gives it ranges out of order.
type collected struct {
	t     *testing.T
	b     []byte
	at    int64
	zeros int
	fail  func(at int64) error
	mu    sync.Mutex // of at
}

func collect(t *testing.T, size, from int64) *collected {
	return &collected{t: t, b: bytes.Repeat([]byte{0xAA}, int(size)), at: from}
}

func (c *collected) next(off, length int64) error {
	if off != c.at || length <= 0 {
		c.t.Errorf("%d bytes at %d, want them at %d", length, off, c.at)
	}
	if c.fail != nil {
		if err := c.fail(off); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at += length
	return nil
}

// reached is how far the content is there.
func (c *collected) reached() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *collected) WriteAt(p []byte, off int64) (int, error) {
	if err := c.next(off, int64(len(p))); err != nil {
		return 0, err
	}
	return copy(c.b[off:], p), nil
}

func (c *collected) Zero(off, length int64) error {
	c.zeros++
	if err := c.next(off, length); err != nil {
		return err
	}
	clear(c.b[off : off+length])
	return nil
}

func open(t *testing.T, o archive.Options) *archive.Archive {
	t.Helper()
	o.Group = "bank"
	a, err := archive.Create(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// archived archives a point.
func archived(t *testing.T, a *archive.Archive, barrier uint64, sources ...archive.Source) archive.Point {
	t.Helper()
	r, err := a.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := archive.Point{Barrier: barrier, Set: []byte("{}")}
	for _, s := range sources {
		part, err := r.Add(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		p.Parts = append(p.Parts, part)
	}
	if p, err = r.Commit(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return p
}

func source(name string, b []byte) archive.Source {
	return archive.Source{Name: name, Size: int64(len(b)), Image: bytes.NewReader(b)}
}

func restored(t *testing.T, a *archive.Archive, p archive.Part, want []byte) {
	t.Helper()
	c := collect(t, p.Size, 0)
	if err := a.Restore(t.Context(), p, archive.RestoreOptions{Sink: c}); err != nil {
		t.Fatal(err)
	}
	if c.at != p.Size || !bytes.Equal(c.b, want) {
		t.Fatalf("%s: %d of %d bytes were restored, or others", p.Name, c.at, p.Size)
	}
}

func TestRestoreSizes(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for _, encrypted := range []bool{false, true} {
		o := archive.Options{Store: new(storetest.Memory)}
		if encrypted {
			o.Recipients, o.Identities = []age.Recipient{identity.Recipient()}, []age.Identity{identity}
		}
		a := open(t, o)
		random := rand.New(rand.NewPCG(seed, 0))
		for i, size := range []int64{
			0, 1, 4096, grid.Chunk - 1, grid.Chunk, grid.Chunk + 1, 16 * grid.Chunk, 512*grid.Chunk - 1, 512 * grid.Chunk, 512*grid.Chunk + 512,
			random.Int64N(600 * grid.Chunk),
		} {
			content := drawn(random, size)
			p := archived(t, a, uint64(i+1), source("v", content)).Parts[0]
			restored(t, a, p, content)
			if a.Encrypted() != encrypted {
				t.Fatal("it is not as encrypted as it should be")
			}
			image := make([]byte, size+1)
			if n, err := a.Image(t.Context(), p).ReadAt(image, 0); int64(n) != size || !errors.Is(err, io.EOF) || !bytes.Equal(image[:n], content) {
				t.Fatalf("the image has %d of %d bytes, or others: %v", n, size, err)
			}
		}
	}
}

// A part of several windows whose chunks lie in the packs of many points is restored, and goes on from wherever Done said, or from
// anywhere.
func TestRestoreGoesOn(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	a := open(t, archive.Options{Store: new(storetest.Memory)})
	size := int64(1200*grid.Chunk + 777)
	content := make([]byte, size)
	_, _ = chunks(0).ReadAt(content, 0)
	p := archived(t, a, 1, source("v", content))
	for barrier := range uint64(6) {
		changed := grid.New(size)
		for range 200 {
			off := random.Int64N(size - 100)
			rand.NewChaCha8([32]byte{byte(barrier)}).Read(content[off : off+100])
			changed.Mark(off, 100)
		}
		s := source("v", content)
		s.Before, s.Changed = p.Part("v"), changed
		p = archived(t, a, barrier+2, s)
	}
	part := p.Parts[0]
	var stops []int64
	var progress int64
	c := collect(t, size, 0)
	err := a.Restore(t.Context(), part, archive.RestoreOptions{
		Sink: c,
		Done: func(upTo int64) error {
			if at := c.reached(); upTo > at || len(stops) > 0 && upTo <= stops[len(stops)-1] && upTo < size {
				t.Errorf("done up to %d after %v, and the sink is at %d", upTo, stops, at)
			}
			stops = append(stops, upTo)
			return nil
		},
		Progress: func(n int64) { progress += n },
	})
	if err != nil || !bytes.Equal(c.b, content) || progress != size || len(stops) < 2 || stops[len(stops)-1] != size {
		t.Fatalf("%v, %d of %d bytes, done at %v", err, progress, size, stops)
	}
	stops = append(stops, 1, size-1, random.Int64N(size))
	for _, from := range stops {
		c, progress := collect(t, size, from), int64(0)
		err := a.Restore(t.Context(), part, archive.RestoreOptions{From: from, Sink: c, Progress: func(n int64) { progress += n }})
		if err != nil || !bytes.Equal(c.b[from:], content[from:]) || c.at != size || progress != size-from {
			t.Fatalf("from %d on: %v, up to %d of %d", from, err, c.at, size)
		}
		if slices.ContainsFunc(c.b[:from], func(b byte) bool { return b != 0xAA }) {
			t.Fatalf("from %d on: something was written before", from)
		}
	}
	for _, from := range []int64{-1, size + 1} {
		if err := a.Restore(t.Context(), part, archive.RestoreOptions{From: from, Sink: c}); err == nil {
			t.Fatalf("a restore from %d on of %d bytes is none", from, size)
		}
	}
}

// gaps is a Sink that only counts.
type gaps struct {
	written, zeroed int64
	zeros           int
	b               []byte
}

func (g *gaps) WriteAt(p []byte, off int64) (int, error) {
	g.written += int64(len(p))
	g.b = append(g.b, p...)
	return len(p), nil
}

func (g *gaps) Zero(_, length int64) error {
	g.zeroed += length
	g.zeros++
	return nil
}

// A volume of 4 TiB with three chunks in it takes a few requests: subtrees of zeros are told at once.
func TestRestoreSparse(t *testing.T) {
	t.Parallel()
	faulty := storetest.NewFaulty(new(storetest.Memory))
	a := open(t, archive.Options{Store: faulty})
	const size = 4<<40 + 5
	changed := grid.New(size)
	for _, off := range []int64{3 << 30, 3<<40 + 12345, size - 1} {
		changed.Mark(off, 1)
	}
	p := archived(t, a, 1, archive.Source{
		Name: "v", Size: size, Image: chunks(0), Before: &archive.Part{Name: "v", Size: size}, Changed: changed,
	}).Parts[0]
	faulty.On(nil)
	var g gaps
	if err := a.Restore(t.Context(), p, archive.RestoreOptions{Sink: &g}); err != nil {
		t.Fatal(err)
	}
	// The last chunk has 5 bytes, too few for a number.
	if g.written != 2*grid.Chunk || g.zeroed != size-2*grid.Chunk || g.zeros != 3 || len(faulty.Ops()) > 12 {
		t.Fatalf("%d bytes written, %d zeroed in %d ranges, %d requests", g.written, g.zeroed, g.zeros, len(faulty.Ops()))
	}
	for i, off := range []uint64{3 << 30, 3<<40 + 12345} {
		if got := binary.LittleEndian.Uint64(g.b[i*grid.Chunk:]); got != off/grid.Chunk+1 {
			t.Fatalf("chunk %d was restored instead of %d", got-1, off/grid.Chunk)
		}
	}
}

// What fails ends a restore with its own error, is no damage, and leaves a state that another one goes on from.
func TestRestoreFails(t *testing.T) {
	t.Parallel()
	faulty := storetest.NewFaulty(new(storetest.Memory))
	a := open(t, archive.Options{Store: faulty})
	content := make([]byte, 1100*grid.Chunk)
	_, _ = chunks(0).ReadAt(content, 0)
	clear(content[100*grid.Chunk : 200*grid.Chunk])
	p := archived(t, a, 1, source("v", content)).Parts[0]
	broken := errors.New("broken")

	t.Run("sink", func(t *testing.T) {
		for _, at := range []int64{0, 120 * grid.Chunk, 1090 * grid.Chunk} {
			c := collect(t, p.Size, 0)
			c.fail = func(off int64) error {
				if off >= at {
					return broken
				}
				return nil
			}
			if err := a.Restore(t.Context(), p, archive.RestoreOptions{Sink: c}); !errors.Is(err, broken) {
				t.Fatalf("%v", err)
			}
			if !bytes.Equal(c.b[:c.at], content[:c.at]) {
				t.Fatal("other bytes were restored")
			}
		}
	})
	t.Run("done", func(t *testing.T) {
		err := a.Restore(t.Context(), p, archive.RestoreOptions{Sink: collect(t, p.Size, 0), Done: func(int64) error { return broken }})
		if !errors.Is(err, broken) {
			t.Fatalf("%v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		err := a.Restore(ctx, p, archive.RestoreOptions{Sink: collect(t, p.Size, 0), Progress: func(int64) { cancel(broken) }})
		if !errors.Is(err, broken) {
			t.Fatalf("%v", err)
		}
	})
	t.Run("store", func(t *testing.T) {
		faulty.On(nil)
		restored(t, a, p, content)
		n := len(faulty.Ops())
		for i := range n {
			faulty.On(storetest.FailAt(i+1, false))
			c, done := collect(t, p.Size, 0), int64(0)
			o := archive.RestoreOptions{Sink: c, Done: func(upTo int64) error {
				done = upTo
				return nil
			}}
			err := a.Restore(t.Context(), p, o)
			if damage := new(archive.DamageError); !errors.Is(err, storetest.ErrInjected) || errors.As(err, &damage) {
				t.Fatalf("request %d of %d fails, and the restore with %v", i+1, n, err)
			}
			faulty.On(nil)
			o.From, c.at = done, done
			if err := a.Restore(t.Context(), p, o); err != nil || !bytes.Equal(c.b, content) {
				t.Fatalf("from %d on: %v, or other bytes", done, err)
			}
		}
	})
}

// crowd is a store whose large reads return only once so many of them are under way.
type crowd struct {
	store.Store
	want, now atomic.Int64
	there     chan struct{}
}

func (c *crowd) Get(ctx context.Context, name string, off, length int64) ([]byte, error) {
	if length > 1<<20 {
		if n := c.now.Add(1); n == c.want.Load() {
			close(c.there)
		}
		select {
		case <-c.there:
		case <-time.After(time.Minute):
			return nil, fmt.Errorf("%d large reads have begun after a minute, want %d", c.now.Load(), c.want.Load())
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return c.Store.Get(ctx, name, off, length)
}

// As many requests are under way as there may be.
func TestRestoreInParallel(t *testing.T) {
	t.Parallel()
	s := &crowd{Store: new(storetest.Memory), there: make(chan struct{})}
	s.want.Store(5)
	a := open(t, archive.Options{Store: s, Requests: 5})
	content := make([]byte, 48<<20)
	rand.NewChaCha8([32]byte{1}).Read(content)
	restored(t, a, archived(t, a, 1, source("v", content)).Parts[0], content)
}

// An image is read at random, by several goroutines at once.
func TestImage(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	a := open(t, archive.Options{Store: new(storetest.Memory)})
	content := drawn(random, 700*grid.Chunk+3)
	m := a.Image(t.Context(), archived(t, a, 1, source("v", content)).Parts[0])
	var readers sync.WaitGroup
	for i := range 4 {
		readers.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			for range 200 {
				off := random.Int64N(int64(len(content)))
				b := make([]byte, random.Int64N(1<<random.IntN(20)+1))
				n, err := m.ReadAt(b, off)
				want := content[off:min(off+int64(len(b)), int64(len(content)))]
				if !bytes.Equal(b[:n], want) || (n < len(b)) != errors.Is(err, io.EOF) || err != nil && n == len(b) {
					t.Errorf("%d bytes at %d: %d, %v", len(b), off, n, err)
				}
			}
		})
	}
	readers.Wait()
	if _, err := m.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("there is nothing before the start")
	}
	if n, err := m.ReadAt(make([]byte, 1), int64(len(content))); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("behind the end: %d, %v", n, err)
	}
}

// counted counts what is read of packs.
type counted struct {
	store.Store
	bytes, requests atomic.Int64
}

func (c *counted) Get(ctx context.Context, name string, off, length int64) ([]byte, error) {
	b, err := c.Store.Get(ctx, name, off, length)
	c.bytes.Add(int64(len(b)))
	c.requests.Add(1)
	return b, err
}

// A restore reads what Cost said.
func TestCost(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := &counted{Store: new(storetest.Memory)}
	a := open(t, archive.Options{Store: s})
	contents := [][]byte{drawn(random, 1300*grid.Chunk+3), drawn(random, 10), nil}
	var sources []archive.Source
	for i, b := range contents {
		sources = append(sources, source(fmt.Sprintf("v%d", i), b))
	}
	p := archived(t, a, 1, sources...)
	cost, err := a.Cost(t.Context(), p.Parts)
	if err != nil || cost.Rate <= 0 || cost.Time <= 0 {
		t.Fatalf("%+v, %v", cost, err)
	}
	s.bytes.Store(0)
	s.requests.Store(0)
	for i, part := range p.Parts {
		restored(t, a, part, contents[i])
	}
	if s.bytes.Load() != cost.Bytes || s.requests.Load() != cost.Requests {
		t.Fatalf("%d bytes in %d requests, and %+v was told", s.bytes.Load(), s.requests.Load(), cost)
	}
	if none, err := a.Cost(t.Context(), p.Parts[2:]); err != nil || none != (archive.Cost{}) {
		t.Fatalf("nothing costs %+v, %v", none, err)
	}
}
