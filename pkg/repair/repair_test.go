package repair

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal/journaltest"
)

// shore is both parties: it notes what it was asked, and answers what it was told to.
type shore struct {
	mu    sync.Mutex
	asked []any
	err   error // that everything answers; nil: what follows

	foundation Foundation
	hashes     [][32]byte
	scrub      Scrub
}

func (s *shore) note(args ...any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = args
	return s.err
}

func (s *shore) took() []any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func (s *shore) Found(_ context.Context, part, uid string) (Foundation, error) {
	return s.foundation, s.note("found", part, uid)
}

func (s *shore) Hashes(_ context.Context, volume string, base events.Base, off, length int64) ([][32]byte, error) {
	return s.hashes, s.note("hashes", volume, base, off, length)
}

func (s *shore) Stored(_ context.Context, part string, generation uint32) (uint64, error) {
	return 1<<63 + 7, s.note("stored", part, generation)
}

func (s *shore) Heal(_ context.Context, ranges []Range) error { return s.note("heal", ranges) }

func (s *shore) Incarnate(_ context.Context, generation uint32, n int, from uint64) error {
	return s.note("incarnate", generation, n, from)
}

func (s *shore) Pause(_ context.Context, generation uint32, until time.Time) error {
	return s.note("pause", generation, until)
}

func (s *shore) Renew(_ context.Context, generation uint32, reason string) error {
	return s.note("renew", generation, reason)
}

func (s *shore) Scrub(context.Context) (Scrub, error) { return s.scrub, s.note("scrub") }

func (s *shore) Scrubbed(_ context.Context, number uint64) (Scrub, error) {
	return s.scrub, s.note("scrubbed", number)
}

// Every verb crosses the leafnode with what it carries, and so does its answer, either way.
func TestAcrossTheLeafnode(t *testing.T) {
	p := journaltest.Sites(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	recovery := RecoveryOf(p.Primary.Conn(), "shop")
	capture := CaptureOf(p.DR.Conn(), "shop", "orders")
	if _, err := recovery.Stored(ctx, "orders", 1); !errors.Is(err, ErrUnavailable) {
		t.Errorf("nobody listens: %v", err)
	}
	if err := capture.Heal(ctx, nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("nobody listens: %v", err)
	}

	base := events.Base{Generation: 3, Seq: 1 << 40, Barrier: 17}
	s := &shore{
		foundation: Foundation{Base: &base, Size: 1 << 30, Newest: 4, Barrier: 18},
		scrub:      Scrub{Number: 2, Done: 1, Total: 9, Generation: 3, Seq: 8},
		hashes:     make([][32]byte, MaxHashes),
	}
	for i := range s.hashes {
		s.hashes[i][i%32] = byte(i) | 0x80
	}
	s.serve(t, p)
	await(t, ctx, func() error { _, err := recovery.Stored(ctx, "orders", 1); return err })
	await(t, ctx, func() error { _, err := capture.Scrub(ctx); return err })

	until := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	ranges := []Range{{0, 4096}, {1 << 40, 512}}
	for _, step := range []struct {
		ask  func() (any, error)
		want any   // the answer
		told []any // the question, as it arrived
	}{
		{func() (any, error) { return recovery.Found(ctx, "orders", "u1") }, s.foundation, []any{"found", "orders", "u1"}},
		{func() (any, error) { return recovery.Hashes(ctx, "orders", base, HashUnit, 1<<28) }, s.hashes, []any{"hashes", "orders", base, int64(HashUnit), int64(1 << 28)}},
		{func() (any, error) { return recovery.Stored(ctx, "control", 2) }, uint64(1<<63 + 7), []any{"stored", "control", uint32(2)}},
		{func() (any, error) { return nil, capture.Heal(ctx, ranges) }, nil, []any{"heal", ranges}},
		{func() (any, error) { return nil, capture.Incarnate(ctx, 3, 2, 99) }, nil, []any{"incarnate", uint32(3), 2, uint64(99)}},
		{func() (any, error) { return nil, capture.Pause(ctx, 3, until) }, nil, []any{"pause", uint32(3), until}},
		{func() (any, error) { return nil, capture.Pause(ctx, 3, time.Time{}) }, nil, []any{"pause", uint32(3), time.Time{}}},
		{func() (any, error) { return nil, capture.Renew(ctx, 3, "a hole") }, nil, []any{"renew", uint32(3), "a hole"}},
		{func() (any, error) { return capture.Scrub(ctx) }, s.scrub, []any{"scrub"}},
		{func() (any, error) { return capture.Scrubbed(ctx, 2) }, s.scrub, []any{"scrubbed", uint64(2)}},
	} {
		got, err := step.ask()
		if err != nil || !reflect.DeepEqual(got, step.want) {
			t.Errorf("%v: answered %v, %v", step.told[0], got, err)
		}
		if told := s.took(); !reflect.DeepEqual(told, step.told) {
			t.Errorf("arrived as %v, sent as %v", told, step.told)
		}
	}

	for _, sentinel := range []error{ErrBusy, ErrGone, ErrRefused} {
		s.mu.Lock()
		s.err = errors.Join(errors.New("the reason"), sentinel)
		s.mu.Unlock()
		if _, err := recovery.Found(ctx, "orders", "u1"); !errors.Is(err, sentinel) || !strings.Contains(err.Error(), "the reason") {
			t.Errorf("got %v, want %v and why", err, sentinel)
		}
		if err := capture.Heal(ctx, ranges); !errors.Is(err, sentinel) {
			t.Errorf("got %v, want %v", err, sentinel)
		}
	}

	p.Cut()
	brief, stop := context.WithTimeout(ctx, 2*time.Second)
	defer stop()
	if _, err := recovery.Stored(brief, "orders", 1); !errors.Is(err, ErrUnavailable) {
		t.Errorf("the link is cut: %v", err)
	}
}

// serve answers for both parties until the test's end.
func (s *shore) serve(t *testing.T, p *journaltest.Pair) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		if err := ServeRecovery(ctx, p.DR.Conn(), "shop", s); err != nil {
			t.Error(err)
		}
	})
	work.Go(func() {
		if err := ServeCapture(ctx, p.Primary.Conn(), "shop", "orders", s); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stop(); work.Wait() })
}

// A question of a newer version is refused in words, and none to a group or volume is answered by another.
func TestUnknownAndForeign(t *testing.T) {
	p := journaltest.Sites(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	s := &shore{}
	s.serve(t, p)
	newer := asker{p.Primary.Conn(), "shop", recoverySubject("shop")}
	await(t, ctx, func() error {
		err := newer.ask(ctx, question{Verb: "teleport"}, nil)
		if errors.Is(err, ErrRefused) && strings.Contains(err.Error(), "teleport") {
			return nil
		}
		return err
	})
	brief, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	if err := CaptureOf(p.DR.Conn(), "shop", "ledger").Heal(brief, nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("another volume's capturer: %v", err)
	}
	if _, err := RecoveryOf(p.Primary.Conn(), "bank").Found(brief, "orders", ""); !errors.Is(err, ErrUnavailable) {
		t.Errorf("another group's applier: %v", err)
	}
}

// await repeats what fails while subscriptions travel through the leafnode.
func await(t *testing.T, ctx context.Context, ask func() error) {
	t.Helper()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
