package archive

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"filippo.io/age"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
)

// remove deletes all objects whose names begin with prefix.
func remove(t *testing.T, s store.Store, prefix string) {
	t.Helper()
	for info, err := range s.List(t.Context(), prefix) {
		if err == nil {
			err = s.Delete(t.Context(), info.Name)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// condemn condemns all packs.
func condemn(t *testing.T, a *Archive, s store.Store) {
	t.Helper()
	there, err := a.listPacks(t.Context())
	if err != nil {
		t.Error(err)
	}
	c := new(condemnation)
	for _, p := range there {
		c.Packs = append(c.Packs, p.name.object())
	}
	if err := c.put(t.Context(), s); err != nil {
		t.Error(err)
	}
}

// A run that is taken for dead lists its point if everything that it needs is still there, and only then, whenever that happens.
func TestRunTakenForDead(t *testing.T) {
	t.Parallel()
	v := make(volume, 30*grid.Chunk)
	v.scribble(newRandom(t), 60)
	for _, when := range []string{"before Commit", "before the manifest", "behind the manifest"} {
		for _, gone := range []string{"nothing", "deleted", "condemned"} {
			t.Run(fmt.Sprintf("%s/%s", when, gone), func(t *testing.T) {
				t.Parallel()
				mem := new(storetest.Memory)
				faulty := storetest.NewFaulty(mem)
				a := testArchive(t, faulty, Options{})
				if _, err := commit(t.Context(), a, 1, source("disk", v)); err != nil {
					t.Fatal(err)
				}
				bury := func() {
					remove(t, mem, runLeases)
					switch gone {
					case "deleted":
						remove(t, mem, pointObject(1))
						remove(t, mem, packs)
					case "condemned":
						remove(t, mem, pointObject(1))
						condemn(t, a, mem)
					}
				}
				r, err := a.Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				part, err := r.Add(t.Context(), source("disk", v))
				if err != nil {
					t.Fatal(err)
				}
				if when == "before Commit" {
					bury()
				}
				buried := false
				faulty.On(func(op storetest.Op) *storetest.Fault {
					if op.Kind != "Put" || !strings.HasPrefix(op.Name, pointsPrefix) || buried {
						return nil
					}
					buried = true
					switch when {
					case "before the manifest":
						bury()
					case "behind the manifest":
						return &storetest.Fault{Then: bury}
					}
					return nil
				})
				_, err = r.Commit(t.Context(), Point{Barrier: 2, Parts: []Part{part}})
				faulty.On(nil)
				points, _, listed := a.Points(t.Context())
				if listed != nil {
					t.Fatal(listed)
				}
				if gone != "nothing" {
					if !errors.Is(err, ErrAbandoned) || len(points) != 0 {
						t.Fatalf("%v, and %d points are listed", err, len(points))
					}
				} else {
					if err != nil || len(points) != 2 {
						t.Fatalf("%v, and %d points are listed", err, len(points))
					}
					expect(t, a, points[1].Parts[0], v)
				}
				if err := r.Close(); err != nil {
					t.Fatal(err)
				}
				if left, err := leases(t.Context(), mem, runLeases); err != nil || len(left) > 0 {
					t.Errorf("%d leases are left: %v", len(left), err)
				}
			})
		}
	}
}

// Errors of an archive as a whole are told apart.
func TestOpen(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	mem := new(storetest.Memory)
	if _, err := Open(ctx, Options{Store: mem, Group: "bank"}); !errors.Is(err, ErrNone) {
		t.Errorf("no archive: %v", err)
	}
	mine, other := identity(t), identity(t)
	made := testArchive(t, mem, Options{Recipients: []age.Recipient{other.Recipient(), mine.Recipient()}, Identities: []age.Identity{mine}})
	if !made.Encrypted() {
		t.Error("it isn't encrypted")
	}
	v := volume("the secret of the bank, which nobody else reads; the secret of the bank, which nobody else reads")
	p, err := commit(ctx, made, 1, source("the-name-of-a-disk", v))
	if err != nil {
		t.Fatal(err)
	}
	for _, identities := range [][]age.Identity{nil, {identity(t)}} {
		if _, err := Open(ctx, Options{Store: mem, Group: "bank", Identities: identities}); !errors.Is(err, ErrKey) {
			t.Errorf("a wrong key: %v", err)
		}
		if _, err := Create(ctx, Options{Store: mem, Group: "bank", Identities: identities}); !errors.Is(err, ErrKey) {
			t.Errorf("a wrong key: %v", err)
		}
	}
	if _, err := Open(ctx, Options{Store: mem, Group: "shop", Identities: []age.Identity{mine}}); !errors.Is(err, ErrForeign) {
		t.Errorf("another group's: %v", err)
	}
	expect(t, testArchive(t, mem, Options{Identities: []age.Identity{other}}), p.Parts[0], v)
	for info, err := range mem.List(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		data, err := mem.Get(ctx, info.Name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{"secret", "the-name-of", string(p.Parts[0].Root[:])} {
			if strings.Contains(string(data), secret) {
				t.Errorf("%s has %q in it, and can be read by anybody", info.Name, secret)
			}
		}
	}
	for bad, want := range map[string]string{
		`{`: "is damaged", `{"format":9,"group":"bank","id":"x"}`: "format 9", `{"format":1,"group":"bank","id":"x","encryption":"rot13"}`: "rot13",
		`{"format":1,"group":"bank","id":"x","encryption":"age","key":"AAAA"}`: "its key",
	} {
		mem := new(storetest.Memory)
		if err := mem.Put(ctx, aboutObject, []byte(bad)); err != nil {
			t.Fatal(err)
		}
		if _, err := Create(ctx, Options{Store: mem, Group: "bank", Identities: []age.Identity{mine}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// An error of the image ends the run, and is what Add and Commit return.
func TestImageThatFails(t *testing.T) {
	t.Parallel()
	a := testArchive(t, new(storetest.Memory), Options{})
	r, err := a.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := source("disk", make(volume, 40*grid.Chunk))
	s.Image = failing{}
	if _, err := r.Add(t.Context(), s); !errors.Is(err, errImage) {
		t.Errorf("the image failed, and Add says %v", err)
	}
	if _, err := r.Commit(t.Context(), Point{Barrier: 1}); !errors.Is(err, errImage) {
		t.Errorf("the image failed, and Commit says %v", err)
	}
	s = source("disk", make(volume, 40*grid.Chunk))
	s.Size++
	if _, err := r.Add(t.Context(), s); !errors.Is(err, errImage) {
		t.Errorf("the run goes on: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

var errImage = errors.New("no such sector")

type failing struct{}

func (failing) ReadAt(p []byte, off int64) (int, error) {
	if off > 20*grid.Chunk {
		return 0, errImage
	}
	return len(p), nil
}

// numbered is an image whose chunks differ in their first bytes alone.
type numbered struct{ chunk []byte }

func (n numbered) ReadAt(p []byte, off int64) (int, error) {
	for i := 0; i < len(p); i += grid.Chunk {
		c := p[i:min(i+grid.Chunk, len(p))]
		copy(c, n.chunk)
		binary.LittleEndian.PutUint64(c, uint64(off)+uint64(i)+1)
	}
	return len(p), nil
}

// sink is a store that forgets packs.
type sink struct{ *storetest.Memory }

func (s sink) Put(ctx context.Context, name string, data []byte) error {
	if strings.HasPrefix(name, packs) {
		return nil
	}
	return s.Memory.Put(ctx, name, data)
}

// What a run holds in memory doesn't depend on the volume's size.
func TestMemory(t *testing.T) { // alone: it measures the heap
	random := newRandom(t)
	image := numbered{make([]byte, grid.Chunk)}
	for i := range image.chunk[:grid.Chunk/2] {
		image.chunk[i] = byte(random.Uint32())
	}
	held := func(size int64) (most uint64) {
		a := testArchive(t, sink{new(storetest.Memory)}, Options{Workers: 2})
		var read, measured int64
		_, err := commit(t.Context(), a, 1, Source{Name: "disk", Size: size, Image: image, Progress: func(n int64) {
			if read += n; read-measured >= 32<<20 {
				measured = read
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		return most
	}
	small, large := held(192<<20), held(768<<20)
	t.Logf("%d MiB are held for 192 MiB, %d for 768", small>>20, large>>20)
	if large > small+16<<20 || large > 128<<20 {
		t.Errorf("%d bytes are held for a volume of 192 MiB, %d for one of 768 MiB", small, large)
	}
}

// Several runs at once don't get in each other's way.
func TestRunsAtOnce(t *testing.T) {
	t.Parallel()
	a := testArchive(t, new(storetest.Memory), Options{Workers: 2, Requests: 2})
	a.packTarget = 3 * grid.Chunk
	random := newRandom(t)
	var want []volume
	for range 4 {
		v := make(volume, 50*grid.Chunk)
		v.scribble(random, 60)
		want = append(want, v)
	}
	errs := make(chan error)
	for i, v := range want {
		go func() {
			_, err := commit(t.Context(), a, uint64(i), source("disk", v))
			errs <- err
		}()
	}
	for range want {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	points, _, err := a.Points(t.Context())
	if err != nil || len(points) != len(want) {
		t.Fatal(points, err)
	}
	if !slices.IsSortedFunc(points, func(a, b Point) int { return int(a.Barrier) - int(b.Barrier) }) {
		t.Error("points are in no order")
	}
	for i, p := range points {
		expect(t, a, p.Parts[0], want[i])
	}
}

// gated is a store whose puts of packs wait.
type gated struct {
	sink
	open chan struct{}
}

func (g gated) Put(ctx context.Context, name string, data []byte) error {
	if strings.HasPrefix(name, packs) {
		<-g.open
	}
	return g.sink.Put(ctx, name, data)
}

// A run reads no more of a volume than fits into the packs that are on their way and being filled.
func TestBackPressure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := gated{sink{new(storetest.Memory)}, make(chan struct{})}
		a, err := Create(t.Context(), Options{Store: s, Group: "bank", Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		a.packTarget = 4 << 20
		image := make(volume, 64<<20)
		random := rand.NewChaCha8([32]byte{1})
		_, _ = random.Read(image) // never fails
		src := source("disk", image)
		var read atomic.Int64
		src.Progress = func(n int64) { read.Add(n) }
		done := make(chan error)
		go func() {
			_, err := commit(t.Context(), a, 1, src)
			done <- err
		}()
		synctest.Wait() // until nothing goes on but the puts
		if got, most := read.Load(), int64((packsOnTheirWay+1)*a.packTarget+jobChunks*grid.Chunk); got > most || got < most/2 {
			t.Errorf("%d MiB are read, want up to %d", got>>20, most>>20)
		}
		close(s.open)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
}
