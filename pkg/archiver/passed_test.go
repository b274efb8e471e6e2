package archiver

import (
	"errors"
	"testing"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

// [I] No part of an archived point is gone on from with the journal of another life of the group, which counts from 1, too.
func TestEarlierLife(t *testing.T) {
	t.Parallel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	h, src := replicatest.MemoryHistory("g", 1)
	must(h.Add("v", 20*grid.Chunk, false))
	_, err := h.Sink(journal.Objects, h.Epoch(journal.Objects))
	must(err)
	must(h.ResendObjects(true))
	h.Join("v")
	h.Join(journal.Objects)
	next := func() *events.Commit {
		must(h.Frame("v", 2))
		must(h.Change(2))
		c, err := h.Commit("")
		must(err)
		return c
	}
	set, err := replica.Open(t.TempDir(), replica.Options{Group: "g"})
	must(err)
	defer set.Close()
	must(set.Advance(t.Context(), src, next()))
	r := &run{w: &worker{Archiver: standing(t), source: patient{src, patience}}}
	cp := set.Checkpoint()
	l := &lower{cp: cp, point: new(archive.Point)}
	later := next()
	must(r.proven(t.Context(), l, later))
	for _, part := range []string{"v", journal.Objects} {
		for name, change := range map[string]func(*replica.Volume){
			"time": func(v *replica.Volume) { v.Time = v.Time.Add(1) }, "epoch": func(v *replica.Volume) { v.Epoch++ }, "barrier": func(v *replica.Volume) { v.Barrier++ },
		} {
			other := cp.Clone()
			v := other.Volumes[part]
			change(&v)
			other.Volumes[part] = v
			l.cp = other
			if err := r.proven(t.Context(), l, later); !errors.Is(err, replica.ErrForeign) || !gone(err) {
				t.Errorf("%s of another %s: %v", part, name, err)
			}
		}
	}
}
