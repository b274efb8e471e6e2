package replica_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

// record is what streams were sent.
type record map[journal.StreamID][]events.Event

// recorded keeps what a history appends from here on.
func recorded(h *replicatest.History) record {
	r, sink := make(record), h.Sink
	h.Sink = func(part string, e events.Event) (uint64, error) {
		id := h.ID(part)
		r[id] = append(r[id], e)
		return sink(part, e)
	}
	return r
}

// changes goes the way back from one position to another, as simply as that can be done; nil: there is none.
func (r record) changes(volume string, from, to replica.Volume) *grid.Set {
	set := grid.New(to.Size)
	generation, last := to.Generation, to.Seq
	for {
		id := journal.StreamID{Group: "g", Part: volume, Generation: generation}
		first := uint64(1)
		if generation == from.Generation {
			first = from.Seq + 1
		}
		if generation < from.Generation || last+1 < first {
			return nil
		}
		for _, e := range r[id][first-1 : last] {
			if f, ok := e.(*events.Frame); ok {
				for _, op := range f.Ops {
					set.Mark(op.Offset, op.Length)
				}
			}
		}
		if generation == from.Generation {
			break
		}
		base := r[id][0].(*events.Epoch).Base
		if base == nil {
			return nil
		}
		generation, last = base.Generation, base.Seq
	}
	set.Mark(from.Size, to.Size-from.Size)
	return set
}

// eventful is a history of a volume that is lost and goes on, grows, is quiet, begins anew and is replaced.
func eventful(t *testing.T, seed uint64) (*replicatest.History, *replicatest.Memory, record) {
	t.Helper()
	h, src := replicatest.MemoryHistory("g", seed)
	r := recorded(h)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	commit := func() *events.Commit { c, err := h.Commit(""); must(err); return c }
	frames := func(n int) {
		for range n {
			must(h.Frame("v", 3))
		}
	}
	must(h.Add("v", 200*grid.Chunk+1536, false))
	h.Join("v")
	commit()
	frames(6)
	on := commit()
	frames(3) // are lost
	must(h.Renew("v", on))
	commit()
	commit() // nothing changed
	must(h.Resize("v", int64(len(h.Content("v")))+512))
	commit()
	frames(3)
	must(h.Resize("v", int64(len(h.Content("v")))+70*grid.Chunk))
	on = commit()
	frames(1)
	must(h.Renew("v", on))
	frames(2)
	must(h.Hash("v", 0, 64<<10))
	_, err := h.Sink("v", h.Epoch("v"))
	must(err)
	on = commit()
	must(h.Renew("v", on)) // nothing between
	commit()
	frames(2)
	must(h.Renew("v", nil))
	commit()
	frames(2)
	commit()
	must(h.Replace("v", 90*grid.Chunk))
	frames(2)
	commit()
	frames(2)
	commit()
	return h, src, r
}

// visited returns where a volume was at each commit of a history.
func visited(t *testing.T, h *replicatest.History, src replica.Source) (out []replica.Volume) {
	t.Helper()
	m := replicatest.NewMachine(1)
	set, err := openSet(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range h.Commits {
		if err := set.Advance(t.Context(), src, c); err != nil {
			t.Fatal(err)
		}
		out = append(out, set.Checkpoint().Volumes["v"])
	}
	return out
}

// [I] Between any two commits, what differs is among the changes, and the changes are what the journal says, over all
// generations; where it says nothing, there are none.
func TestChanges(t *testing.T) {
	t.Parallel()
	h, src, r := eventful(t, pickSeed(t))
	at := visited(t, h, src)
	known := 0
	for i := range at {
		for j := range at {
			got, err := replica.Changes(t.Context(), src, "g", "v", at[i], at[j])
			if err != nil {
				t.Fatal(err)
			}
			var want *grid.Set
			if i <= j && at[i].UID == at[j].UID {
				want = r.changes("v", at[i], at[j])
			}
			if (got == nil) != (want == nil) {
				t.Fatalf("from commit %d to %d changes are told: %v, want %v", i+1, j+1, got != nil, want != nil)
			}
			if got == nil {
				continue
			}
			known++
			if a, b := slices.Collect(got.All()), slices.Collect(want.All()); !slices.Equal(a, b) || got.Chunks() != grid.Count(at[j].Size) {
				t.Errorf("from commit %d to %d: %v, want %v", i+1, j+1, a, b)
			}
			before, after := h.States[i]["v"], h.States[j]["v"]
			for c := range got.Chunks() {
				chunk := func(v []byte) []byte {
					return v[min(c*grid.Chunk, int64(len(v))):min((c+1)*grid.Chunk, int64(len(v)))]
				}
				if !got.Has(c) && !bytes.Equal(chunk(before), chunk(after)) {
					t.Fatalf("from commit %d to %d chunk %d differs and is not told of", i+1, j+1, c)
				}
			}
		}
	}
	if known < 30 {
		t.Errorf("only %d pairs have changes", known)
	}
	if set, err := replica.Changes(t.Context(), src, "g", journal.Objects, replica.Volume{}, replica.Volume{}); set != nil || err != nil {
		t.Errorf("the objects: %v, %v", set, err)
	}
}

// short is a journal that ends before what replicas hold.
type short struct {
	*replicatest.Memory
	last uint64
	err  error
}

func (s short) Last(context.Context, journal.StreamID) (uint64, error) { return s.last, s.err }

// [I] What is missing, damaged or of another history makes the changes unknown, never fewer; what can't be asked is an error.
func TestChangesUnknown(t *testing.T) {
	t.Parallel()
	seed := pickSeed(t)
	h, src, _ := eventful(t, seed)
	at := visited(t, h, src)
	from, to := at[1], at[6] // over two generations
	unknown := func(what string, src replica.Source, from, to replica.Volume) {
		t.Helper()
		if set, err := replica.Changes(t.Context(), src, "g", "v", from, to); set != nil || err != nil {
			t.Errorf("%s: %v, %v", what, set != nil, err)
		}
	}
	if set, err := replica.Changes(t.Context(), src, "g", "v", from, to); set == nil || err != nil {
		t.Fatal(err)
	}
	steps := 0
	for generation := from.Generation; generation <= to.Generation; generation++ {
		id := journal.StreamID{Group: "g", Part: "v", Generation: generation}
		last, err := src.Last(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		for seq := uint64(1); seq <= last; seq++ {
			path := generation == from.Generation && seq >= from.Seq || generation > from.Generation && generation < to.Generation || generation == to.Generation && seq <= to.Seq
			for name, change := range map[string]func([]byte) []byte{
				"missing": func([]byte) []byte { return nil },
				"altered": func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
			} {
				undo := src.Alter(id, seq, change)
				set, err := replica.Changes(t.Context(), src, "g", "v", from, to)
				if err != nil || path && generation == to.Generation && set != nil {
					t.Errorf("message %d of generation %d is %s: %v, %v", seq, generation, name, set != nil, err)
				}
				if set == nil {
					steps++
				}
				undo()
			}
		}
	}
	if steps < 10 {
		t.Errorf("only %d faults are on the way", steps)
	}
	if set, err := replica.Changes(t.Context(), short{src, 0, nil}, "g", "v", to, to); err != nil || set == nil || set.Len() > 0 {
		t.Errorf("between a mark and itself: %v", err)
	}
	unknown("the journal ends before", short{src, to.Seq - 1, nil}, from, to)
	if _, err := replica.Changes(t.Context(), short{src, 0, errors.New("no answer")}, "g", "v", from, to); err == nil {
		t.Error("an error of the source makes no difference")
	}
	unknown("back", src, to, from)
	for name, change := range map[string]func(*replica.Volume){
		"time": func(v *replica.Volume) { v.Time = v.Time.Add(1) }, "epoch": func(v *replica.Volume) { v.Epoch++ },
		"barrier": func(v *replica.Volume) { v.Barrier++ }, "no barrier": func(v *replica.Volume) { v.Barrier = 0 },
		"identity": func(v *replica.Volume) { v.UID = "other" }, "sequence": func(v *replica.Volume) { v.Seq-- },
		"size": func(v *replica.Volume) { v.Size -= 512 },
	} {
		other := from
		if change(&other); other.Size == from.Size { // a smaller volume grew: all that it has more is told of
			unknown("another history's "+name+" at the beginning", src, other, to)
		}
		other = to
		change(&other)
		unknown("another history's "+name+" at the end", src, from, other)
	}
}

// [I] A journal proves what was held at a mark only where it has that very mark, whatever part it is of; where it begins anew nothing is to be proven.
func TestProves(t *testing.T) {
	t.Parallel()
	h, src, _ := eventful(t, pickSeed(t))
	at := visited(t, h, src)
	proven, anew := 0, 0
	for i := range at {
		for j := i; j < len(at); j++ {
			to := events.Position{Generation: at[j].Generation, Seq: at[j].Seq}
			ok, err := replica.Proves(t.Context(), src, "g", "v", at[i], to)
			if errors.Is(err, replica.ErrBranched) {
				continue
			}
			if err != nil || !ok {
				t.Fatalf("from commit %d to %d: %v, %v", i+1, j+1, ok, err)
			}
			for name, change := range map[string]func(*replica.Volume){
				"time": func(v *replica.Volume) { v.Time = v.Time.Add(1) }, "epoch": func(v *replica.Volume) { v.Epoch++ },
				"barrier": func(v *replica.Volume) { v.Barrier++ }, "no barrier": func(v *replica.Volume) { v.Barrier = 0 },
				"sequence": func(v *replica.Volume) { v.Seq-- },
			} {
				other := at[i]
				change(&other)
				ok, err := replica.Proves(t.Context(), src, "g", "v", other, to)
				_, begins, _ := replica.Path(other, to, func(generation uint32) (*events.Epoch, error) {
					return replica.ReadOpening(t.Context(), src, journal.StreamID{Group: "g", Part: "v", Generation: generation})
				})
				if err != nil || ok != begins {
					t.Errorf("from commit %d of another history's %s to %d, which begins anew: %v; %v, %v", i+1, name, j+1, begins, ok, err)
				}
				if begins {
					anew++
				} else {
					proven++
				}
			}
		}
	}
	if proven < 20 || anew < 20 {
		t.Errorf("only %d and %d pairs were looked at", proven, anew)
	}
	if ok, err := replica.Proves(t.Context(), short{src, 0, nil}, "g", "v", at[0], events.Position{Generation: at[0].Generation, Seq: at[0].Seq + 1}); ok || err != nil {
		t.Errorf("the journal ends before: %v, %v", ok, err)
	}
	if _, err := replica.Proves(t.Context(), short{src, 0, errors.New("no answer")}, "g", "v", at[0], events.Position{Generation: at[0].Generation, Seq: at[0].Seq + 1}); err == nil {
		t.Error("an error of the source makes no difference")
	}
	if ok, err := replica.Proves(t.Context(), src, "g", "v", replica.Volume{}, events.Position{Generation: 1, Seq: 1}); !ok || err != nil {
		t.Errorf("nothing is held: %v, %v", ok, err)
	}
}
