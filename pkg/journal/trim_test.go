package journal

import (
	"testing"
	"time"
)

// Whatever the rhythm of the looks, nothing younger than the margin is called older than it.
func TestHistoryKeepsTheMargin(t *testing.T) {
	start := time.Now()
	h := history{margin: time.Minute}
	stored := map[time.Time]uint64{}
	trimmed := uint64(0)
	now := start
	for n := range uint64(500) {
		now = now.Add(time.Duration(n%7+1) * 3 * time.Second)
		seq := n * 10
		stored[now] = seq
		got := h.older(now, seq)
		limit := uint64(0) // the newest sequence that was there a margin ago
		for at, seq := range stored {
			if now.Sub(at) >= h.margin {
				limit = max(limit, seq)
			}
		}
		if got != limit {
			t.Fatalf("after %v: %d is called old, want %d", now.Sub(start), got, limit)
		}
		if got < trimmed {
			t.Fatalf("went back from %d to %d", trimmed, got)
		}
		trimmed = got
	}
	if trimmed == 0 || len(h.samples) > 30 {
		t.Errorf("trimmed to %d, %d samples kept", trimmed, len(h.samples))
	}
}
