package replay

import (
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/events"
)

// [I] An archived point that the journal's barriers and times contradict is of another history. That they don't contradict it proves nothing:
// TestLivesAreToldApart.
func TestContradictedHistories(t *testing.T) {
	t.Parallel()
	at := func(second int) time.Time { return time.Unix(int64(second), 0).UTC() }
	h := &history{}
	for _, barrier := range []uint64{5, 6, 9} {
		h.commits = append(h.commits, &events.Commit{Token: events.Token{Barrier: barrier}, Time: at(100 + int(barrier))})
	}
	for _, c := range []struct {
		barrier   uint64
		second    int
		continues bool
	}{
		{5, 105, true}, {6, 106, true}, {9, 109, true}, // the journal has them
		{5, 104, false}, {6, 6, false}, {9, 110, false}, // another one was given their number
		{4, 104, true}, {1, 1, true}, // before the journal begins: possible
		{4, 105, false}, {4, 200, false},
		{7, 107, true}, {8, 108, true}, // the journal misses them
		{7, 106, false}, {7, 109, false}, {7, 7, false},
		{10, 110, true}, {10, 109, false}, {500, 50, false}, // behind its end
	} {
		a := &archived{point: archive.Point{Barrier: c.barrier, Time: at(c.second)}}
		if got := h.continues(a); got != c.continues {
			t.Errorf("barrier %d of second %d: %v", c.barrier, c.second, got)
		}
	}
	if h := (&history{}); !h.continues(&archived{point: archive.Point{Barrier: 3, Time: at(3)}}) {
		t.Error("without a journal")
	}
}
