package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive/store"
)

// survey finds out what points need. It notes that in a bitmap for each pack, one bit for each record, so its memory doesn't grow with
// the points, and with their size only by that; what points share is looked at once.
type survey struct {
	a     *Archive
	packs map[packName]*packState // those that count; chunks that are in others alone are missing
	// skip tells which places don't count; nil: all do.
	skip func(place) bool
	// doomed gets the chunks that are in condemned packs alone, and whether they are nodes; nil: nobody wants to know.
	doomed map[ID]bool
	// blame is told of a chunk that can't be had, and returns what the damage is called.
	blame func(id ID, why error) string
	// spoiled are the nodes below which something is damaged, and what.
	spoiled  map[spot][]string
	progress func(bytes int64) // of parts that were looked at; nil: nobody is told
}

// spot is a node as it is read: what its IDs name depends on the level.
type spot struct {
	id    ID
	level int
}

// packState is a pack in the store, and what of it is needed.
type packState struct {
	store.Info
	name      packName
	overhead  int64 // what the pack has beside records and their entries
	condemned bool
	needed    []bits // of records, by number: as chunks, and as nodes of each level
	used      int64  // bytes of the records that are needed, with their entries
	raw       int64  // bytes of their chunks
}

// bits is a bitmap that grows.
type bits []uint64

func (b bits) has(i int) bool { return i/64 < len(b) && b[i/64]&(1<<(i%64)) != 0 }

func (b *bits) set(i int) {
	for i/64 >= len(*b) {
		*b = append(*b, 0)
	}
	(*b)[i/64] |= 1 << (i % 64)
}

// has tells whether a record is needed, in whatever way.
func (p *packState) has(number int) bool {
	return slices.ContainsFunc(p.needed, func(b bits) bool { return b.has(number) })
}

// node tells whether a record is needed as a node.
func (p *packState) node(number int) bool {
	return len(p.needed) > 1 && slices.ContainsFunc(p.needed[1:], func(b bits) bool { return b.has(number) })
}

// need notes that a record is needed as a chunk, level 0, or as a node of a level, and tells whether that is new.
func (p *packState) need(at place, level int) bool {
	for len(p.needed) <= level {
		p.needed = append(p.needed, nil)
	}
	if p.needed[level].has(at.number) {
		return false
	}
	if !p.has(at.number) {
		p.used += int64(at.stored) + entryLength
		p.raw += int64(at.raw)
	}
	p.needed[level].set(at.number)
	return true
}

// unused is how many bytes of the pack nobody needs.
func (p *packState) unused() int64 {
	if p.used == 0 {
		return p.Size
	}
	return max(0, p.Size-p.used-p.overhead)
}

// clone returns a copy that shares nothing that changes.
func (s *survey) clone() *survey {
	c := *s
	c.packs = make(map[packName]*packState, len(s.packs))
	for name, p := range s.packs {
		q := *p
		q.needed = make([]bits, len(p.needed))
		for i := range p.needed {
			q.needed[i] = slices.Clone(p.needed[i])
		}
		c.packs[name] = &q
	}
	return &c
}

// listStates lists the packs in the store, by name.
func (a *Archive) listStates(ctx context.Context) (map[packName]*packState, error) {
	out := make(map[packName]*packState)
	for info, err := range a.store.List(ctx, packs) {
		if err != nil {
			return nil, err
		}
		if name, ok := parsePack(info.Name); ok {
			out[name] = &packState{Info: info, name: name, overhead: int64(packHeader + trailerBytes + a.overhead())}
		}
	}
	return out, nil
}

// points looks at points, and returns what is damaged of which: for each point's position what keeps it from being restored.
func (s *survey) points(ctx context.Context, points []Point) (map[int][]string, error) {
	damaged := make(map[int][]string)
	for i, p := range points {
		for _, part := range p.Parts {
			found, err := s.part(ctx, part)
			if err != nil {
				return nil, err
			}
			damaged[i] = merge(damaged[i], found)
		}
		if len(damaged[i]) == 0 {
			delete(damaged, i)
		}
	}
	return damaged, nil
}

// part looks at the tree of a part.
func (s *survey) part(ctx context.Context, p Part) ([]string, error) {
	if s.spoiled == nil {
		s.spoiled = make(map[spot][]string)
	}
	found, err := s.children(ctx, []ID{p.Root}, levels(p.Size), 0, p.Size)
	if err == nil && s.progress != nil {
		s.progress(p.Size)
	}
	return found, err
}

// children looks at nodes of a level which are side by side, or, at level 0, at chunks.
func (s *survey) children(ctx context.Context, ids []ID, level int, first, size int64) (found []string, err error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	places, err := s.places(ids, level)
	if err != nil {
		return nil, err
	}
	fresh := make([]ID, len(ids)) // nodes to be read; zero: not this one
	read := false
	for i, id := range ids {
		at := first + int64(i)*span(level)
		if id.IsZero() {
			continue
		}
		pack := s.packs[places[i].pack]
		switch {
		case pack == nil:
			found = merge(found, []string{s.blame(id, errors.New("it is in no pack"))})
		case level == 0:
			if want := chunkSize(size, at); int64(places[i].raw) != want {
				found = merge(found, []string{s.blame(id, fmt.Errorf("it has %d bytes, and %d belong there", places[i].raw, want))})
			}
			pack.need(places[i], 0)
		case pack.need(places[i], level):
			fresh[i], read = id, true
		default:
			found = merge(found, s.spoiled[spot{id, level}])
		}
	}
	if !read {
		return found, nil
	}
	for from := 0; from < len(ids); from += lookahead {
		some, err := s.below(ctx, fresh[from:min(from+lookahead, len(ids))], level, first+int64(from)*span(level), size)
		if err != nil {
			return nil, err
		}
		found = merge(found, some)
	}
	return found, nil
}

// below reads nodes, and looks at what they name.
func (s *survey) below(ctx context.Context, ids []ID, level int, first, size int64) (found []string, err error) {
	nodes, broken, err := s.read(ctx, ids, level, first, size)
	if err != nil {
		return nil, err
	}
	for i, id := range ids {
		if id.IsZero() {
			continue
		}
		var inside []string
		if nodes[i] == nil {
			inside = []string{s.blame(id, broken[i])}
		} else {
			at := first + int64(i)*span(level)
			if inside, err = s.children(ctx, nodes[i], level-1, at, size); err != nil {
				return nil, err
			}
		}
		if len(inside) > 0 {
			s.spoiled[spot{id, level}] = inside
			found = merge(found, inside)
		}
		nodes[i] = nil
	}
	return found, nil
}

// read reads nodes. Where all can't be had at once it tries each.
func (s *survey) read(ctx context.Context, ids []ID, level int, first, size int64) (nodes [][]ID, broken []error, err error) {
	nodes, err = s.a.nodes(ctx, ids, level, first, grid.Count(size))
	if err == nil || !isDamage(err) {
		return nodes, nil, err
	}
	nodes, broken = make([][]ID, len(ids)), make([]error, len(ids))
	for i, id := range ids {
		if id.IsZero() {
			continue
		}
		one, err := s.a.nodes(ctx, []ID{id}, level, first+int64(i)*span(level), grid.Count(size))
		switch {
		case err == nil:
			nodes[i] = one[0]
		case isDamage(err):
			broken[i] = err
		default:
			return nil, nil, err
		}
	}
	return nodes, broken, nil
}

// places tells where chunks lie: the first pack that counts, or, where there is none, a condemned one.
func (s *survey) places(ids []ID, level int) ([]place, error) {
	out := make([]place, len(ids))
	err := s.a.index.find(ids, func(i int, p place) bool {
		pack := s.packs[p.pack]
		if pack == nil || pack.condemned && out[i].stored > 0 || s.skip != nil && s.skip(p) {
			return true
		}
		out[i] = p
		return pack.condemned
	})
	if err != nil || s.doomed == nil {
		return out, err
	}
	for i := range out {
		if pack := s.packs[out[i].pack]; pack != nil && pack.condemned {
			s.doomed[ids[i]] = s.doomed[ids[i]] || level > 0
		}
	}
	return out, nil
}

// merge adds what is in b to a, both sorted.
func merge(a, b []string) []string {
	if len(b) == 0 {
		return a
	}
	out := append(slices.Clone(a), b...)
	slices.Sort(out)
	return slices.Compact(out)
}
