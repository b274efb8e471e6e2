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
		h.note(now, seq)
		got := uint64(0)
		for _, age := range []time.Duration{h.margin / 3, h.margin} {
			got = h.stored(now, age)
			limit := uint64(0) // the newest sequence that was there that long ago
			for at, seq := range stored {
				if now.Sub(at) >= age {
					limit = max(limit, seq)
				}
			}
			if got != limit {
				t.Fatalf("after %v: %d is called %v old, want %d", now.Sub(start), got, age, limit)
			}
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
