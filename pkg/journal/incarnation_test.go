package journal_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/journaltest"
)

// mirrored is a stream that is written and mirrored.
type mirrored struct {
	*journaltest.Pair
	x    *tenure
	next int // number of the next event; it gets sequence next+2
}

func newMirrored(t *testing.T) *mirrored {
	t.Helper()
	m := &mirrored{Pair: journaltest.Sites(t)}
	ensure(t, m.Primary, journal.StreamOptions{})
	if err := m.DR.EnsureMirror(t.Context(), id, 1, 1); err != nil {
		t.Fatal(err)
	}
	m.x = start(t, m.Primary, "a")
	return m
}

// write appends n numbers and returns the sequence of the last.
func (m *mirrored) write(t *testing.T, n int) uint64 {
	t.Helper()
	appendAll(t, m.x, m.next, m.next+n)
	m.next += n
	last := uint64(m.next) + 1
	wait(t, m.x, last)
	return last
}

// reached waits until the newest incarnation ends at seq.
func (m *mirrored) reached(t *testing.T, seq uint64) {
	t.Helper()
	eventually(t, "the mirror reaches the end", func() bool { return end(t, m.DR) == seq })
}

// acknowledged waits until the primary knows that the DR site has everything up to seq.
func (m *mirrored) acknowledged(t *testing.T, seq uint64) {
	t.Helper()
	eventually(t, "the DR site acknowledges", func() bool { return journal.Fed(t.Context(), m.Primary, id) >= seq })
}

// copyDR copies the DR site's store as a server leaves it that is shut down.
func (m *mirrored) copyDR(t *testing.T) journaltest.Copy {
	t.Helper()
	m.StopDR()
	c := m.CopyDR()
	m.StartDR()
	m.WaitLinked()
	return c
}

// rollBackDR gives the DR site an older store, as a power cut does.
func (m *mirrored) rollBackDR(t *testing.T, c journaltest.Copy) {
	t.Helper()
	m.StopDR()
	m.RestoreDR(c)
	m.StartDR()
	m.WaitLinked()
}

// lost deletes the mirror and has it made again, as a DR site whose store is gone does: it asks until the server, which may still be at
// the removal, does so.
func (m *mirrored) lost(t *testing.T) {
	t.Helper()
	if err := m.DR.DeleteMirror(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the mirror is made again", func() bool {
		err := m.DR.EnsureMirror(t.Context(), id, 1, 1)
		if err != nil {
			t.Log(err)
		}
		return err == nil
	})
}

// repair makes incarnation n from the first hole on.
func (m *mirrored) repair(t *testing.T, n int) {
	t.Helper()
	found := holes(t, m.DR)
	if len(found) == 0 {
		t.Fatal("no hole is found")
	}
	for range 2 {
		if err := m.Primary.EnsureIncarnation(t.Context(), id, n, found[0].From); err != nil {
			t.Fatal(err)
		}
		if err := m.DR.EnsureMirror(t.Context(), id, n, found[0].From); err != nil {
			t.Fatal(err)
		}
	}
}

// whole fails where the mirror lacks or repeats anything.
func (m *mirrored) whole(t *testing.T) {
	t.Helper()
	m.reached(t, uint64(m.next)+1)
	if found := holes(t, m.DR); len(found) > 0 {
		t.Errorf("holes: %v", found)
	}
	r, err := m.DR.OpenMirror(t.Context(), id, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got := readFrom(t, r, uint64(m.next)+1); !slices.Equal(got, count(m.next)) {
		t.Errorf("%d numbers are read, not 0 to %d in order", len(got), m.next-1)
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

// A DR site that lost its last seconds goes on behind what it had acknowledged and never asks for what is
// between. The next incarnation of the mirror brings it, and is read as if nothing had been; also the second time.
func TestHoleOfAMirrorIsRepaired(t *testing.T) {
	t.Parallel()
	m := newMirrored(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	some := func() int { return 1 + r.IntN(300) }
	for n := 2; n <= 3; n++ {
		from := m.write(t, some())
		m.reached(t, from)
		before := m.copyDR(t)
		to := m.write(t, some())
		m.reached(t, to)
		m.acknowledged(t, to)
		m.rollBackDR(t, before)
		m.reached(t, m.write(t, some()))
		if got := holes(t, m.DR); !slices.Equal(got, []journal.Hole{{From: from + 1, To: to}}) {
			t.Fatalf("holes %v, not %d to %d", got, from+1, to)
		}
		old, err := m.DR.Tail(t.Context(), id.Mirror(n-1))
		if err != nil {
			t.Fatal(err)
		}
		m.repair(t, n)
		m.whole(t)
		m.write(t, some())
		m.whole(t)
		if now, err := m.DR.Tail(t.Context(), id.Mirror(n-1)); err != nil || now.Last != old.Last {
			t.Errorf("the old incarnation is fed, too: %+v, %v", old, err)
		}
	}
	trimmed(t, m)
}

// trimmed trims the mirror of m, which has three incarnations, step by step.
func trimmed(t *testing.T, m *mirrored) {
	t.Helper()
	all, err := m.DR.Mirror(t.Context(), id)
	if err != nil || len(all.Incarnations) != 3 {
		t.Fatalf("incarnations: %v, %v", all, err)
	}
	second, third := all.Incarnations[1].From, all.Incarnations[2].From
	for _, step := range []struct {
		before uint64
		left   int
	}{{second - 1, 3}, {second, 2}, {third - 1, 2}, {third + 1, 1}, {1 << 40, 1}} {
		if err := m.DR.TrimMirror(t.Context(), id, step.before); err != nil {
			t.Fatal(err)
		}
		if err := m.DR.EnsureMirror(t.Context(), id, 1, 1); err != nil {
			t.Fatal(err)
		}
		now, err := m.DR.Mirror(t.Context(), id)
		if err != nil || len(now.Incarnations) != step.left {
			t.Fatalf("trimmed to %d, %d incarnations are left: %v", step.before, len(now.Incarnations), err)
		}
		first := min(step.before, uint64(m.next)+1)
		if found, err := m.DR.Holes(t.Context(), now, first); err != nil || len(found) > 0 {
			t.Errorf("trimmed to %d, holes are found: %v, %v", step.before, found, err)
		}
		r, err := m.DR.OpenMirror(t.Context(), id, first)
		if err != nil {
			t.Fatalf("trimmed to %d: %v", step.before, err)
		}
		got := readFrom(t, r, uint64(m.next)+1)
		r.Close()
		if want := count(m.next)[first-2:]; !slices.Equal(got, want) {
			t.Errorf("trimmed to %d, %d numbers are read, not %d", step.before, len(got), len(want))
		}
	}
	var gap *journal.GapError
	if _, err := m.DR.OpenMirror(t.Context(), id, 1); !errors.As(err, &gap) || gap.Want != 1 {
		t.Errorf("what was trimmed is read: %v", err)
	}
	if err := m.DR.DeleteMirror(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := m.DR.Mirror(t.Context(), id); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("after its deletion: %v", err)
	}
}

// A DR site whose whole store is gone gets a mirror without a beginning. It is found, and repaired while the
// origin has the beginning.
func TestMissingBeginningIsRepaired(t *testing.T) {
	t.Parallel()
	m := newMirrored(t)
	last := m.write(t, 100)
	m.reached(t, last)
	m.acknowledged(t, last)
	m.lost(t)
	m.reached(t, m.write(t, 50))
	if got := holes(t, m.DR); !slices.Equal(got, []journal.Hole{{From: 1, To: last}}) {
		t.Fatalf("holes %v, not 1 to %d", got, last)
	}
	m.repair(t, 2)
	m.whole(t)
	// The store goes again, and with it the DR site's knowledge of the second incarnation.
	m.acknowledged(t, last)
	m.lost(t)
	m.reached(t, m.write(t, 50))
	m.repair(t, 3)
	m.whole(t)
	// What the origin has no more can't be repaired.
	if err := m.Primary.Purge(t.Context(), id.Name(), 20); err != nil {
		t.Fatal(err)
	}
	var gap *journal.GapError
	if err := m.Primary.EnsureIncarnation(t.Context(), id, 4, 19); !errors.As(err, &gap) || gap.Got != 20 {
		t.Errorf("an incarnation of what was trimmed: %v", err)
	}
	var refused *journal.ConfigError
	for n, from := range map[int]uint64{2: 1, 3: 7, 5: 30} {
		if err := m.Primary.EnsureIncarnation(t.Context(), id, n, from); !errors.As(err, &refused) {
			t.Errorf("incarnation %d from %d: %v", n, from, err)
		}
	}
	m.whole(t)
}

// The mirror of a generation that was left stays away, although its origin is still there.
func TestGenerationThatWasLeftIsNotMirroredAgain(t *testing.T) {
	t.Parallel()
	m := newMirrored(t)
	m.reached(t, m.write(t, 10))
	next := id
	next.Generation = 2
	if err := m.Primary.EnsureStream(t.Context(), next, journal.StreamOptions{}); err != nil {
		t.Fatal(err)
	}
	both := func() {
		t.Helper()
		for _, id := range []journal.StreamID{id, next} {
			if err := m.DR.EnsureMirror(t.Context(), id, 1, 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	both()
	if got := end(t, m.DR); got != 11 {
		t.Errorf("the older generation's mirror ends at %d", got)
	}
	if err := m.DR.DeleteMirror(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	both()
	if _, err := m.DR.Mirror(t.Context(), id); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("the older generation's mirror: %v", err)
	}
	if _, err := m.DR.Mirror(t.Context(), next); err != nil {
		t.Error(err)
	}
}

// A paused mirror gets nothing, also when either site restarts, and the origin keeps everything for it.
func TestPausedMirrorGoesOn(t *testing.T) {
	t.Parallel()
	m := newMirrored(t)
	last := m.write(t, 100)
	m.reached(t, last)
	m.acknowledged(t, last)
	if err := m.Primary.PauseMirror(t.Context(), id, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	m.write(t, 100)
	m.StopDR()
	m.StartDR()
	m.WaitLinked()
	m.StopPrimary()
	m.StartPrimary()
	m.WaitLinked()
	written := m.write(t, 100)
	// Capturers that start meanwhile take the pause for what it is.
	ensure(t, m.Primary, journal.StreamOptions{})
	if err := m.x.TrimTo(t.Context(), written); err != nil {
		t.Fatal(err)
	}
	if tail, err := m.Primary.Tail(t.Context(), id.Name()); err != nil || tail.First > last+1 {
		t.Errorf("the origin was trimmed to %d, the mirror has %d: %v", tail.First, last, err)
	}
	eventually(t, "the mirror is connected", func() bool {
		stream, err := m.DR.JetStream().Stream(t.Context(), id.Mirror(1))
		return err == nil && stream.CachedInfo().Mirror.Active >= 0 && stream.CachedInfo().Mirror.Active < 3*time.Second
	})
	if got := end(t, m.DR); got != last {
		t.Errorf("paused at %d, the mirror reaches %d", last, got)
	}
	if err := m.Primary.PauseMirror(t.Context(), id, time.Time{}); err != nil {
		t.Fatal(err)
	}
	m.whole(t)
}

// A reader that waits where its incarnation ends goes on in the next one.
func TestReaderMovesToTheNextIncarnation(t *testing.T) {
	t.Parallel()
	m := newMirrored(t)
	last := m.write(t, 10)
	m.reached(t, last)
	r, err := m.DR.OpenMirror(t.Context(), id, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got := readFrom(t, r, last); len(got) != 10 {
		t.Fatalf("%d numbers are read", len(got))
	}
	if err := m.Primary.PauseMirror(t.Context(), id, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	m.write(t, 10)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	got := make(chan int, 10)
	go func() {
		defer close(got)
		for range 10 {
			message, err := r.Next(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			got <- int(message.Event.(*events.PassDone).Regions)
		}
	}()
	if err := m.Primary.EnsureIncarnation(t.Context(), id, 2, last+1); err != nil {
		t.Fatal(err)
	}
	if err := m.DR.EnsureMirror(t.Context(), id, 2, last+1); err != nil {
		t.Fatal(err)
	}
	n := 10
	for is := range got {
		if is != n {
			t.Errorf("number %d came for %d", is, n)
		}
		n++
	}
}
