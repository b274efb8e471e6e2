package journal

import (
	"context"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// Hole is a range of sequences that a mirror lacks and won't get by itself.
type Hole struct {
	From, To uint64 // both are missing
}

// Holes returns what the mirror lacks of the sequences from on, in order. A reader needs from on; what
// is below may have been trimmed. It is cheap where nothing is missing.
func (s *Site) Holes(ctx context.Context, m Mirror, from uint64) ([]Hole, error) {
	var out []Hole
	for from = max(from, 1); ; {
		i, until := m.At(from)
		last := min(until, i.Last)
		if i.Last < until && until != ^uint64(0) {
			// An incarnation that ends before the next one begins: nothing feeds it any more.
			last = until
		}
		if from <= last {
			missing, err := s.missing(ctx, i, from, last)
			if err != nil {
				return nil, err
			}
			out = append(out, missing...)
		}
		if until == ^uint64(0) {
			return joinHoles(out), nil
		}
		from = until + 1
	}
}

// missing returns what one incarnation lacks of a range.
func (s *Site) missing(ctx context.Context, i StreamInfo, from, to uint64) ([]Hole, error) {
	if i.Messages == 0 {
		return []Hole{{from, to}}, nil
	}
	var out []Hole
	if from < i.First {
		out = append(out, Hole{from, min(to, i.First-1)})
	}
	if i.Messages != i.Last-i.First+1 {
		inside, err := s.holesInside(ctx, i)
		if err != nil {
			return nil, err
		}
		for _, h := range inside {
			if h.To >= from && h.From <= to {
				out = append(out, Hole{max(h.From, from), min(h.To, to)})
			}
		}
	}
	if i.Last < to {
		out = append(out, Hole{max(from, i.Last+1), to})
	}
	return joinHoles(out), nil
}

// foundHoles are the holes between the first and the last message of a stream, as it stood then.
type foundHoles struct {
	first, last, messages uint64
	holes                 []Hole
}

// holesInside returns the holes between the first and the last message of an incarnation. The server lists each
// message that is missing, so what it said of an incarnation is kept: one that was replaced changes no more.
func (s *Site) holesInside(ctx context.Context, i StreamInfo) ([]Hole, error) {
	s.mu.Lock()
	known, ok := s.holes[i.Name]
	s.mu.Unlock()
	if ok && known.first == i.First && known.last == i.Last && known.messages == i.Messages {
		return known.holes, nil
	}
	stream, err := s.js.Stream(ctx, i.Name)
	if err != nil {
		return nil, fmt.Errorf("look for holes in %s: %w", i.Name, err)
	}
	info, err := stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return nil, fmt.Errorf("look for holes in %s: %w", i.Name, err)
	}
	slices.Sort(info.State.Deleted)
	found := foundHoles{first: info.State.FirstSeq, last: info.State.LastSeq, messages: info.State.Msgs}
	for _, seq := range info.State.Deleted {
		if n := len(found.holes); n > 0 && found.holes[n-1].To+1 == seq {
			found.holes[n-1].To = seq
		} else {
			found.holes = append(found.holes, Hole{seq, seq})
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holes[i.Name] = found
	return found.holes, nil
}

// joinHoles makes one of holes that touch.
func joinHoles(holes []Hole) (out []Hole) {
	for _, h := range holes {
		if n := len(out); n > 0 && out[n-1].To+1 >= h.From {
			out[n-1].To = max(out[n-1].To, h.To)
			continue
		}
		out = append(out, h)
	}
	return out
}
