package archive

import (
	"errors"
	"fmt"
	"maps"
	"slices"
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
	noted, err := a.Quarantine(t.Context(), found.Damaged, found.Whole)
	if err != nil || noted != (len(found.Damaged) > 0) {
		t.Fatalf("%+v are noted: %v, %v", found.Damaged, noted, err)
	}
	if noted, err = a.Quarantine(t.Context(), found.Damaged, found.Whole); err != nil || noted {
		t.Fatalf("noted a second time: %v, %v", noted, err)
	}
	points, _, err := a.Points(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	last := points[len(points)-1]
	var sources []Source
	for name, v := range s.parts(last) {
		from := source(name, v)
		from.Before, from.Changed = last.Part(name), grid.New(from.Size)
		sources = append(sources, from)
	}
	s.truth = maps.Clone(s.truth) // clones of a shelf share it
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

// A point that is listed while a check goes on, or by a run that goes on while what was found is quarantined, isn't built on.
func TestQuarantineBesideRuns(t *testing.T) {
	t.Parallel()
	random := newRandom(t)
	s := newShelf()
	s.fill(t, random, 2, 50)
	a := s.open(t, s.memory)
	v := slices.Clone(s.truth[2])
	v.scribble(random, 20)
	p, err := commit(t.Context(), a, 3, source("disk", v))
	if err != nil {
		t.Fatal(err)
	}
	flying, err := a.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	from := source("disk", v)
	from.Before, from.Changed = p.Part("disk"), grid.New(from.Size)
	part, err := flying.Add(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	var damaged string
	for info := range s.memory.List(t.Context(), packs) {
		damaged = info.Name
	}
	// The check looked at points 1 and 2, and found the second one whole.
	if noted, err := a.Quarantine(t.Context(), []Damage{{Object: damaged, Points: []uint64{1}}}, []uint64{2}); err != nil || !noted {
		t.Fatal(noted, err)
	}
	if _, err := flying.Commit(t.Context(), Point{Barrier: 4, Kind: "crash", Parts: []Part{part}}); !errors.Is(err, errSpoiled) {
		t.Errorf("a run that went on meanwhile: %v", err)
	}
	if err := flying.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := a.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	points, _, err := a.Points(t.Context())
	if err != nil || len(points) != 3 {
		t.Fatalf("%d points, %v", len(points), err)
	}
	for _, point := range points {
		if got := r.Trusts(point.Part("disk")); got != (point.Barrier == 2) {
			t.Errorf("point %d is trusted: %v", point.Barrier, got)
		}
	}
}

// Two damaged packs, one of which can't be read at all, are both named.
func TestCheckOfTwoDamagedPacks(t *testing.T) {
	t.Parallel()
	random := newRandom(t)
	origin := newShelf()
	origin.fill(t, random, 4, 50)
	var objects []store.Info
	for info := range origin.memory.List(t.Context(), packs) {
		objects = append(objects, info)
	}
	for i, cut := range objects {
		s := origin.clone(t)
		for j, info := range objects {
			data, err := s.memory.Get(t.Context(), info.Name, 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			if j == i {
				data = data[:len(data)/2]
			} else {
				for at := packHeader; at < len(data)/2; at += 40 { // every record, the directory stays
					data[at] ^= 1
				}
			}
			if err := s.memory.Put(t.Context(), info.Name, data); err != nil {
				t.Fatal(err)
			}
		}
		for _, share := range []float64{0, 1} {
			found, err := s.open(t, s.memory).Check(t.Context(), CheckOptions{ReadData: share})
			if err != nil || !slices.ContainsFunc(found.Damaged, func(d Damage) bool { return d.Object == cut.Name }) {
				t.Errorf("share %v: %+v, %v", share, found, err)
			}
		}
	}
}
