package replica_test

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"testing"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

var seedFlag = flag.Uint64("replica.seed", 0, "seed of random tests; 0 picks one")

func pickSeed(t testing.TB) uint64 {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed: -replica.seed=%d", seed)
	return seed
}

// journey is a history with everything a replica meets: volumes that join later, grow, leave, are opened by
// new writers.
func journey(t testing.TB, seed uint64) (*replicatest.History, *replicatest.Memory) {
	t.Helper()
	h, m := replicatest.MemoryHistory("g", seed)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	commit := func() { _, err := h.Commit(""); must(err) }
	open := func() { _, err := h.Sink(journal.Objects, h.Epoch(journal.Objects)); must(err) }
	must(h.Add("a", 64<<10, false))
	must(h.Add("b", 96<<10, false))
	must(h.Frame("a", 3))
	for _, v := range []string{"a", "b"} {
		must(h.Seed(v))
		h.Join(v)
	}
	commit()
	must(h.Frame("a", 8))
	must(h.Frame("b", 4))
	must(h.Hash("a", 0, 64<<10))
	open()
	must(h.Change(12))
	h.Join(journal.Objects)
	commit()
	must(h.Change(12))
	must(h.Resize("a", 80<<10))
	must(h.Frame("a", 8))
	must(h.Add("c", 32<<10, false))
	must(h.Seed("c"))
	h.Join("c")
	commit()
	_, err := h.Sink("b", h.Epoch("b")) // a new writer
	must(err)
	must(h.Frame("b", 5))
	must(h.Frame("c", 5))
	open()
	must(h.Change(12))
	h.Leave("a")
	commit()
	must(h.Frame("c", 5))
	must(h.Change(12))
	h.Leave(journal.Objects)
	commit()
	generations(t, h)
	return h, m
}

// generations lets histories be lost: of b twice, of c with nothing to go on from; a comes back where it left, and
// another volume takes the place of b.
func generations(t testing.TB, h *replicatest.History) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	commit := func() *events.Commit { c, err := h.Commit(""); must(err); return c }
	must(h.Frame("b", 5)) // is lost
	must(h.Renew("b", h.Commits[4]))
	must(h.Change(12))
	h.Join(journal.Objects)
	commit()
	must(h.Change(4)) // is lost
	must(h.RenewObjects(h.Commits[5]))
	must(h.Change(4))
	must(h.Frame("b", 5))
	on := commit()
	must(h.Frame("b", 5))
	must(h.Renew("b", on))
	must(h.Resize("b", 112<<10))
	must(h.Frame("b", 5))
	must(h.Renew("c", nil))
	must(h.RenewObjects(nil))
	must(h.Change(4))
	must(h.Frame("c", 5))
	must(h.Frame("a", 5)) // while it was no member
	must(h.Renew("a", h.Commits[2]))
	h.Join("a")
	commit()
	h.Leave("b")
	commit()
	must(h.Replace("b", 48<<10))
	must(h.Frame("b", 5))
	h.Join("b")
	commit()
	must(h.Frame("b", 5))
	commit()
}

const setDir = "/dr/g"

func openSet(m *replicatest.Machine) (*replica.Set, error) {
	return replica.Open(setDir, replica.Options{Group: "g", FS: m, OpenTarget: m.OpenTarget, Memory: 16 << 10, ObjectsSlack: 512})
}

// sameObjects fails unless the set has exactly the objects of the checkpoint's commit, and says which those are. They are there
// while the set is being advanced, too.
func sameObjects(t *testing.T, m *replicatest.Machine, h *replicatest.History, set *replica.Set) {
	t.Helper()
	cp := set.Checkpoint()
	want := h.ObjectsAt(cp.Commit.Barrier)
	if want == nil || m.Dead() {
		return
	}
	v := set.Objects()
	if c := h.Commits[cp.Commit.Barrier-1]; v == nil || v.Point() != replica.PointOf(replica.CommitOf(c)) || v.Revision() != c.Revision {
		t.Fatalf("the objects are of another commit than barrier %d\nsteps: %v", cp.Commit.Barrier, m.Last())
	}
	replicatest.SameObjects(t, v, want)
}

// same fails unless the machine holds every member of the checkpoint's commit byte for byte.
func same(t *testing.T, m *replicatest.Machine, h *replicatest.History, cp replica.Checkpoint) {
	t.Helper()
	for volume, want := range h.State(cp.Commit.Barrier) {
		got := m.Content(replica.VolumePath(setDir, volume))
		if len(got) < len(want) || !bytes.Equal(got[:len(want)], want) {
			t.Fatalf("volume %s differs at barrier %d\nsteps: %v", volume, cp.Commit.Barrier, m.Last())
		}
	}
}
