package archive

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
)

// lost tells which points don't restore.
func (s *shelf) lost(t *testing.T, a *Archive) (barriers []uint64) {
	t.Helper()
	points, _, err := a.Points(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range points {
		for name, want := range s.parts(p) {
			got, err := content(t.Context(), a, *p.Part(name))
			switch {
			case isDamage(err):
				barriers = append(barriers, p.Barrier)
			case err != nil:
				t.Fatal(err)
			case !slices.Equal(got, want):
				t.Fatalf("%s of point %d restores to other bytes", name, p.Barrier)
			}
		}
	}
	return slices.Compact(barriers)
}

// named are the points that a check names.
func named(c *Checked) (barriers []uint64) {
	for _, d := range c.Damaged {
		barriers = append(barriers, d.Points...)
	}
	slices.Sort(barriers)
	return slices.Compact(barriers)
}

// Whatever happens to a pack, a check that reads everything names the points that don't restore, and no others; one that reads no data
// does so for packs that are gone or cut.
func TestCheckNamesDamage(t *testing.T) {
	t.Parallel()
	random := newRandom(t)
	origin := newShelf()
	origin.fill(t, random, 4, 50)
	var objects []store.Info
	for info := range origin.memory.List(t.Context(), packs) {
		objects = append(objects, info)
	}
	for i, info := range objects {
		for name, damage := range map[string]func(data []byte) []byte{
			"deleted":   nil,
			"cut":       storetest.Truncate(1 + random.IntN(int(info.Size)-1)),
			"emptied":   storetest.Truncate(int(info.Size)),
			"altered":   storetest.Flip(8*packHeader + random.IntN(int(info.Size-int64(packHeader))*8)),
			"head":      storetest.Flip(random.IntN(8 * packHeader)),
			"directory": storetest.Flip(int(info.Size-trailerBytes-1)*8 - random.IntN(8*entryLength)),
		} {
			t.Run(fmt.Sprintf("%d/%s", i, name), func(t *testing.T) {
				t.Parallel()
				s := origin.clone(t)
				var err error
				if damage == nil {
					err = s.memory.Delete(t.Context(), info.Name)
				} else {
					var data []byte
					if data, err = s.memory.Get(t.Context(), info.Name, 0, -1); err == nil {
						err = s.memory.Put(t.Context(), info.Name, damage(data))
					}
				}
				if err != nil {
					t.Fatal(err)
				}
				a := s.open(t, s.memory)
				c, err := a.Check(t.Context(), CheckOptions{ReadData: 1})
				if err != nil {
					t.Fatal(err)
				}
				want := s.lost(t, a)
				if got := named(c); !slices.Equal(got, want) {
					t.Errorf("points %v are named, and %v don't restore: %+v", got, want, c.Damaged)
				}
				if len(c.Damaged) == 0 && (damage != nil || len(want) > 0) {
					t.Error("nothing is found")
				}
				for _, d := range c.Damaged {
					if d.Object != info.Name && (d.Object != missingPacks || damage != nil) || d.Reason == "" {
						t.Errorf("%+v, and %s was damaged", d, info.Name)
					}
				}
				if name == "altered" || name == "head" {
					return
				}
				if c, err = a.Check(t.Context(), CheckOptions{}); err != nil || !slices.Equal(named(c), want) {
					t.Errorf("without reading data: %+v, %v, and %v don't restore", c, err, want)
				}
			})
		}
	}
}

func TestCheckOfAWholeArchive(t *testing.T) {
	t.Parallel()
	id := identity(t)
	for name, options := range map[string]Options{"plain": {}, "encrypted": {Recipients: []age.Recipient{id.Recipient()}, Identities: []age.Identity{id}}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShelf()
			s.options = options
			s.fill(t, newRandom(t), 3, 600)
			a := s.open(t, s.memory)
			for _, share := range []float64{0, 0.3, 1} {
				last := map[string][2]int64{}
				c, err := a.Check(t.Context(), CheckOptions{ReadData: share, Progress: func(phase string, done, total int64) { last[phase] = [2]int64{done, total} }})
				if err != nil {
					t.Fatal(err)
				}
				if len(c.Damaged) > 0 || c.Points != 3 || c.Bytes != size(t, s.memory) || c.Read != int(share*float64(c.Packs)+0.999) {
					t.Errorf("share %v: %+v", share, c)
				}
				for phase, p := range last {
					if p[0] != p[1] {
						t.Errorf("%s: %d of %d", phase, p[0], p[1])
					}
				}
			}
			if _, err := pruneAll(t.Context(), a, 3); err != nil {
				t.Fatal(err)
			}
			if c, err := a.Check(t.Context(), CheckOptions{}); err != nil || c.Orphans != 0 {
				t.Errorf("after a prune: %+v, %v", c, err)
			}
			if err := s.memory.Put(t.Context(), pointObject(2), nil); err != nil {
				t.Fatal(err)
			}
			c, err := a.Check(t.Context(), CheckOptions{})
			if err != nil || c.Points != 2 || len(c.Damaged) != 1 || c.Damaged[0].Object != pointObject(2) || !slices.Equal(named(c), []uint64{2}) {
				t.Errorf("a manifest is damaged: %+v, %v", c, err)
			}
			if _, err := a.Check(t.Context(), CheckOptions{ReadData: 2}); err == nil {
				t.Error("more than everything can't be read")
			}
		})
	}
}

// A point that is pruned while it is being checked is no damage.
func TestCheckBesideAPrune(t *testing.T) {
	t.Parallel()
	origin := newShelf()
	origin.options.Requests = 1
	origin.fill(t, newRandom(t), 4, 50)
	total := 1
	for n := 1; n <= total; n++ {
		s := origin.clone(t)
		faulty := storetest.NewFaulty(s.memory)
		a, other := s.open(t, faulty), s.open(t, s.memory)
		faulty.On(func(op storetest.Op) *storetest.Fault {
			if op.N == n {
				if _, err := pruneAll(t.Context(), other, 1); err != nil {
					t.Error(err)
				}
			}
			return nil
		})
		c, err := a.Check(t.Context(), CheckOptions{})
		if err != nil || len(c.Damaged) > 0 {
			t.Errorf("pruned before operation %d: %+v, %v", n, c, err)
		}
		if n == 1 {
			total = len(faulty.Ops()) + 20 // the first one had less to look at
		}
	}
}

func TestStats(t *testing.T) {
	t.Parallel()
	s := newShelf()
	a := s.open(t, s.memory)
	empty, err := a.Stats(t.Context(), nil)
	if err != nil || empty.Points != 0 || empty.Packs != 0 || !empty.Oldest.IsZero() {
		t.Errorf("empty: %+v, %v", empty, err)
	}
	s.fill(t, newRandom(t), 3, 600)
	want := Stats{Points: 3}
	unique := make(map[string]bool)
	for _, v := range []volume{s.truth[1], s.truth[2], s.truth[3], s.same, s.same, s.same} {
		want.Restorable += int64(len(v))
		want.Data += v.data()
		for c := range slices.Chunk(v, 64<<10) {
			if strings.Trim(string(c), "\x00") != "" && !unique[string(c)] {
				unique[string(c)] = true
				want.Unique += int64(len(c))
			}
		}
	}
	got, err := a.Stats(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	nodes := got.Unique - want.Unique
	logs := got.Restorable - want.Restorable // parts of 0, 1 and 2 bytes
	if got.Points != 3 || logs != 3 || got.Data-want.Data > logs || nodes < nodeBytes || nodes > (3*4+1)*nodeBytes || got.Stored <= size(t, s.memory) || got.Unused <= 0 || got.Newest.Unix() != 3 || got.Oldest.Unix() != 1 {
		t.Errorf("%+v, want %+v", got, want)
	}
	if _, err := pruneAll(t.Context(), a, 3); err != nil {
		t.Fatal(err)
	}
	if got, err := a.Stats(t.Context(), nil); err != nil || got.Unused != 0 {
		t.Errorf("after a prune: %+v, %v", got, err)
	}
}
