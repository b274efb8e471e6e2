package archive

import (
	"context"
	"fmt"

	"github.com/farshore/farshore/internal/grid"
)

// A part is a tree. A leaf, level 1, has the IDs of fanout chunks, in their order; a node of a higher level those of fanout nodes of
// the level below. A part has as many levels as it needs, at least one; its root is a single node. A node is a chunk like others: the
// IDs one after another. IDs behind the part's end are zero; a node of zero IDs alone has the zero ID, and isn't stored.
const (
	fanout    = 512
	nodeBytes = fanout * 32
)

// levels is how high the tree of a part of size bytes is.
func levels(size int64) int {
	n := 1
	for span(n) < grid.Count(size) {
		n++
	}
	return n
}

// span is how many chunks a node of a level covers; 1 for level 0, the chunks.
func span(level int) int64 {
	n := int64(1)
	for range level {
		n *= fanout
	}
	return n
}

// chunkSize is how long a part's chunk is.
func chunkSize(size, chunk int64) int64 { return min(grid.Chunk, size-chunk*grid.Chunk) }

// parseNode decodes a node which covers chunks from first on, of a part of count chunks.
func parseNode(raw []byte, level int, first, count int64) ([]ID, error) {
	if len(raw) != nodeBytes {
		return nil, fmt.Errorf("a node of a tree has %d bytes, want %d", len(raw), nodeBytes)
	}
	ids := make([]ID, fanout)
	below := span(level - 1)
	for i := range ids {
		ids[i] = ID(raw[i*32:])
		if !ids[i].IsZero() && first+int64(i)*below >= count {
			return nil, fmt.Errorf("a node of a tree has chunks behind the end")
		}
	}
	return ids, nil
}

// encodeNode is parseNode's inverse.
func encodeNode(dst []byte, ids []ID) []byte {
	for i := range ids {
		dst = append(dst, ids[i][:]...)
	}
	return dst
}

// visitor is told of the nodes of a tree, from one goroutine, in the order of their chunks, parents before children.
type visitor struct {
	// enter tells whether to go below a node; nil: always. Of nodes with the zero ID it is not asked. Chunks are by number.
	enter func(id ID, level int, first int64) (bool, error)
	// leaf is given the IDs of chunks from first on, as many as there are up to the part's end. It must not keep them.
	leaf func(first int64, ids []ID) error
	// zeros is told of count chunks in a row that are zeros as their nodes say; nil: it isn't.
	zeros func(first, count int64) error
}

// lookahead is how many nodes of a level walk reads at once.
const lookahead = 64

// walk visits the tree of a part of size bytes, from the chunk from on: leaves that end before are left out.
func (a *Archive) walk(ctx context.Context, root ID, size, from int64, v visitor) error {
	w := walker{a: a, count: grid.Count(size), from: from, visitor: v}
	return w.nodes(ctx, []ID{root}, levels(size), 0)
}

type walker struct {
	visitor
	a           *Archive
	count, from int64 // chunks
}

// nodes visits nodes of a level which are side by side.
func (w *walker) nodes(ctx context.Context, ids []ID, level int, first int64) error {
	for len(ids) > 0 && first < w.count {
		n := min(lookahead, len(ids))
		if err := w.some(ctx, ids[:n], level, first); err != nil {
			return err
		}
		ids, first = ids[n:], first+int64(n)*span(level)
	}
	return nil
}

func (w *walker) some(ctx context.Context, ids []ID, level int, first int64) error {
	wide := span(level)
	wanted := make([]ID, len(ids)) // zero: not wanted
	for i, id := range ids {
		at := first + int64(i)*wide
		if id.IsZero() || at >= w.count || at+wide <= w.from {
			continue
		}
		in := true
		if w.enter != nil {
			var err error
			if in, err = w.enter(id, level, at); err != nil {
				return err
			}
		}
		if in {
			wanted[i] = id
		}
	}
	nodes, err := w.a.nodes(ctx, wanted, level, first, w.count)
	if err != nil {
		return err
	}
	for i, id := range ids {
		at := first + int64(i)*wide
		if at >= w.count || at+wide <= w.from {
			continue
		}
		switch {
		case id.IsZero():
			if w.zeros != nil {
				err = w.zeros(at, min(wide, w.count-at))
			}
		case nodes[i] == nil:
		case level > 1:
			err = w.nodes(ctx, nodes[i], level-1, at)
		default:
			err = w.leaf(at, nodes[i][:min(wide, w.count-at)])
		}
		if err != nil {
			return err
		}
		nodes[i] = nil
	}
	return nil
}

// nodes reads nodes of a level which are side by side. Those with the zero ID are nil.
func (a *Archive) nodes(ctx context.Context, ids []ID, level int, first, count int64) ([][]ID, error) {
	nodes := make([][]ID, len(ids))
	err := a.fetch(ctx, ids, func(i int, raw []byte) (err error) {
		nodes[i], err = parseNode(raw, level, first+int64(i)*span(level), count)
		if err != nil {
			err = &DamageError{Object: "chunk " + ids[i].String(), Reason: err.Error()}
		}
		return err
	})
	return nodes, err
}
