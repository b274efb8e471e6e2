package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
)

// newRandom makes random numbers, and logs where they come from.
func newRandom(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// volume is the content of a part.
type volume []byte

func (v volume) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(v).ReadAt(p, off) }

// scribble fills some chunks, of which some are alike, and some compress.
func (v volume) scribble(random *rand.Rand, chunks int) *grid.Set {
	changed := grid.New(int64(len(v)))
	for range chunks {
		if changed.Chunks() == 0 {
			break
		}
		i := random.Int64N(changed.Chunks())
		changed.Add(i)
		c := v[i*grid.Chunk : min((i+1)*grid.Chunk, int64(len(v)))]
		switch random.IntN(4) {
		case 0:
			clear(c)
		case 1:
			copy(c, bytes.Repeat([]byte{byte(random.IntN(5))}, len(c)))
		default:
			for j := 0; j < len(c); j += 97 {
				c[j] = byte(random.Uint32())
			}
		}
	}
	return changed
}

// data is how many bytes are in chunks that aren't all zeros.
func (v volume) data() (n int64) {
	for c := range slices.Chunk(v, grid.Chunk) {
		if !bytes.Equal(c, zeroChunk[:len(c)]) {
			n += int64(len(c))
		}
	}
	return n
}

// testArchive opens an archive in a store, which it is closed with.
func testArchive(t *testing.T, s store.Store, o Options) *Archive {
	t.Helper()
	o.Store, o.Group = s, "bank"
	a, err := Create(t.Context(), o)
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

// commit archives volumes under a barrier, and returns the point. before and changed may be nil.
func commit(ctx context.Context, a *Archive, barrier uint64, sources ...Source) (p Point, err error) {
	r, err := a.Begin(ctx)
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	p = Point{Barrier: barrier, Time: time.Unix(int64(barrier), 0).UTC(), Kind: "manual", Set: json.RawMessage(`{"vector":{}}`)}
	for _, s := range sources {
		part, err := r.Add(ctx, s)
		if err != nil {
			return p, err
		}
		p.Parts = append(p.Parts, part)
	}
	return r.Commit(ctx, p)
}

func source(name string, v volume) Source {
	return Source{Name: name, Size: int64(len(v)), Image: v}
}

// content reads a part chunk by chunk.
func content(ctx context.Context, a *Archive, p Part) (volume, error) {
	v := make(volume, p.Size)
	err := a.walk(ctx, p.Root, p.Size, 0, visitor{leaf: func(first int64, ids []ID) error {
		return a.fetch(ctx, ids, func(i int, chunk []byte) error {
			c := first + int64(i)
			if int64(len(chunk)) != chunkSize(p.Size, c) {
				return errors.New("a chunk has a wrong length")
			}
			copy(v[c*grid.Chunk:], chunk)
			return nil
		})
	}})
	return v, err
}

// expect compares a point's part with what it should be.
func expect(t *testing.T, a *Archive, p Part, want volume) {
	t.Helper()
	got, err := content(t.Context(), a, p)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("part %s of %d bytes is restored to something else", p.Name, p.Size)
	}
	if p.Data != want.data() {
		t.Fatalf("part %s has %d bytes of data, want %d", p.Name, p.Data, want.data())
	}
}

func identity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Points of a volume that changes, grows and shrinks are what the volume was, whoever opens the archive; encrypted or not.
func TestPoints(t *testing.T) {
	t.Parallel()
	id := identity(t)
	for name, o := range map[string]Options{
		"plain":     {},
		"encrypted": {Recipients: []age.Recipient{id.Recipient()}, Identities: []age.Identity{id}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			random := newRandom(t)
			mem := new(storetest.Memory)
			a := testArchive(t, mem, o)
			type truth struct { // of a point; all of them would take gigabytes
				sum  [sha256.Size]byte
				data int64
			}
			var want []truth
			v := make(volume, random.IntN(3*fanout*grid.Chunk))
			v.scribble(random, 100)
			var before *Part
			var changed *grid.Set
			for barrier := range uint64(12) {
				s := source("disk", v)
				s.Before, s.Changed = before, changed
				p, err := commit(t.Context(), a, barrier+1, s)
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, truth{sha256.Sum256(v), v.data()})
				before = p.Part("disk")
				if random.IntN(2) == 0 {
					sized := make(volume, random.IntN(3*fanout*grid.Chunk))
					copy(sized, v)
					v = sized
				}
				changed = v.scribble(random, random.IntN(20))
				if random.IntN(5) == 0 {
					changed = nil
				}
			}
			for _, a := range []*Archive{a, testArchive(t, mem, o)} {
				points, damaged, err := a.Points(t.Context())
				if err != nil || len(damaged) > 0 || len(points) != len(want) {
					t.Fatalf("%d points, %v, %v", len(points), damaged, err)
				}
				for i, p := range points {
					part := *p.Part("disk")
					got, err := content(t.Context(), a, part)
					if err != nil || (truth{sha256.Sum256(got), part.Data}) != want[i] {
						t.Fatalf("point %d is restored to something else: %v", p.Barrier, err)
					}
				}
			}
		})
	}
}

// A store that an archive went from, as a file system that isn't mounted any more, or that has another one now, is not written to.
func TestGoneArchiveIsNotWritten(t *testing.T) {
	t.Parallel()
	mem := new(storetest.Memory)
	a := testArchive(t, mem, Options{})
	raw, err := mem.Get(t.Context(), aboutObject, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	objects := func() (n int) {
		for _, err := range mem.List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	if err := mem.Delete(t.Context(), aboutObject); err != nil {
		t.Fatal(err)
	}
	before := objects()
	if _, err := commit(t.Context(), a, 1, source("disk", make(volume, 10))); !errors.Is(err, ErrNone) {
		t.Errorf("a point was archived where there is no archive: %v", err)
	}
	testArchive(t, mem, Options{})
	if _, err := commit(t.Context(), a, 1, source("disk", make(volume, 10))); !errors.Is(err, ErrNone) {
		t.Errorf("a point was archived in another archive: %v", err)
	}
	if n := objects(); n != before+1 {
		t.Errorf("%d objects were written to a store that isn't the archive's", n-before-1)
	}
	if err := mem.Put(t.Context(), aboutObject, raw); err != nil {
		t.Fatal(err)
	}
	if _, err := commit(t.Context(), a, 1, source("disk", make(volume, 10))); err != nil {
		t.Errorf("the archive is back: %v", err)
	}
}

// A store whose archive is gone, like a disk that isn't mounted, gets no new one by itself; another store does.
func TestCreateWhereOneWas(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	create := func(s store.Store) error {
		a, err := Create(t.Context(), Options{Store: s, Group: "bank", Cache: cache})
		if err == nil {
			err = a.Close()
		}
		return err
	}
	here, there := store.Sub(new(storetest.Memory), "here"), store.Sub(new(storetest.Memory), "there")
	for range 2 {
		if err := create(here); err != nil {
			t.Fatal(err)
		}
	}
	if err := here.Delete(t.Context(), aboutObject); err != nil {
		t.Fatal(err)
	}
	if err := create(here); !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), cache) {
		t.Errorf("where one was: %v", err)
	}
	if err := create(there); err != nil {
		t.Errorf("elsewhere: %v", err)
	}
	stray := new(storetest.Memory)
	if err := stray.Put(t.Context(), packs+"00/1", nil); err != nil {
		t.Fatal(err)
	}
	if err := create(stray); !errors.Is(err, ErrGone) { // its key would be replaced
		t.Errorf("where packs are: %v", err)
	}
	if err := errors.Join(os.RemoveAll(cache), create(here)); err != nil {
		t.Errorf("after the cache was removed: %v", err)
	}
}
