package replica

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// memory is how many bytes of verified content a set may keep between prepare and apply.
type memory struct {
	limit int64
	used  atomic.Int64
}

func (m *memory) take(n int64) bool {
	if m.used.Add(n) <= m.limit {
		return true
	}
	m.used.Add(-n)
	return false
}

func (m *memory) give(n int64) { m.used.Add(-n) }

// interval is a verified piece of one volume's stream: everything behind the replica's position up
// to a commit's mark. The front of it is kept; what the memory had no room for is read again.
type interval struct {
	from, to Volume // positions before and behind
	items    []item // the front
	weight   int64  // of items
	kept     Volume // position behind items
	writes   extents
}

// readInterval reads and verifies what lies on the path from the volume's position to the mark of a commit.
func (s *Set) readInterval(ctx context.Context, src Source, st *step, token events.Token) (*interval, error) {
	iv := &interval{from: st.from, kept: st.from}
	w := s.walk(src, st.v.name, st.from, st.legs, token)
	defer w.close()
	var buf []byte
	keep := true
	for !w.done() {
		if keep {
			buf = nil // what is kept owns its content
		}
		it, m, err := w.next(ctx, buf)
		if err != nil {
			iv.drop(&s.memory)
			return nil, err
		}
		s.hooks.read(st.v.name, m)
		for _, op := range ops(it.frame) {
			if op.Kind == events.OpWrite {
				iv.writes.add(op.Offset, op.Length)
			}
		}
		if keep = keep && s.memory.take(it.weight()); keep {
			iv.weight += it.weight()
			iv.kept = it.after
			if it.frame != nil || it.hash != nil || it.size != lastSize(iv) {
				iv.items = append(iv.items, it)
			}
		} else {
			buf = reusable(it, buf)
		}
	}
	iv.to = w.at()
	return iv, nil
}

func checkMark(v *verifier, m journal.Message, token events.Token) error {
	if mark, ok := m.Event.(*events.Mark); !ok || mark.Token != token {
		return v.refuse(m, fmt.Errorf("%w: barrier %d of epoch %d", errNotAMark, token.Barrier, token.Epoch))
	}
	return nil
}

func ops(f *events.Frame) []events.Op {
	if f == nil {
		return nil
	}
	return f.Ops
}

func lastSize(iv *interval) int64 {
	if n := len(iv.items); n > 0 {
		return iv.items[n-1].size
	}
	return iv.from.Size
}

func (iv *interval) drop(m *memory) {
	m.give(iv.weight)
	iv.items, iv.weight = nil, 0
}

// applyInterval writes the interval to the volume's target, reading again what was not kept.
func (s *Set) applyInterval(ctx context.Context, src Source, st *step, token events.Token, compare bool) error {
	iv, name := st.iv, st.v.name
	w := &frameWriter{target: st.v.target}
	for i := range iv.items {
		if err := s.applyItem(name, w, &iv.items[i], compare); err != nil {
			return err
		}
	}
	rest := s.walk(src, name, iv.kept, beyond(st.legs, iv.kept), token)
	defer rest.close()
	var buf []byte
	for !rest.done() {
		it, _, err := rest.next(ctx, buf)
		if err == nil {
			err = s.applyItem(name, w, &it, compare)
		}
		if err != nil {
			return err
		}
		buf = reusable(it, buf)
	}
	return nil
}

// reusable returns the buffer for the next frame's content, once it's done with it: memory that is a
// message's own is not ours to write to.
func reusable(it item, buf []byte) []byte {
	if it.frame != nil && it.frame.Compression != events.Uncompressed {
		return it.content
	}
	return buf
}

func (s *Set) applyItem(name string, w *frameWriter, it *item, compare bool) error {
	if it.size > w.target.Size() {
		if err := w.target.Resize(it.size); err != nil {
			return fmt.Errorf("grow to %d bytes: %w", it.size, err)
		}
	}
	switch {
	case it.frame != nil:
		n, err := w.write(it.frame, it.content)
		if err != nil {
			return fmt.Errorf("apply event %d: %w", it.seq, err)
		}
		s.hooks.written(name, n)
		for _, op := range it.frame.Ops {
			s.hooks.equal(name, Extent{op.Offset, op.Length})
		}
	case it.hash != nil && compare:
		region := Extent{it.hash.Offset, it.hash.Length}
		switch err := w.compare(it.hash); err {
		case nil:
			s.hooks.equal(name, region)
		case errMismatch:
			s.hooks.mismatch(name, events.Position{Generation: it.after.Generation, Seq: it.seq}, region)
		default:
			return err
		}
	}
	return nil
}
