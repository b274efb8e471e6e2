package archive

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"filippo.io/age"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
)

// copies counts in how many packs each chunk is.
func copies(t *testing.T, a *Archive) map[ID]int {
	t.Helper()
	there, err := a.listPacks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[ID]int)
	for _, p := range there {
		entries, err := a.readDirectory(t.Context(), p.name, p.size)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			out[e.id]++
		}
	}
	return out
}

// A run may fail at every operation on the store, before it takes effect or after, alone or with all that follow. What is listed then
// is right, a point whose Commit went well is listed, and the next run stores nothing again that the store has.
func TestRunsThatFail(t *testing.T) {
	t.Parallel()
	random := newRandom(t)
	first := make(volume, 40*grid.Chunk+77)
	first.scribble(random, 60)
	second := slices.Clone(first)
	changed := second.scribble(random, 25)
	id := identity(t)

	// play does what a site does: a point, then another one that hook gets in the way of, and tells what came of it.
	play := func(t *testing.T, fault func(storetest.Op) *storetest.Fault) (ops int) {
		mem := new(storetest.Memory)
		faulty := storetest.NewFaulty(mem)
		o := Options{
			Store: faulty, Group: "bank", Workers: 1, Cache: t.TempDir(),
			Recipients: []age.Recipient{id.Recipient()}, Identities: []age.Identity{id},
		}
		open := func() *Archive {
			a, err := Create(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			a.packTarget = 5 * grid.Chunk
			return a
		}
		a := open()
		p, err := commit(t.Context(), a, 1, source("disk", first))
		if err != nil {
			t.Fatal(err)
		}
		s := source("disk", second)
		s.Before, s.Changed = p.Part("disk"), changed
		faulty.On(fault)
		_, failed := commit(t.Context(), a, 2, s, source("log", first[:100]))
		ops = len(faulty.Ops())
		faulty.On(nil)
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if failed != nil && !errors.Is(failed, storetest.ErrInjected) {
			t.Fatal(failed)
		}

		a = open()
		defer func() {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		}()
		points, damaged, err := a.Points(t.Context())
		if err != nil || len(damaged) > 0 {
			t.Fatal(damaged, err)
		}
		want := map[uint64]volume{1: first, 2: second}
		for _, p := range points {
			expect(t, a, *p.Part("disk"), want[p.Barrier])
		}
		if failed == nil && len(points) != 2 {
			t.Fatalf("the point was archived, and %d are listed", len(points))
		}
		if p, err = commit(t.Context(), a, 2, s); err != nil {
			t.Fatal(err)
		}
		expect(t, a, *p.Part("disk"), second)
		for id, n := range copies(t, a) {
			if n > 1 {
				t.Errorf("chunk %s is in %d packs", id, n)
			}
		}
		return ops
	}

	failEverywhere(t, play)
}

// failEverywhere lets play fail at each of its operations in turn, in every way. play tells how many there were.
func failEverywhere(t *testing.T, play func(*testing.T, func(storetest.Op) *storetest.Fault) int) {
	t.Helper()
	total := play(t, func(storetest.Op) *storetest.Fault { return nil })
	if total < 12 {
		t.Fatalf("a run takes %d operations: it stores too little to tell anything", total)
	}
	for n := 1; n <= total; n++ {
		for how, hook := range map[string]func(int, bool) func(storetest.Op) *storetest.Fault{"fail": storetest.FailAt, "die": storetest.DieAt} {
			for _, after := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d/after=%v", how, n, after), func(t *testing.T) {
					t.Parallel()
					play(t, hook(n, after))
				})
			}
		}
	}
}

// A point of one changed chunk takes one pack, of that chunk and of a node for each level.
func TestSharing(t *testing.T) {
	t.Parallel()
	random := newRandom(t)
	const size = 700 * grid.Chunk // two levels
	v := make(volume, size)
	for i := range v[:size/2] {
		v[i] = byte(i / grid.Chunk * i)
	}
	a := testArchive(t, new(storetest.Memory), Options{})
	p, err := commit(t.Context(), a, 1, source("disk", v))
	if err != nil {
		t.Fatal(err)
	}
	before := copies(t, a)
	there, err := a.listPacks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const at = 600
	for i := range grid.Chunk {
		v[at*grid.Chunk+i] = byte(random.Uint32())
	}
	s := source("disk", v)
	s.Before, s.Changed = p.Part("disk"), grid.New(size)
	s.Changed.Add(at)
	read := int64(0)
	s.Progress = func(n int64) { read += n }
	if p, err = commit(t.Context(), a, 2, s); err != nil {
		t.Fatal(err)
	}
	expect(t, a, p.Parts[0], v)
	after := copies(t, a)
	if n := len(after) - len(before); n != 1+levels(size) || read != grid.Chunk {
		t.Errorf("%d chunks are stored and %d bytes read, want %d and %d", n, read, 1+levels(size), grid.Chunk)
	}
	now, err := a.listPacks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(now) != len(there)+1 {
		t.Errorf("it takes %d packs", len(now)-len(there))
	}
	var added int64
	for _, p := range now {
		added += p.size
	}
	for _, p := range there {
		added -= p.size
	}
	if p.Added != added {
		t.Errorf("the point added %d bytes, and says %d", added, p.Added)
	}

	// The same again, without what is known of it: everything is read, and nothing stored.
	again, err := commit(t.Context(), a, 3, source("disk", v))
	if err != nil {
		t.Fatal(err)
	}
	if again.Added != 0 || again.Parts[0] != p.Parts[0] {
		t.Errorf("it is stored again: %d bytes; %+v, before %+v", again.Added, again.Parts[0], p.Parts[0])
	}
}

// A part that isn't listed any more is not built on: what it needs may be gone.
func TestBeforeThatIsGone(t *testing.T) {
	t.Parallel()
	mem := new(storetest.Memory)
	a := testArchive(t, mem, Options{})
	v := make(volume, 10*grid.Chunk)
	v.scribble(newRandom(t), 10)
	copy(v, "not zeros")
	p, err := commit(t.Context(), a, 1, source("disk", v))
	if err != nil {
		t.Fatal(err)
	}
	there, err := a.listPacks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, pack := range there {
		if err := mem.Delete(t.Context(), pack.name.object()); err != nil {
			t.Fatal(err)
		}
	}
	if err := mem.Delete(t.Context(), pointObject(1)); err != nil {
		t.Fatal(err)
	}
	s := source("disk", v)
	s.Before, s.Changed = p.Part("disk"), grid.New(p.Parts[0].Size)
	if p, err = commit(t.Context(), a, 2, s); err != nil {
		t.Fatal(err)
	}
	expect(t, a, p.Parts[0], v)
}

// What is condemned is stored again by a run that begins then.
func TestCondemned(t *testing.T) {
	t.Parallel()
	mem := new(storetest.Memory)
	a := testArchive(t, mem, Options{})
	v := volume(bytes.Repeat([]byte("condemned"), grid.Chunk))
	if _, err := commit(t.Context(), a, 1, source("disk", v)); err != nil {
		t.Fatal(err)
	}
	there, err := a.listPacks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	condemn(t, a, mem)
	p, err := commit(t.Context(), a, 2, source("disk", v))
	if err != nil {
		t.Fatal(err)
	}
	if err := mem.Delete(t.Context(), there[0].name.object()); err != nil {
		t.Fatal(err)
	}
	expect(t, a, p.Parts[0], v)
}
