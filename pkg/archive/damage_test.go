package archive_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
)

// shelf is an archive of some points that is to be damaged: the objects of its store, what the points must restore to, and which
// objects each of them needs.
type shelf struct {
	options archive.Options // without a store
	objects map[string][]byte
	truth   map[uint64][][]byte
	needs   map[uint64]map[string]bool
	cache   string // the index as it was when all was well
}

// newShelf archives three points that share chunks, and a fourth one which is alone.
func newShelf(t *testing.T, random *rand.Rand, encrypted bool) *shelf {
	s := &shelf{truth: make(map[uint64][][]byte), needs: make(map[uint64]map[string]bool), cache: t.TempDir()}
	s.options.Group = "bank"
	if encrypted {
		identity, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		s.options.Recipients, s.options.Identities = []age.Recipient{identity.Recipient()}, []age.Identity{identity}
	}
	o := s.options
	faulty := storetest.NewFaulty(new(storetest.Memory))
	o.Store, o.Cache = faulty, s.cache
	a, err := archive.Create(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	content := drawn(random, 40*grid.Chunk+77)
	var before *archive.Part
	for barrier := uint64(1); barrier <= 4; barrier++ {
		v := source("v", content)
		log := drawn(random, 3*grid.Chunk)
		if barrier == 4 {
			v, before = source("v", drawn(random, 5*grid.Chunk)), nil
		}
		if before != nil {
			changed := grid.New(v.Size)
			for range 5 {
				off := random.Int64N(v.Size - 3)
				copy(content[off:], "new")
				changed.Mark(off, 3)
			}
			v.Before, v.Changed = before, changed
		}
		p := archived(t, a, barrier, source("objects", log), v)
		before = p.Part("v")
		image := make([]byte, v.Size)
		if _, err := v.Image.ReadAt(image, 0); err != nil {
			t.Fatal(err)
		}
		s.truth[barrier] = [][]byte{log, image}
		faulty.On(nil)
		for i, part := range p.Parts {
			restored(t, a, part, s.truth[barrier][i])
		}
		s.needs[barrier] = map[string]bool{"archive.json": true, fmt.Sprintf("points/%020d", barrier): true}
		for _, op := range faulty.Ops() {
			s.needs[barrier][op.Name] = true
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	s.objects = objectsOf(t, faulty)
	return s
}

func objectsOf(t *testing.T, from store.Store) map[string][]byte {
	out := make(map[string][]byte)
	for info, err := range from.List(t.Context(), "") {
		if err == nil {
			out[info.Name], err = from.Get(t.Context(), info.Name, 0, -1)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// check restores every point of a damaged archive: there are the right bytes or a *DamageError, and no error at all where nothing that the
// point needs is damaged. It tells whether anything was found.
func (s *shelf) check(t *testing.T, what string, objects map[string][]byte, damaged []string, warm bool) (found bool) {
	t.Helper()
	o := s.options
	o.Store = new(storetest.Memory)
	for name, data := range objects {
		if err := o.Store.Put(t.Context(), name, data); err != nil {
			t.Fatal(err)
		}
	}
	if warm {
		o.Cache = t.TempDir()
		if err := os.CopyFS(o.Cache, os.DirFS(s.cache)); err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(o.Cache)
	}
	a, err := archive.Open(t.Context(), o)
	if err != nil {
		if d := new(archive.DamageError); !errors.As(err, &d) && !errors.Is(err, archive.ErrNone) && !errors.Is(err, archive.ErrKey) && !errors.Is(err, archive.ErrForeign) {
			t.Errorf("%s: open: %v", what, err)
		}
		if !slices.Contains(damaged, "archive.json") {
			t.Errorf("%s: the archive can't be opened at all: %v", what, err)
		}
		return true
	}
	defer a.Close()
	points, bad, err := a.Points(t.Context())
	if err != nil {
		t.Errorf("%s: list points: %v", what, err)
		return false
	}
	found = len(bad) > 0 || len(points) < len(s.truth)
	for _, d := range bad {
		if !slices.Contains(damaged, d.Object) {
			t.Errorf("%s: %v", what, d)
		}
	}
	listed := make(map[uint64]bool)
	for _, p := range points {
		listed[p.Barrier] = true
		for i, part := range p.Parts {
			c := collect(t, part.Size, 0)
			err := a.Restore(t.Context(), part, archive.RestoreOptions{Sink: c})
			want := s.truth[p.Barrier][i]
			if !bytes.Equal(c.b[:c.at], want[:c.at]) || err == nil && c.at != int64(len(want)) {
				t.Errorf("%s: point %d: wrong bytes of %s (%v)", what, p.Barrier, part.Name, err)
			}
			image := make([]byte, part.Size)
			n, imageErr := a.Image(t.Context(), part).ReadAt(image, 0)
			if !bytes.Equal(image[:n], want[:n]) || imageErr == nil && n != len(want) || (imageErr == nil) != (err == nil) {
				t.Errorf("%s: point %d: wrong bytes of the image of %s (%v, and the restore %v)", what, p.Barrier, part.Name, imageErr, err)
			}
			if err == nil {
				continue
			}
			found = true
			s.judge(t, what, p.Barrier, err, damaged)
		}
	}
	for barrier := range s.truth {
		if !listed[barrier] && !slices.Contains(damaged, fmt.Sprintf("points/%020d", barrier)) {
			t.Errorf("%s: point %d isn't listed", what, barrier)
		}
	}
	return found
}

// judge checks an error of a point.
func (s *shelf) judge(t *testing.T, what string, barrier uint64, err error, damaged []string) {
	t.Helper()
	if d := new(archive.DamageError); !errors.As(err, &d) {
		t.Errorf("%s: point %d: %v", what, barrier, err)
	} else if strings.HasPrefix(d.Object, "packs/") && !slices.Contains(damaged, d.Object) {
		t.Errorf("%s: point %d: another pack is blamed: %v", what, barrier, err)
	}
	if !slices.ContainsFunc(damaged, func(object string) bool { return s.needs[barrier][object] }) {
		t.Errorf("%s: point %d needs nothing of that: %v", what, barrier, err)
	}
}

// Every object is deleted, cut, altered and confused with every other one, with an index that was made before that and with one that was
// made after.
func TestDamage(t *testing.T) {
	t.Parallel()
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprintf("encrypted=%v", encrypted), func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, 0))
			s := newShelf(t, random, encrypted)
			if s.check(t, "nothing", s.objects, nil, false) || s.check(t, "nothing, warm", s.objects, nil, true) {
				t.Fatal("it is damaged from the start")
			}
			names := slices.Sorted(maps.Keys(s.objects))
			t.Logf("objects: %v", names)
			for _, name := range names {
				s.damage(t, random, name, names)
			}
		})
	}
}

func (s *shelf) damage(t *testing.T, random *rand.Rand, name string, names []string) {
	whole := s.objects[name]
	n := len(whole)
	try := func(what string, change func(objects map[string][]byte), damaged ...string) (found int) {
		objects := maps.Clone(s.objects)
		change(objects)
		for _, warm := range []bool{false, true} {
			if s.check(t, fmt.Sprintf("%s, %s, warm=%v", name, what, warm), objects, damaged, warm) {
				found++
			}
		}
		return found
	}
	must := func(what string, found int) {
		if found != 2 {
			t.Errorf("%s, %s: found %d of 2 times", name, what, found)
		}
	}
	must("deleted", try("deleted", func(o map[string][]byte) { delete(o, name) }, name))
	for _, to := range []int{0, 1, n / 2, n - 1, random.IntN(n)} {
		must("cut", try(fmt.Sprintf("cut to %d of %d", to, n), func(o map[string][]byte) { o[name] = whole[:to] }, name))
	}
	try("longer", func(o map[string][]byte) { o[name] = append(bytes.Clone(whole), 0) }, name)
	for _, bit := range []int{0, 7 * 8, 8 * 8, 8*n - 1, 8 * (n - 12), 8 * (n - 60), random.IntN(8 * n), random.IntN(8 * n), random.IntN(8 * n)} {
		try(fmt.Sprintf("bit %d of %d", bit, 8*n), func(o map[string][]byte) {
			o[name] = bytes.Clone(whole)
			o[name][bit/8] ^= 1 << (bit % 8)
		}, name)
	}
	for _, other := range names {
		if other > name {
			try("swapped with "+other, func(o map[string][]byte) { o[name], o[other] = o[other], o[name] }, name, other)
		}
		if other != name {
			try("replaced by "+other, func(o map[string][]byte) { o[name] = o[other] }, name)
		}
	}
}

// Any bit of a manifest that is another one is seen, and costs this point alone.
func TestDamageOfManifests(t *testing.T) {
	t.Parallel()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []archive.Options{{}, {Recipients: []age.Recipient{identity.Recipient()}, Identities: []age.Identity{identity}}} {
		o.Store = new(storetest.Memory)
		a := open(t, o)
		archived(t, a, 1, source("v", []byte("money")))
		archived(t, a, 2, source("v", []byte("money")))
		const name = "points/00000000000000000002"
		whole, err := o.Store.Get(t.Context(), name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		for bit := range 8 * len(whole) {
			if err := o.Store.Put(t.Context(), name, storetest.Flip(bit)(bytes.Clone(whole))); err != nil {
				t.Fatal(err)
			}
			points, damaged, err := a.Points(t.Context())
			if err != nil || len(points) != 1 || points[0].Barrier != 1 || len(damaged) != 1 || damaged[0].Object != name {
				t.Fatalf("bit %d of %d: %v, %v, %v", bit, 8*len(whole), points, damaged, err)
			}
		}
	}
}

// Any bit of a pack's records that is another one is seen. Where another pack has the chunk too, it is taken from there.
func TestDamageOfRecords(t *testing.T) {
	t.Parallel()
	content := []byte("one chunk, which is stored twice")
	s := new(storetest.Memory)
	first := open(t, archive.Options{Store: s})
	other := new(storetest.Memory)
	about, err := s.Get(t.Context(), "archive.json", 0, -1)
	if err == nil {
		err = other.Put(t.Context(), "archive.json", about)
	}
	if err != nil {
		t.Fatal(err)
	}
	p := archived(t, first, 1, source("v", content))
	archived(t, open(t, archive.Options{Store: other}), 2, source("v", content), source("w", []byte("and one that is not")))
	var names []string
	for name := range objectsOf(t, s) {
		if strings.HasPrefix(name, "packs/") {
			names = append(names, name)
		}
	}
	if len(names) != 1 {
		t.Fatalf("packs %v, want one", names)
	}
	whole, err := s.Get(t.Context(), names[0], 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	damaged := 0
	for bit := range 8 * len(whole) {
		if err := s.Put(t.Context(), names[0], storetest.Flip(bit)(bytes.Clone(whole))); err != nil {
			t.Fatal(err)
		}
		c := collect(t, p.Parts[0].Size, 0)
		err := first.Restore(t.Context(), p.Parts[0], archive.RestoreOptions{Sink: c})
		if err != nil {
			damaged++
			if d := new(archive.DamageError); !errors.As(err, &d) {
				t.Fatalf("bit %d of %d: %v", bit, 8*len(whole), err)
			}
		} else if !bytes.Equal(c.b, content) {
			t.Fatalf("bit %d of %d: wrong bytes", bit, 8*len(whole))
		}
	}
	if damaged < 8*len(content) {
		t.Fatalf("%d of %d bits were seen", damaged, 8*len(whole))
	}
	// The last bit's damage is still there. Now the other archive's packs are this one's too.
	for name, data := range objectsOf(t, other) {
		if strings.HasPrefix(name, "packs/") {
			if err := s.Put(t.Context(), name, data); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, data := range [][]byte{whole[:len(whole)/2], nil} {
		err := s.Put(t.Context(), names[0], data)
		if data == nil {
			err = s.Delete(t.Context(), names[0])
		}
		if err != nil {
			t.Fatal(err)
		}
		restored(t, first, p.Parts[0], content)
	}
}

// An index that was cut, altered or is another file costs time, and nothing else.
func TestDamageOfIndex(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := newShelf(t, random, false)
	entries, err := os.ReadDir(s.cache)
	if err != nil || len(entries) == 0 {
		t.Fatalf("the cache has no files: %v", err)
	}
	for _, e := range entries {
		path := filepath.Join(s.cache, e.Name())
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(whole) == 0 {
			continue // the lock
		}
		for i := range 40 {
			b := bytes.Clone(whole)
			switch i % 4 {
			case 0:
				b = b[:random.IntN(len(b))]
			case 1:
				at := random.IntN(max(1, len(b)-4096))
				rand.NewChaCha8([32]byte{byte(i)}).Read(b[at:min(at+4096, len(b))])
			default:
				for range i {
					at := random.IntN(8 * len(b))
					b[at/8] ^= 1 << (at % 8)
				}
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if s.check(t, fmt.Sprintf("index %s, way %d", e.Name(), i), s.objects, nil, true) {
				t.Errorf("index %s, way %d: points are taken for damaged", e.Name(), i)
			}
		}
	}
}
