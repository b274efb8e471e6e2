package journal_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/journaltest"
)

// rolledBack is a primary whose store was replaced by a copy taken before its last messages, which the DR
// site has.
type rolledBack struct {
	*journaltest.Pair
	x       *tenure
	kept    uint64 // last sequence in the copy
	last    uint64 // last sequence that was acknowledged, and is at the DR site
	created time.Time
}

// rollBack does so with the writer alive; what was not in the copy is of a random length.
func rollBack(t *testing.T) *rolledBack {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	b := &rolledBack{Pair: journaltest.Sites(t)}
	ensure(t, b.Primary, journal.StreamOptions{})
	if err := b.DR.EnsureMirror(t.Context(), id, 1, 1); err != nil {
		t.Fatal(err)
	}
	b.x = start(t, b.Primary, "a")
	kept, lost := 1+r.IntN(500), 1+r.IntN(500)
	appendAll(t, b.x, 0, kept)
	b.kept = uint64(kept) + 1
	wait(t, b.x, b.kept)
	b.StopPrimary()
	before := b.CopyPrimary()
	b.StartPrimary()
	appendAll(t, b.x, kept, kept+lost)
	b.last = b.kept + uint64(lost)
	wait(t, b.x, b.last)
	eventually(t, "the DR site has it all", func() bool { return end(t, b.DR) == b.last })
	b.created = b.x.Created()
	b.StopPrimary()
	b.RestorePrimary(before)
	b.StartPrimary()
	eventually(t, "the primary is back", func() bool {
		_, err := b.Primary.Tail(t.Context(), id.Name())
		return err == nil
	})
	return b
}

// mirrored answers as the DR site's applier does.
func (b *rolledBack) mirrored(ctx context.Context, generation uint32) (uint64, error) {
	m, err := b.DR.Mirror(ctx, journal.StreamID{Group: id.Group, Part: id.Part, Generation: generation})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return 0, nil
	}
	return m.Last(), err
}

// unchanged fails where something was appended to what the rolled back primary has.
func (b *rolledBack) unchanged(t *testing.T) {
	t.Helper()
	tail, err := b.Primary.Tail(t.Context(), id.Name())
	if err != nil || tail.Last != b.kept {
		t.Errorf("the stream ends at %d, not %d: %v", tail.Last, b.kept, err)
	}
}

func lost(t *testing.T, x *tenure) { t.Helper(); ends(t, x, journal.ErrHistoryLost) }

// ends waits until the writer ends for good, with the error.
func ends(t *testing.T, x *tenure, with error) {
	t.Helper()
	select {
	case err := <-x.done:
		if !errors.Is(err, with) {
			t.Errorf("Run ended with %v", err)
		}
	case <-time.After(60 * time.Second):
		t.Fatalf("the writer goes on, and should end with %v", with)
	}
}

// A primary that lost power comes back without its last seconds: the writer that lives notices, and appends nothing.
func TestRollbackIsNoticedByTheWriter(t *testing.T) {
	t.Parallel()
	b := rollBack(t)
	lost(t, b.x)
	b.unchanged(t)
}

// A new writer notices a rollback by what is durably known, and by what the DR site has, before it appends anything.
func TestRollbackIsNoticedAtTakeover(t *testing.T) {
	t.Parallel()
	b := rollBack(t)
	lost(t, b.x)
	for name, know := range map[string]func(*journal.WriterOptions){
		"acknowledged": func(o *journal.WriterOptions) { o.Acked, o.Created = b.last, b.created },
		"mirrored":     func(o *journal.WriterOptions) { o.Mirrored = b.mirrored },
	} {
		if _, err := open(t, b.Primary, id, know); !errors.Is(err, journal.ErrHistoryLost) {
			t.Errorf("%s: %v", name, err)
		}
		b.unchanged(t)
	}
	// In the next generation it goes on, beyond what anybody has.
	n, err := b.Primary.Renew(t.Context(), id.Group, id.Part, id.Generation, 5)
	if err != nil || n != 5 {
		t.Fatalf("renewed to %d: %v", n, err)
	}
	next := id
	next.Generation = n
	if err := b.Primary.EnsureStream(t.Context(), next, journal.StreamOptions{UID: "uid"}); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, b.Primary, next, func(o *journal.WriterOptions) { o.Mirrored = b.mirrored }); err != nil {
		t.Fatal(err)
	}
}

// While the DR site is away nobody can tell, and the writer starts; once it is back, the loss is noticed.
func TestRollbackIsNoticedWhenTheMirrorAnswers(t *testing.T) {
	t.Parallel()
	b := rollBack(t)
	lost(t, b.x)
	var away atomic.Bool
	away.Store(true)
	x := start(t, b.Primary, "b", func(o *journal.WriterOptions) {
		o.Mirrored = func(ctx context.Context, generation uint32) (uint64, error) {
			if away.Load() {
				return 0, errors.New("the DR site is away")
			}
			return b.mirrored(ctx, generation)
		}
	})
	if _, err := x.Append(t.Context(), numbered(0)); err != nil {
		t.Fatal(err)
	}
	away.Store(false)
	if uint64(2)+b.kept >= b.last { // it appended as much as was lost: the DR site finds it by the epochs
		return
	}
	lost(t, x)
}

// What is known and true is no loss, whoever just began to lead.
func TestWhatIsKnownIsFound(t *testing.T) {
	t.Parallel()
	p := journaltest.Sites(t)
	ensure(t, p.Primary, journal.StreamOptions{})
	x := start(t, p.Primary, "a")
	appendAll(t, x, 0, 100)
	wait(t, x, 101)
	if x.PreviousEpoch() != 0 {
		t.Errorf("epoch %d before the first", x.PreviousEpoch())
	}
	known := x.Created()
	p.StopPrimary()
	p.StartPrimary()
	y := start(t, p.Primary, "b", func(o *journal.WriterOptions) {
		o.Acked, o.Created = 101, known
		o.Mirrored = func(_ context.Context, generation uint32) (uint64, error) {
			if generation > 1 {
				return 0, nil
			}
			return 101, nil
		}
	})
	if y.PreviousEpoch() != x.Epoch() || !y.Created().Equal(known) {
		t.Errorf("epoch %d before, made %v", y.PreviousEpoch(), y.Created())
	}
	appendAll(t, y, 100, 200)
	wait(t, y, y.Previous()+101)
}

// A stream that an operator deletes, and one that is purged to nothing, have lost history: nobody has to act.
func TestDeletedStreamIsHistoryLost(t *testing.T) {
	t.Parallel()
	for name, wreck := range map[string]func(t *testing.T, s *journal.Site) error{
		"deleted": func(t *testing.T, s *journal.Site) error { return s.JetStream().DeleteStream(t.Context(), id.Name()) },
		"purged": func(t *testing.T, s *journal.Site) error {
			stream, err := s.JetStream().Stream(t.Context(), id.Name())
			if err != nil {
				return err
			}
			return stream.Purge(t.Context())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := journaltest.One(t)
			ensure(t, s, journal.StreamOptions{})
			x := start(t, s, "a")
			appendAll(t, x, 0, 10)
			wait(t, x, 11)
			if err := wreck(t, s); err != nil {
				t.Fatal(err)
			}
			if name == "deleted" {
				if _, err := x.Append(t.Context(), numbered(10)); err != nil {
					t.Fatal(err)
				}
				lost(t, x)
			}
			know := func(o *journal.WriterOptions) { o.Acked, o.Created = 11, x.Created() }
			if _, err := open(t, s, id, know); !errors.Is(err, journal.ErrHistoryLost) {
				t.Errorf("takeover: %v", err)
			}
			if name == "deleted" {
				ensure(t, s, journal.StreamOptions{})
				if _, err := open(t, s, id, know); !errors.Is(err, journal.ErrHistoryLost) {
					t.Errorf("takeover of a stream that was made again: %v", err)
				}
			}
		})
	}
}

// Whatever the KV says, no generation that was left comes back, and everybody who renews gets the same one.
func TestGenerationsOnlyGrow(t *testing.T) {
	t.Parallel()
	s := journaltest.One(t)
	ensure(t, s, journal.StreamOptions{})
	got := make(chan uint32, 8)
	for range cap(got) {
		go func() {
			n, err := s.Renew(context.Background(), id.Group, id.Part, 1, 0)
			if err != nil {
				t.Error(err)
			}
			got <- n
		}()
	}
	for range cap(got) {
		if n := <-got; n != 2 {
			t.Errorf("renewed to %d", n)
		}
	}
	next := id
	next.Generation = 2
	if err := s.EnsureStream(t.Context(), next, journal.StreamOptions{}); err != nil {
		t.Fatal(err)
	}
	kv, err := s.KV(t.Context(), journal.GenerationBucket, 0)
	if err != nil {
		t.Fatal(err)
	}
	is := func(want uint32) {
		t.Helper()
		if n, err := s.Generation(t.Context(), id.Group, id.Part); err != nil || n != want {
			t.Errorf("generation %d, not %d: %v", n, want, err)
		}
	}
	is(2)
	if _, err := kv.PutString(t.Context(), id.Group+"."+id.Part, "1"); err != nil {
		t.Fatal(err)
	}
	is(2)
	if err := s.JetStream().DeleteKeyValue(t.Context(), journal.GenerationBucket); err != nil {
		t.Fatal(err)
	}
	is(2)
	if _, err := kv.PutString(t.Context(), id.Group+"."+id.Part, "1"); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Renew(t.Context(), id.Group, id.Part, 1, 0); err != nil || n != 3 {
		t.Errorf("renewed to %d: %v", n, err)
	}
}

// A generation has no writer any more once the next one has, is kept as long as the DR site needs it, and goes then.
func TestOldGenerationIsFencedAndDeleted(t *testing.T) {
	t.Parallel()
	s := journaltest.One(t)
	ensure(t, s, journal.StreamOptions{})
	x := start(t, s, "a")
	appendAll(t, x, 0, 10)
	wait(t, x, 11)
	next := id
	next.Generation = 2
	if err := s.EnsureStream(t.Context(), next, journal.StreamOptions{}); err != nil {
		t.Fatal(err)
	}
	there := map[uint32]uint64{1: 11}
	y, err := open(t, s, next, func(o *journal.WriterOptions) {
		o.Mirrored = func(_ context.Context, generation uint32) (uint64, error) { return there[generation], nil }
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Append(t.Context(), numbered(10)); err != nil {
		t.Fatal(err)
	}
	ends(t, x, journal.ErrFenced)
	if tail, err := s.Tail(t.Context(), id.Name()); err != nil || tail.Last != 11 {
		t.Errorf("the older generation ends at %d: %v", tail.Last, err)
	}
	if _, err := open(t, s, id); !errors.Is(err, journal.ErrFenced) {
		t.Errorf("a writer of the older generation: %v", err)
	}
	left := func(want ...string) {
		t.Helper()
		if err := y.DeleteOlder(t.Context()); err != nil {
			t.Fatal(err)
		}
		streams, err := s.Streams(t.Context(), id.Group)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, s := range streams {
			names = append(names, s.Name)
		}
		if !slices.Equal(names, want) {
			t.Errorf("with %v at the DR site, %v are here", there, names)
		}
	}
	left(id.Name(), next.Name())
	there[2] = 1
	left(id.Name(), next.Name())
	delete(there, 1)
	delete(there, 2)
	left(id.Name(), next.Name())
	there[2] = 1
	left(next.Name())
}
