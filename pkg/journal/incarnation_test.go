package journal_test

import (
	"slices"
	"testing"

	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/journaltest"
)

// A DR site that lost its last seconds goes on behind what it had acknowledged and never asks for what is
// between. The next incarnation of the mirror brings it, and is read as if nothing had been.
func TestHoleOfAMirrorIsRepaired(t *testing.T) {
	t.Parallel()
	p := journaltest.Sites(t)
	ensure(t, p.Primary, journal.StreamOptions{})
	if err := p.DR.EnsureMirror(t.Context(), id, 1, 1); err != nil {
		t.Fatal(err)
	}
	x := start(t, p.Primary, "a")
	appendAll(t, x, 0, 100)
	eventually(t, "the mirror has it", func() bool { return end(t, p.DR) == 101 })
	p.StopDR()
	before := p.CopyDR()
	p.StartDR()
	p.WaitLinked()
	appendAll(t, x, 100, 200)
	eventually(t, "the DR site acknowledges", func() bool {
		return end(t, p.DR) == 201 && journal.Fed(t.Context(), p.Primary, id) == 201
	})
	p.StopDR()
	p.RestoreDR(before)
	p.StartDR()
	p.WaitLinked()
	appendAll(t, x, 200, 300)
	eventually(t, "the mirror goes on", func() bool { return end(t, p.DR) == 301 })
	if got := holes(t, p.DR); !slices.Equal(got, []journal.Hole{{From: 102, To: 201}}) {
		t.Fatalf("holes: %v", got)
	}
	for range 2 {
		if err := p.Primary.EnsureIncarnation(t.Context(), id, 2, 102); err != nil {
			t.Fatal(err)
		}
		if err := p.DR.EnsureMirror(t.Context(), id, 2, 102); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the new incarnation catches up", func() bool { return end(t, p.DR) == 301 })
	if got := holes(t, p.DR); len(got) > 0 {
		t.Errorf("holes after the repair: %v", got)
	}
	appendAll(t, x, 300, 400)
	eventually(t, "the new incarnation goes on", func() bool { return end(t, p.DR) == 401 })
	if old, err := p.DR.Tail(t.Context(), id.Mirror(1)); err != nil || old.Last != 301 {
		t.Errorf("the old incarnation is fed, too: %+v, %v", old, err)
	}
	r, err := p.DR.OpenMirror(t.Context(), id, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got := readFrom(t, r, 401); !slices.Equal(got, count(400)) {
		t.Errorf("%d numbers are read, not 0 to 399 in order", len(got))
	}
}

// end returns the last sequence of the newest incarnation of the mirror.
func end(t *testing.T, s *journal.Site) uint64 {
	t.Helper()
	m, err := s.Mirror(t.Context(), id)
	if err != nil {
		return 0
	}
	return m.End()
}

func holes(t *testing.T, s *journal.Site) []journal.Hole {
	t.Helper()
	m, err := s.Mirror(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.Holes(t.Context(), m, 1)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
