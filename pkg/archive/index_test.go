package archive

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
)

// cached is an archive with a point, and a directory for its index.
type cached struct {
	memory *storetest.Memory
	dir    string
	file   string // the index
	v      volume // of the point
	p      Point
}

func newCached(t *testing.T, random *rand.Rand) *cached {
	t.Helper()
	c := &cached{memory: new(storetest.Memory), dir: t.TempDir(), v: make(volume, 300*grid.Chunk)}
	c.file = filepath.Join(c.dir, indexFile)
	c.v.scribble(random, 300)
	return c
}

func (c *cached) open(t *testing.T) *Archive {
	t.Helper()
	a, err := Create(t.Context(), Options{Store: c.memory, Group: "bank", Cache: c.dir, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	a.packTarget = 20 * grid.Chunk
	return a
}

// archive archives the point, and returns the index that it left.
func (c *cached) archive(t *testing.T) []byte {
	t.Helper()
	a := c.open(t)
	var err error
	if c.p, err = commit(t.Context(), a, 1, source("disk", c.v)); err == nil {
		err = a.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return c.index(t)
}

func (c *cached) index(t *testing.T) []byte {
	t.Helper()
	content, err := os.ReadFile(c.file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// with opens the archive with another index, and tells whether that is used. Everything must be as with a good one.
func (c *cached) with(t *testing.T, index []byte) (used bool) {
	t.Helper()
	if err := os.WriteFile(c.file, index, 0o600); err != nil {
		t.Fatal(err)
	}
	a := c.open(t)
	used = !a.index.new.Load()
	expect(t, a, c.p.Parts[0], c.v)
	again, err := commit(t.Context(), a, 2, source("disk", c.v))
	if err != nil || again.Added != 0 {
		t.Errorf("%d bytes are stored again: %v", again.Added, err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	return used
}

// A cache that is lost, cut, of another archive, or behind the store costs nothing but time, whether it was closed or its process killed.
func TestCacheThatIsNoGood(t *testing.T) {
	t.Parallel()
	random := newRandom(t)
	c := newCached(t, random)
	early := c.archive(t)
	c.v.scribble(random, 40)
	good := c.archive(t)
	for name, content := range map[string][]byte{
		"behind":  early,
		"foreign": foreignCache(t),
		"empty":   {},
		"garbage": bytes.Repeat([]byte("garbage "), 10000),
		"cut":     good[:len(good)/2],
	} {
		t.Run(name, func(t *testing.T) {
			if c.with(t, content) {
				t.Error("it is used, and another one was sealed")
			}
			if err := os.Remove(sealOf(c.file)); err != nil {
				t.Fatal(err)
			}
			if c.with(t, content) != (name == "behind") {
				t.Error("it is used as it is, or not, without a seal")
			}
		})
	}
}

// A cache with bits that are others is seen before it is used.
func TestCacheThatIsAltered(t *testing.T) {
	t.Parallel()
	random := newRandom(t)
	c := newCached(t, random)
	c.archive(t)
	for range 10 {
		good := c.index(t)
		bad := bytes.Clone(good)
		for range 1 + random.IntN(30) {
			bad[random.IntN(len(bad))] ^= 1 << random.IntN(8)
		}
		if !bytes.Equal(bad, good) && c.with(t, bad) {
			t.Error("it is used")
		}
	}
}

// foreignCache is the cache of another archive.
func foreignCache(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	x, err := openIndex(dir, "another one")
	if err == nil {
		err = x.close()
	}
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(dir, indexFile))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// Who comes second doesn't wait for the cache.
func TestCacheInUse(t *testing.T) {
	t.Parallel()
	mem, cache := new(storetest.Memory), t.TempDir()
	first, second := testArchive(t, mem, Options{Cache: cache}), testArchive(t, mem, Options{Cache: cache})
	v := volume(bytes.Repeat([]byte("in use"), grid.Chunk))
	p, err := commit(t.Context(), first, 1, source("disk", v))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, second, p.Parts[0], v)
}

// Packs that another process wrote, or wrote anew, are found when they are needed.
func TestPacksOfOthers(t *testing.T) {
	t.Parallel()
	mem := new(storetest.Memory)
	a, b := testArchive(t, mem, Options{}), testArchive(t, mem, Options{})
	v := make(volume, 20*grid.Chunk)
	v.scribble(newRandom(t), 40)
	p, err := commit(t.Context(), a, 1, source("disk", v))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, b, p.Parts[0], v)
	old, err := a.listPacks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// b writes the packs anew, with their records in another order.
	w := b.newPacker()
	g, ctx := w.begin(t.Context())
	for _, pack := range old {
		entries, err := b.readDirectory(ctx, pack.name, pack.size)
		if err != nil {
			t.Fatal(err)
		}
		off := int64(packHeader)
		for _, e := range entries {
			record, err := b.readPack(ctx, pack.name, off, int64(e.stored))
			if err != nil {
				t.Fatal(err)
			}
			off += int64(e.stored)
			if err := w.put(ctx, &w.data, record, e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := w.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, pack := range old {
		if err := mem.Delete(t.Context(), pack.name.object()); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, a, p.Parts[0], v)
	if again, err := commit(t.Context(), a, 2, source("disk", v)); err != nil || again.Added != 0 {
		t.Errorf("%d bytes are stored again: %v", again.Added, err)
	}
}

// Two archives share a directory for their indexes, as two groups of one name do in a user's cache, and are opened at the same time, again
// and again: each finds an index of its own.
func TestCacheOfTwoArchives(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var all errgroup.Group
	for _, archive := range []string{"one", "two"} {
		for range 2 {
			all.Go(func() error {
				for range 100 {
					x, err := openIndex(dir, archive)
					if err != nil {
						return err
					}
					if err := x.close(); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
}
