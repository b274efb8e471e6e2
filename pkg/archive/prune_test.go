package archive

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	bolt "go.etcd.io/bbolt"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
)

// shelf is an archive whose points are known, in a store whose clock can be set forward.
type shelf struct {
	memory  *storetest.Memory
	ahead   *atomic.Int64 // of the clock
	options Options
	truth   map[uint64]volume // by barrier
	same    volume            // a part that no point changes
}

func newShelf() *shelf {
	s := &shelf{ahead: new(atomic.Int64), truth: make(map[uint64]volume)}
	s.memory = s.emptyStore()
	return s
}

func (s *shelf) emptyStore() *storetest.Memory {
	return &storetest.Memory{Now: func() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }}
}

// clone copies the store. Objects are put anew, in the order of their names.
func (s *shelf) clone(t *testing.T) *shelf {
	t.Helper()
	out := &shelf{ahead: new(atomic.Int64), options: s.options, truth: s.truth, same: s.same}
	out.memory = out.emptyStore()
	for info, err := range s.memory.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		data, err := s.memory.Get(t.Context(), info.Name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if err := out.memory.Put(t.Context(), info.Name, data); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// open opens the archive over the shelf's store, or one that wraps it; packs are small.
func (s *shelf) open(t *testing.T, over store.Store) *Archive {
	t.Helper()
	a := testArchive(t, over, s.options)
	a.packTarget = 6 << 10 // chunks compress well
	return a
}

// fill archives points 1 to n of one volume of so many chunks that is written to in between, and an orphan.
func (s *shelf) fill(t *testing.T, random *rand.Rand, n int, chunks int64) {
	t.Helper()
	a := s.open(t, s.memory)
	v := make(volume, chunks*grid.Chunk+random.Int64N(grid.Chunk))
	from := source("disk", v)
	from.Changed = v.scribble(random, 30)
	s.same = make(volume, 20*grid.Chunk)
	s.same.scribble(random, 20)
	for barrier := range uint64(n) {
		p, err := commit(t.Context(), a, barrier+1, from, source("log", v[:barrier]), source("same", s.same))
		if err != nil {
			t.Fatal(err)
		}
		s.truth[barrier+1] = slices.Clone(v)
		from.Before, from.Changed = p.Part("disk"), v.scribble(random, 8)
	}
	r, err := a.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Add(t.Context(), source("disk", v)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.packer.flush(t.Context()), r.Close()); err != nil {
		t.Fatal(err)
	}
}

// parts are what the parts of a point should be.
func (s *shelf) parts(p Point) map[string]volume {
	out := make(map[string]volume)
	for _, part := range p.Parts {
		switch part.Name {
		case "log":
			out[part.Name] = s.truth[p.Barrier][:part.Size]
		case "same":
			out[part.Name] = s.same
		default:
			out[part.Name] = s.truth[p.Barrier]
		}
	}
	return out
}

// restore checks that every point that is listed restores, and returns their barriers.
func (s *shelf) restore(t *testing.T, a *Archive) (barriers []uint64) {
	t.Helper()
	points, damaged, err := a.Points(t.Context())
	if err != nil || len(damaged) > 0 {
		t.Fatal(damaged, err)
	}
	for _, p := range points {
		for name, want := range s.parts(p) {
			expect(t, a, *p.Part(name), want)
		}
		barriers = append(barriers, p.Barrier)
	}
	return barriers
}

// tidy checks that packs hold what points need, once, and nothing else, and that nothing lies about.
func (s *shelf) tidy(t *testing.T, a *Archive) {
	t.Helper()
	points, _, err := a.Points(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	needed := make(map[ID]bool)
	for _, p := range points {
		for _, part := range p.Parts {
			err := a.walk(t.Context(), part.Root, part.Size, 0, visitor{
				enter: func(id ID, _ int, _ int64) (bool, error) { needed[id] = true; return true, nil },
				leaf: func(_ int64, ids []ID) error {
					for _, id := range ids {
						needed[id] = needed[id] || !id.IsZero()
					}
					return nil
				},
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	delete(needed, ID{})
	found := copies(t, a)
	for id, n := range found {
		if n != 1 || !needed[id] {
			t.Errorf("chunk %s: %d copies, needed %v", id, n, needed[id])
		}
	}
	if len(found) != len(needed) {
		t.Errorf("%d chunks, and %d are needed", len(found), len(needed))
	}
	for info := range s.memory.List(t.Context(), "") {
		if folder, _, _ := strings.Cut(info.Name, "/"); folder != aboutObject && folder+"/" != packs && folder+"/" != pointsPrefix {
			t.Errorf("left behind: %s", info.Name)
		}
	}
}

// pruneAll prunes thoroughly.
func pruneAll(ctx context.Context, a *Archive, last int) (*Pruned, error) {
	return a.Prune(ctx, PruneOptions{Policy: Policy{Last: last}, Unused: 1e-9})
}

// size is how many bytes lie in packs.
func size(t *testing.T, s store.Store) (n int64) {
	t.Helper()
	for info, err := range s.List(t.Context(), packs) {
		if err != nil {
			t.Fatal(err)
		}
		n += info.Size
	}
	return n
}

func TestPrune(t *testing.T) {
	t.Parallel()
	id := identity(t)
	for name, options := range map[string]Options{"plain": {}, "encrypted": {Recipients: []age.Recipient{id.Recipient()}, Identities: []age.Identity{id}}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShelf()
			s.options = options
			s.fill(t, newRandom(t), 6, 600)
			a := s.open(t, s.memory)
			before := size(t, s.memory)

			// A dry run changes nothing and tells the same.
			names := func() (out []store.Info) {
				for info := range s.memory.List(t.Context(), "") {
					out = append(out, info)
				}
				return out
			}
			was := names()
			dry, err := a.Prune(t.Context(), PruneOptions{Policy: Policy{Last: 2}, Unused: 1e-9, DryRun: true})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(was, names()) {
				t.Error("a dry run changed the store")
			}
			done, err := pruneAll(t.Context(), a, 2)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.restore(t, a); !slices.Equal(got, []uint64{5, 6}) {
				t.Errorf("points %v are left", got)
			}
			s.tidy(t, a)
			after := size(t, s.memory)
			if done.Removed != 4 || done.Freed != before-after || done.BytesBefore != before || done.Packs == 0 || done.Repacked == 0 || done.Condemned != 0 || done.UnusedBytes != 0 {
				t.Errorf("%+v, and %d of %d bytes are left", done, after, before)
			}
			if off := dry.Freed - done.Freed; off*off > before*before/100 {
				t.Errorf("the dry run told of %d bytes to be freed, and there were %d", dry.Freed, done.Freed)
			}
			dry.Freed = done.Freed
			if fmt.Sprintf("%+v", dry) != fmt.Sprintf("%+v", done) {
				t.Errorf("the dry run told %+v, done was %+v", dry, done)
			}

			// Nothing is left to do.
			again, err := pruneAll(t.Context(), a, 2)
			if err != nil || again.Packs+again.Repacked+again.Removed+again.Condemned != 0 {
				t.Errorf("once more: %+v, %v", again, err)
			}
			if again, err = a.Prune(t.Context(), PruneOptions{Remove: []uint64{5}, Unused: 1}); err != nil || again.Removed != 1 || again.Repacked != 0 {
				t.Errorf("without repacking: %+v, %v", again, err)
			}
			if _, err = a.Prune(t.Context(), PruneOptions{Remove: []uint64{5}}); err == nil || !strings.Contains(err.Error(), "barrier 5") {
				t.Errorf("a point that isn't there: %v", err)
			}
			if got := s.restore(t, a); !slices.Equal(got, []uint64{6}) {
				t.Errorf("points %v are left", got)
			}
		})
	}
}

// A prune may die at every operation. What stays restores, and the next prune finishes the work.
func TestPruneDiesAnywhere(t *testing.T) {
	t.Parallel()
	origin := newShelf()
	origin.options.Workers, origin.options.Requests = 1, 1
	origin.fill(t, newRandom(t), 5, 50)
	play := func(t *testing.T, hook func(storetest.Op) *storetest.Fault) int {
		s := origin.clone(t)
		faulty := storetest.NewFaulty(s.memory)
		a := s.open(t, faulty)
		faulty.On(hook)
		_, failed := pruneAll(t.Context(), a, 2)
		ops := len(faulty.Ops())
		faulty.On(nil)
		if failed != nil && !errors.Is(failed, storetest.ErrInjected) {
			t.Fatal(failed)
		}
		a = s.open(t, s.memory)
		if got := s.restore(t, a); !slices.Equal(got[len(got)-2:], []uint64{4, 5}) {
			t.Fatalf("points %v are left", got)
		}
		// The lock of the dead one runs out.
		s.ahead.Add(int64(a.times.dead + time.Minute))
		// The first prune may have to look who is alive, the second deletes.
		for range 2 {
			if _, err := pruneAll(t.Context(), a, 2); err != nil {
				t.Fatal(err)
			}
		}
		if got := s.restore(t, a); !slices.Equal(got, []uint64{4, 5}) {
			t.Fatalf("points %v are left", got)
		}
		s.tidy(t, a)
		return ops
	}
	total := play(t, nil)
	t.Logf("a prune takes %d operations", total)
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

// A run that is alive keeps what it may rely on, whatever is pruned meanwhile, and what it stored itself.
func TestPruneBesideARun(t *testing.T) {
	t.Parallel()
	random := newRandom(t)
	s := newShelf()
	s.fill(t, random, 3, 50)
	a := s.open(t, s.memory)
	points, _, err := a.Points(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	run, err := a.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v := slices.Clone(s.truth[1])
	from := source("disk", v)
	from.Before, from.Changed = points[0].Part("disk"), v.scribble(random, 5)
	part, err := run.Add(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	if err := run.packer.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	// What point 1 alone needs goes with it, but for the run.
	done, err := pruneAll(t.Context(), a, 1)
	if err != nil || done.Removed != 2 || done.Condemned == 0 || done.Packs != 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	if done, err = pruneAll(t.Context(), a, 1); err != nil || done.Packs != 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	if _, err := run.Commit(t.Context(), Point{Barrier: 9, Time: time.Unix(9, 0), Kind: "crash", Parts: []Part{part}}); err != nil {
		t.Fatal(err)
	}
	s.truth[9] = v
	if done, err = pruneAll(t.Context(), a, 2); err != nil || done.Packs != 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	if err := run.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := pruneAll(t.Context(), a, 2); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.restore(t, a); !slices.Equal(got, []uint64{3, 9}) {
		t.Errorf("points %v are left", got)
	}
	s.tidy(t, a)
}

func TestPruneIsLocked(t *testing.T) {
	t.Parallel()
	s := newShelf()
	a := s.open(t, s.memory)
	lock, err := takeLock(t.Context(), s.memory, a.times)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.end(t.Context())
	var locked *LockedError
	if _, err := pruneAll(t.Context(), a, 1); !errors.As(err, &locked) {
		t.Errorf("while another one prunes: %v", err)
	}
	if _, err := a.Prune(t.Context(), PruneOptions{DryRun: true}); err != nil {
		t.Errorf("a dry run needs no lock: %v", err)
	}
	for _, o := range []PruneOptions{{Unused: -1}, {Unused: 1.1}, {Policy: Policy{Labels: []string{"["}}}} {
		if _, err := a.Prune(t.Context(), o); err == nil || errors.As(err, &locked) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// Where a point that stays is damaged, packs stay too, until it is given up.
func TestPruneDamaged(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, s *shelf, a *Archive) error{
		"manifest": func(t *testing.T, s *shelf, _ *Archive) error {
			return s.memory.Put(t.Context(), pointObject(4), []byte("nonsense"))
		},
		"pack": func(t *testing.T, s *shelf, a *Archive) error {
			points, _, err := a.Points(t.Context())
			if err != nil {
				return err
			}
			places, _, err := a.locate([]ID{points[3].Part("disk").Root})
			if err != nil {
				return err
			}
			return s.memory.Delete(t.Context(), places[0].pack.object())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShelf()
			s.fill(t, newRandom(t), 4, 50)
			a := s.open(t, s.memory)
			// What the newest point alone has is known from a listing of then.
			if err := damage(t, s, a); err != nil {
				t.Fatal(err)
			}
			before := size(t, s.memory)
			a = s.open(t, s.memory)
			_, err := a.Prune(t.Context(), PruneOptions{Policy: Policy{Last: 3}, Unused: 1e-9})
			if !isDamage(err) || !strings.Contains(err.Error(), "--remove") {
				t.Fatalf("error %v", err)
			}
			if got := size(t, s.memory); got != before {
				t.Errorf("%d bytes of %d are left", got, before)
			}
			done, err := a.Prune(t.Context(), PruneOptions{Policy: Policy{Last: 2}, Remove: []uint64{4}, Unused: 1e-9})
			if err != nil {
				t.Fatal(err)
			}
			if done.Packs == 0 {
				t.Errorf("%+v", done)
			}
			if got := s.restore(t, a); !slices.Equal(got, []uint64{2, 3}) {
				t.Errorf("points %v are left", got)
			}
		})
	}
}

// What a damaged index says of where chunks are costs nothing: a prune finds out, and asks the store.
func TestPruneDoubtsTheIndex(t *testing.T) {
	t.Parallel()
	random := newRandom(t)
	origin := newShelf()
	origin.fill(t, random, 4, 50)
	for range 20 {
		s := origin.clone(t)
		a := s.open(t, s.memory)
		err := a.index.db.Update(func(tx *bolt.Tx) error {
			b := tx.Bucket(chunkBucket)
			altered := make(map[string][]byte)
			c := b.Cursor()
			for k, v := c.First(); k != nil; k, v = c.Next() {
				if random.IntN(8) == 0 {
					altered[string(k)] = storetest.Flip(random.IntN(8 * len(v)))(slices.Clone(v))
				}
			}
			for k, v := range altered {
				if err := b.Put([]byte(k), v); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pruneAll(t.Context(), a, 2); err != nil {
			t.Fatal(err)
		}
		if got := s.restore(t, a); !slices.Equal(got, []uint64{3, 4}) {
			t.Errorf("points %v are left", got)
		}
		s.tidy(t, a)
	}
}
