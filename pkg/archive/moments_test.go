package archive

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/archive/store/storetest"
)

// begin begins a run which stores what point 1 had, that nobody else needs once the point is removed, and returns what lists it and ends the run.
func (s *shelf) begin(t *testing.T, a *Archive) (end func()) {
	t.Helper()
	r, err := a.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	part, err := r.Add(t.Context(), source("disk", s.truth[1]))
	if err != nil {
		t.Fatal(err)
	}
	s.truth[9] = s.truth[1]
	return func() {
		t.Helper()
		if _, err := r.Commit(t.Context(), Point{Barrier: 9, Time: time.Unix(9, 0), Kind: "crash", Parts: []Part{part}}); err != nil {
			t.Fatal(err)
		}
		if r.packer.bytes > size(t, s.memory)/4 {
			t.Fatal("the run stores everything anew: it relies on nothing")
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// die lets a prune die when it has condemned packs, before it looks who is alive, and its lock run out, while the living renew.
func (s *shelf) die(t *testing.T, faulty *storetest.Faulty, a *Archive) {
	t.Helper()
	died := false
	faulty.On(func(op storetest.Op) *storetest.Fault {
		if died {
			return &storetest.Fault{Before: storetest.ErrInjected}
		}
		if died = op.Kind == "Put" && strings.HasPrefix(op.Name, condemnedFolder); died {
			return &storetest.Fault{After: storetest.ErrInjected}
		}
		return nil
	})
	if _, err := pruneAll(t.Context(), a, 1); err == nil || !died {
		t.Fatalf("the prune did not die: %v", err)
	}
	faulty.On(nil)
	for info := range s.memory.List(t.Context(), lockLeases) {
		if err := s.memory.Delete(t.Context(), info.Name); err != nil {
			t.Fatal(err)
		}
	}
}

// moments are those in which a run and a prune could miss each other, that chance would hardly hit.
var moments = map[string]func(t *testing.T, s *shelf, faulty *storetest.Faulty, runs, prunes *Archive){
	"nobody looked who is alive": func(t *testing.T, s *shelf, faulty *storetest.Faulty, runs, prunes *Archive) {
		end := s.begin(t, runs)
		s.die(t, faulty, prunes)
		if _, err := pruneAll(t.Context(), prunes, 2); err != nil {
			t.Fatal(err)
		}
		end()
	},
	"it ends behind the listing of points": func(t *testing.T, s *shelf, faulty *storetest.Faulty, runs, prunes *Archive) {
		end := s.begin(t, runs)
		s.die(t, faulty, prunes)
		listed := false
		faulty.On(func(op storetest.Op) *storetest.Fault {
			if op.Kind == "List" && op.Name == condemnedFolder && !listed { // it comes after that of the points
				listed = true
				end()
			}
			return nil
		})
		if _, err := pruneAll(t.Context(), prunes, 2); err != nil || !listed {
			t.Fatal(listed, err)
		}
		faulty.On(nil)
	},
	"it begins before anything is condemned": func(t *testing.T, s *shelf, faulty *storetest.Faulty, runs, prunes *Archive) {
		var end func()
		faulty.On(func(op storetest.Op) *storetest.Fault {
			if op.Kind == "Put" && strings.HasPrefix(op.Name, condemnedFolder) && end == nil {
				end = s.begin(t, runs)
			}
			return nil
		})
		if _, err := pruneAll(t.Context(), prunes, 1); err != nil || end == nil {
			t.Fatal(err)
		}
		faulty.On(nil)
		end()
	},
	"it ends when its packs are condemned": func(t *testing.T, s *shelf, faulty *storetest.Faulty, runs, prunes *Archive) {
		end := s.begin(t, runs)
		ended := false
		faulty.On(func(op storetest.Op) *storetest.Fault {
			if op.Kind == "Put" && strings.HasPrefix(op.Name, condemnedFolder) && !ended {
				ended = true
				end()
			}
			return nil
		})
		if _, err := pruneAll(t.Context(), prunes, 1); err != nil || !ended {
			t.Fatal(ended, err)
		}
		faulty.On(nil)
	},
}

// Each time a run relies on packs that a prune wants to delete, and its point has to restore.
func TestPruneMoments(t *testing.T) {
	t.Parallel()
	for name, play := range moments {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShelf()
			s.options.Requests = 1
			s.fill(t, newRandom(t), 3, 50)
			faulty := storetest.NewFaulty(s.memory)
			play(t, s, faulty, s.open(t, s.memory), s.open(t, faulty))
			a := s.open(t, s.memory)
			if got := s.restore(t, a); !slices.Contains(got, 9) {
				t.Fatalf("points %v are listed", got)
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
		})
	}
}
