package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// How a volume's first pass is applied: in batches that are given room together, with a
// checkpoint after some bytes or some time.
const (
	seedBatch      = 8 << 20
	seedCheckpoint = 64 << 20
	seedInterval   = time.Second
	seedAhead      = 16 // events read ahead
)

// Seed applies the stream of a volume that is in no commit yet as it comes, up to the end of its
// first pass; there it waits, as Seeded, for its first commit. It returns nil once the pass is
// complete, at once where it is already. It blocks while the pass goes on; a cancelled ctx leaves the
// volume at a checkpoint from which the next Seed goes on.
//
// A generation that begins with a blank volume begins the replica anew, whatever it holds. One that continues
// what the replica holds changes nothing here: the next commit leads there.
func (s *Set) Seed(ctx context.Context, src Source, name string, generation uint32) error {
	v := s.volume(name)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := s.roomy(s.seed(ctx, src, v, generation)); err != nil {
		return &VolumeError{name, fmt.Errorf("seed: %w", err)}
	}
	return nil
}

func (s *Set) seed(ctx context.Context, src Source, v *volume, generation uint32) error {
	if v.now.State != Joining && generation <= v.now.Generation {
		return nil
	}
	if err := s.settle(); err != nil {
		return err
	}
	legs, anew, err := s.path(ctx, src, v.name, v.now, events.Position{Generation: generation, Seq: openEnd})
	switch {
	case err != nil:
		return err
	case anew:
		blank := s.blank(v.name)
		if err := s.record(func(cp *Checkpoint) { cp.discard(v.name, blank) }); err != nil {
			return err
		}
		s.reset(v)
	case v.now.State != Joining:
		return nil
	}
	if err := s.stream(ctx, src, v, legs, until{pass: true}); err != nil {
		s.reset(v)
		return err
	}
	return nil
}

// Fill brings a set that nobody relies on yet to commit c, applying what it reads as it reads it: a
// blank set, or one that was copied. It is Advance without its promise: after an error the set is
// good for another Fill to c or later, and for nothing else.
func (s *Set) Fill(ctx context.Context, src Source, c *events.Commit) error {
	return s.toward(ctx, src, c, func(steps []*step, _ bool) error {
		if err := s.promise(c, steps); err != nil {
			return err
		}
		err := each(ctx, steps, func(ctx context.Context, st *step) error {
			if st.isObjects() {
				if err := s.stage(ctx, src, st, c.Token); err != nil {
					return err
				}
				return s.keep(st)
			}
			if err := s.stream(ctx, src, st.v, st.legs, until{at: st.entry.Position, token: c.Token}); err != nil {
				s.reset(st.v)
				return err
			}
			st.iv = &interval{to: st.v.now}
			return nil
		})
		if err != nil {
			return fmt.Errorf("fill to barrier %d: %w", c.Token.Barrier, err)
		}
		return s.finish(c, steps)
	})
}

// until says where stream ends: at the first end of a pass, or at a commit's mark.
type until struct {
	pass  bool
	at    events.Position
	token events.Token
}

func (u until) reached(it *item) bool {
	if u.pass {
		return it.pass
	}
	return it.after.Generation == u.at.Generation && it.after.Seq == u.at.Seq
}

// stream applies a volume's events along a path as they come.
func (s *Set) stream(ctx context.Context, src Source, v *volume, legs []Leg, end until) error {
	if len(legs) == 0 {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	items := make(chan item, seedAhead)
	w := s.walk(src, v.name, v.now, legs, end.token)
	g.Go(func() error {
		defer close(items)
		return s.pump(ctx, w, end, items)
	})
	g.Go(func() error {
		b := &batch{s: s, v: v, synced: time.Now()}
		return b.run(ctx, items, end)
	})
	return g.Wait()
}

// pump reads and verifies events up to the end.
func (s *Set) pump(ctx context.Context, w *walk, end until, items chan<- item) error {
	defer w.close()
	for {
		it, m, err := w.next(ctx, nil)
		if err != nil {
			return err
		}
		s.hooks.read(w.name, m)
		select {
		case items <- it:
		case <-ctx.Done():
			return ctx.Err()
		}
		if end.reached(&it) {
			return nil
		}
	}
}

// batch is what was read and not yet written.
type batch struct {
	s      *Set
	v      *volume
	items  []item
	weight int64

	dirty  int64     // bytes of content since the last checkpoint
	moved  bool      // something was written since then
	synced time.Time // when that was
}

func (b *batch) run(ctx context.Context, items <-chan item, end until) error {
	tick := time.NewTicker(seedInterval / 4)
	defer tick.Stop()
	for {
		select {
		case it, ok := <-items:
			if !ok {
				return ctx.Err() // the reader failed and says why
			}
			b.items = append(b.items, it)
			b.weight += it.weight()
			done := end.reached(&it)
			if done || b.weight >= seedBatch {
				if err := b.write(); err != nil {
					return err
				}
			}
			if done {
				return b.checkpoint(end.pass)
			}
		case <-tick.C:
			if err := b.write(); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		if b.dirty >= seedCheckpoint || b.moved && time.Since(b.synced) >= seedInterval {
			if err := b.checkpoint(false); err != nil {
				return err
			}
		}
	}
}

// write gives the batch room and writes it.
func (b *batch) write() error {
	if len(b.items) == 0 {
		return nil
	}
	last := b.items[len(b.items)-1].after
	size := b.v.now.Size
	if b.v.now.Seq == 0 {
		size = last.Size
	}
	if err := b.s.openVolume(b.v, size); err != nil {
		return err
	}
	if last.Size > b.v.target.Size() {
		if err := b.v.target.Resize(last.Size); err != nil {
			return fmt.Errorf("grow to %d bytes: %w", last.Size, err)
		}
	}
	var writes extents
	for i := range b.items {
		for _, op := range ops(b.items[i].frame) {
			if op.Kind == events.OpWrite {
				writes.add(op.Offset, op.Length)
			}
		}
	}
	if err := b.v.target.Reserve(writes.merge()); err != nil {
		return err
	}
	w := &frameWriter{target: b.v.target}
	for i := range b.items {
		it := &b.items[i]
		if err := b.s.applyItem(b.v.name, w, it, b.v.whole); err != nil {
			return err
		}
		b.dirty += int64(len(it.content))
		b.moved = b.moved || it.frame != nil
	}
	state := b.v.now.State
	b.v.now = last
	b.v.now.State = state
	b.items, b.weight = b.items[:0], 0
	return nil
}

// checkpoint makes what was written durable and records it.
func (b *batch) checkpoint(seeded bool) error {
	if b.v.target == nil {
		return errors.New("a pass ended before it began")
	}
	if err := b.v.target.Sync(); err != nil {
		return err
	}
	if seeded {
		b.v.now.State = Seeded
	}
	b.dirty, b.moved, b.synced = 0, false, time.Now()
	return b.s.record(func(cp *Checkpoint) { cp.Volumes[b.v.name] = b.v.now })
}

var _ Reader = (*journal.Reader)(nil)
