package archive

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
)

// A cache that is lost, cut, altered, of another archive, or behind the store costs nothing but time.
func TestCacheThatIsNoGood(t *testing.T) {
	t.Parallel()
	random := newRandom(t)
	mem := new(storetest.Memory)
	v := make(volume, 300*grid.Chunk)
	v.scribble(random, 300)

	cache := t.TempDir()
	file := filepath.Join(cache, indexFile)
	open := func(cache string) *Archive {
		a, err := Create(t.Context(), Options{Store: mem, Group: "bank", Cache: cache, Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		a.packTarget = 20 * grid.Chunk
		return a
	}
	shut := func(a *Archive) {
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	a := open(cache)
	p, err := commit(t.Context(), a, 1, source("disk", v))
	if err != nil {
		t.Fatal(err)
	}
	shut(a)
	early, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	a = open(cache)
	v.scribble(random, 40)
	if p, err = commit(t.Context(), a, 1, source("disk", v)); err != nil {
		t.Fatal(err)
	}
	shut(a)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	caches := map[string][]byte{
		"behind":  early,
		"foreign": foreignCache(t),
		"empty":   {},
		"garbage": bytes.Repeat([]byte("garbage "), 10000),
		"cut":     good[:len(good)/2],
	}
	for name, content := range caches {
		for _, sealed := range []bool{true, false} { // by who closed the good one
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if !sealed {
				if err := os.Remove(sealOf(file)); err != nil {
					t.Fatal(err)
				}
			}
			a := open(cache)
			if sealed != a.index.new.Load() && name == "behind" {
				t.Errorf("behind, sealed %v: the index is not what it should be", sealed)
			}
			expect(t, a, p.Parts[0], v)
			again, err := commit(t.Context(), a, 2, source("disk", v))
			if err != nil || again.Added != 0 {
				t.Errorf("%s: %d bytes are stored again: %v", name, again.Added, err)
			}
			shut(a)
		}
	}

	for range 10 {
		bad := bytes.Clone(good)
		for range 1 + random.IntN(30) {
			bad[random.IntN(len(bad))] ^= 1 << random.IntN(8)
		}
		if bytes.Equal(bad, good) {
			continue
		}
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		a := open(cache)
		if !a.index.new.Load() {
			t.Error("an index that is altered is used")
		}
		expect(t, a, p.Parts[0], v)
		shut(a)
		if good, err = os.ReadFile(file); err != nil { // the one that is sealed now
			t.Fatal(err)
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
