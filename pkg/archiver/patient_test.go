package archiver

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

// cut is a journal that was cut short after it was asked how far it goes.
type cut struct {
	*replicatest.Memory
	behind uint64 // nothing comes behind it
}

func (c cut) Open(ctx context.Context, id journal.StreamID, from uint64) (replica.Reader, error) {
	r, err := c.Memory.Open(ctx, id, from)
	return &cutReader{r, c, from}, err
}

type cutReader struct {
	replica.Reader
	cut  cut
	next uint64
}

func (r *cutReader) Next(ctx context.Context) (journal.Message, error) {
	if r.next > r.cut.behind {
		<-ctx.Done()
		return journal.Message{}, ctx.Err()
	}
	r.next++
	return r.Reader.Next(ctx)
}

// A journal that is cut short under its reader can't tell what changed; it isn't waited for, and it is no failure.
func TestStalledJournal(t *testing.T) {
	t.Parallel()
	h, src := replicatest.MemoryHistory("g", 1)
	if err := h.Add("v", 20*grid.Chunk, false); err != nil {
		t.Fatal(err)
	}
	h.Join("v")
	set, err := replica.Open(t.TempDir(), replica.Options{Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	var at []replica.Volume
	var last *events.Commit
	for range 2 {
		for range 3 {
			if err := h.Frame("v", 2); err != nil {
				t.Fatal(err)
			}
		}
		if last, err = h.Commit(""); err != nil {
			t.Fatal(err)
		}
		if err := set.Advance(t.Context(), src, last); err != nil {
			t.Fatal(err)
		}
		at = append(at, set.Checkpoint().Volumes["v"])
	}
	worker := func(behind uint64, limit time.Duration) *worker {
		return &worker{Archiver: standing(t), source: patient{cut{Memory: src, behind: behind}, limit}, ahead: make(map[string]*ahead)}
	}
	for behind := at[0].Seq - 1; behind <= at[1].Seq; behind++ {
		limit := time.Millisecond
		if behind == at[1].Seq {
			limit = time.Hour
		}
		changed, err := worker(behind, limit).changes(t.Context(), 1, "v", at[0], at[1])
		if err != nil || (changed != nil) != (behind == at[1].Seq) {
			t.Errorf("nothing comes behind %d: %v, %v", behind, changed != nil, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := worker(0, time.Hour).changes(ended, 1, "v", at[0], at[1]); !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
}

// What a reader does between two events doesn't count as the journal's silence.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	h, src := replicatest.MemoryHistory("g", 1)
	if err := h.Add("v", grid.Chunk, false); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := h.Frame("v", 2); err != nil {
			t.Fatal(err)
		}
	}
	const limit = 50 * time.Millisecond
	r, err := patient{src, limit}.Open(t.Context(), h.ID("v"), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 3 {
		<-time.After(2 * limit) // the lower image takes long
		if _, err := r.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
