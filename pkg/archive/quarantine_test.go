package archive

import (
	"fmt"
	"testing"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
)

// What a check found and quarantined heals: the next run reads and stores anew what is damaged although it says that nothing changed, the point
// before it restores again, and once the points that can't be helped are removed the damaged pack goes.
func TestQuarantineHeals(t *testing.T) {
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
			"altered":   storetest.Flip(8*packHeader + random.IntN(int(info.Size-int64(packHeader))*8)),
			"directory": storetest.Flip(int(info.Size-trailerBytes-1)*8 - random.IntN(8*entryLength)),
		} {
			t.Run(fmt.Sprintf("%d/%s", i, name), func(t *testing.T) {
				t.Parallel()
				s := origin.clone(t)
				a := s.open(t, s.memory) // it knows the pack as it was
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
				s.heal(t, a)
			})
		}
	}
}

// heal checks, quarantines, archives the content of point 4 again as point 5, and prunes.
func (s *shelf) heal(t *testing.T, a *Archive) {
	t.Helper()
	found, err := a.Check(t.Context(), CheckOptions{ReadData: 1})
	if err != nil {
		t.Fatal(err)
	}
	noted, err := a.Quarantine(t.Context(), found.Damaged)
	if err != nil || noted != (len(found.Damaged) > 0) {
		t.Fatalf("%+v are noted: %v, %v", found.Damaged, noted, err)
	}
	if noted, err = a.Quarantine(t.Context(), found.Damaged); err != nil || noted {
		t.Fatalf("noted a second time: %v, %v", noted, err)
	}
	points, _, err := a.Points(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	last := points[len(points)-1]
	var sources []Source
	for name, v := range map[string]volume{"disk": s.truth[last.Barrier], "log": s.truth[last.Barrier][:last.Barrier-1], "same": s.same} {
		from := source(name, v)
		from.Before, from.Changed = last.Part(name), grid.New(from.Size)
		sources = append(sources, from)
	}
	s.truth[5] = s.truth[last.Barrier]
	if _, err := commit(t.Context(), a, 5, sources...); err != nil {
		t.Fatal(err)
	}
	expect(t, a, *last.Part("disk"), s.truth[5])
	expect(t, a, *last.Part("same"), s.same)
	if found, err = a.Check(t.Context(), CheckOptions{ReadData: 1}); err != nil {
		t.Fatal(err)
	}
	remove := named(found)
	for _, barrier := range remove {
		if barrier >= last.Barrier {
			t.Errorf("point %d can't be restored: %+v", barrier, found.Damaged)
		}
	}
	for range 2 { // the first one condemns, at the latest
		if _, err := a.Prune(t.Context(), PruneOptions{Policy: Policy{Last: 100}, Remove: remove, Unused: 1e-9}); err != nil {
			t.Fatal(err)
		}
		remove = nil
	}
	if found, err = a.Check(t.Context(), CheckOptions{ReadData: 1}); err != nil || len(found.Damaged) > 0 {
		t.Fatalf("still damaged: %+v, %v", found, err)
	}
	s.restore(t, a)
	for info := range s.memory.List(t.Context(), condemnedFolder) {
		t.Errorf("left behind: %s", info.Name)
	}
}
