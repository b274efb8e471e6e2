package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/farshore/farshore/internal/background"
	"github.com/farshore/farshore/internal/grid"
)

// jobChunks is how many chunks in a row are read at once.
const jobChunks = 16

var zeroChunk [grid.Chunk]byte

// adder builds the tree of one part. One goroutine goes down to what is wanted, in order, and several read, hash and store; whoever
// completes a node stores it. Few nodes are open at a time, whatever the part's size.
type adder struct {
	r      *Run
	s      *Source
	wanted *grid.Set
	count  int64 // chunks of the part

	before     Part // what is not wanted is as it was there; zero: all of zeros
	beforeHigh int  // its levels

	jobs chan job
	data atomic.Int64 // bytes that are not zeros
	root ID

	progress sync.Mutex
}

// job is some wanted chunks in a row, of one leaf.
type job struct {
	leaf  *growing
	first int64
	n     int64 // chunks
}

// growing is a node that isn't complete.
type growing struct {
	parent *growing // nil: it is the root
	slot   int      // in parent
	first  int64    // chunk
	ids    []ID
	left   atomic.Int32 // what it waits for
}

// Add stores a part. What is in the store already isn't stored again. An error ends the run.
func (r *Run) Add(ctx context.Context, s Source) (Part, error) {
	if r.err != nil {
		return Part{}, r.err
	}
	p, err := r.add(ctx, &s)
	if err != nil {
		r.err = fmt.Errorf("archive %s: %w", s.Name, err)
	}
	return p, r.err
}

func (r *Run) add(ctx context.Context, s *Source) (Part, error) {
	if s.Size < 0 {
		return Part{}, fmt.Errorf("it has %d bytes", s.Size)
	}
	b := &adder{r: r, s: s, count: grid.Count(s.Size), jobs: make(chan job)}
	if err := b.plan(ctx); err != nil {
		return Part{}, err
	}
	if b.wanted.Next(0) < 0 && s.Size == b.before.Size {
		return Part{Name: s.Name, Size: s.Size, Root: b.before.Root, Data: b.before.Data}, nil
	}
	if b.count == 0 {
		return Part{Name: s.Name}, nil
	}
	g, ctx := r.packer.begin(ctx)
	for range r.a.workers {
		g.Go(func() error {
			if r.a.background {
				background.Thread()
			}
			return b.work(ctx)
		})
	}
	g.Go(func() error {
		defer close(b.jobs)
		high := levels(s.Size)
		old, err := b.top(ctx, high)
		if err != nil {
			return err
		}
		return b.open(ctx, &growing{}, high, old)
	})
	if err := g.Wait(); err != nil {
		return Part{}, err
	}
	return Part{Name: s.Name, Size: s.Size, Root: b.root, Data: b.data.Load()}, nil
}

// plan decides what is read.
func (b *adder) plan(ctx context.Context) error {
	s := b.s
	if s.Before == nil || s.Changed == nil || !b.r.Trusts(s.Before) {
		b.wanted = grid.Full(s.Size)
		return nil
	}
	b.before, b.beforeHigh = *s.Before, levels(s.Before.Size)
	b.wanted = grid.New(s.Size)
	for c := range s.Changed.All() {
		if c >= b.count {
			break
		}
		b.wanted.Add(c)
	}
	b.data.Store(b.before.Data)
	if s.Size == b.before.Size {
		return nil
	}
	// The last chunk that both have may be shorter in one of them; and every node above it is another one.
	if common := min(b.count, grid.Count(b.before.Size)) - 1; common >= 0 {
		b.wanted.Add(common)
	}
	b.wanted.Mark(b.before.Size, s.Size-b.before.Size)
	return b.cut(ctx)
}

// cut takes what lies behind the end of a part that shrank out of what it has of data.
func (b *adder) cut(ctx context.Context) error {
	if b.count >= grid.Count(b.before.Size) {
		return nil
	}
	return b.r.a.walk(ctx, b.before.Root, b.before.Size, b.count, visitor{leaf: func(first int64, ids []ID) error {
		for i, id := range ids {
			if c := first + int64(i); c >= b.count && !id.IsZero() {
				b.data.Add(-chunkSize(b.before.Size, c))
			}
		}
		return nil
	}})
}

// top returns what the topmost node of the new tree was made of in the tree before, which may be higher or not as high.
func (b *adder) top(ctx context.Context, level int) ([]ID, error) {
	if level > b.beforeHigh {
		return b.above(level), nil
	}
	id := b.before.Root
	for at := b.beforeHigh; ; at-- {
		nodes, err := b.r.a.nodes(ctx, []ID{id}, at, 0, grid.Count(b.before.Size))
		if err != nil || at == level || nodes[0] == nil {
			return nodes[0], err
		}
		id = nodes[0][0]
	}
}

// above is the first node of a level that the tree before didn't have.
func (b *adder) above(level int) []ID {
	if level != b.beforeHigh+1 || b.beforeHigh == 0 {
		return nil
	}
	return []ID{b.before.Root}
}

// open goes through the wanted chunks below a node, which was made of old; nil: of zeros.
func (b *adder) open(ctx context.Context, n *growing, level int, old []ID) error {
	wide := span(level - 1)
	n.ids = make([]ID, fanout)
	if there := (b.count - n.first + wide - 1) / wide; int64(len(old)) > there {
		old = old[:there] // the rest is behind the new end
	}
	copy(n.ids, old)
	n.left.Store(1)
	var err error
	if level == 1 {
		err = b.openLeaf(ctx, n)
	} else {
		err = b.openInner(ctx, n, level)
	}
	if err != nil {
		return err
	}
	return b.release(ctx, n)
}

func (b *adder) openLeaf(ctx context.Context, n *growing) error {
	end := min(n.first+fanout, b.count)
	for c := b.wanted.Next(n.first); c >= 0 && c < end; {
		to := c + 1
		for to < end && to-c < jobChunks && b.wanted.Has(to) {
			to++
		}
		n.left.Add(1)
		select {
		case b.jobs <- job{n, c, to - c}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		c = b.wanted.Next(to)
	}
	return nil
}

func (b *adder) openInner(ctx context.Context, n *growing, level int) error {
	wide := span(level - 1)
	end := min(n.first+span(level), b.count)
	for next := b.wanted.Next(n.first); next >= 0 && next < end; {
		// Some children at once, since each may have to be read.
		var slots []int
		ids := make([]ID, fanout)
		for len(slots) < lookahead && next >= 0 && next < end {
			slot := (next - n.first) / wide
			slots = append(slots, int(slot))
			ids[slot] = n.ids[slot]
			next = b.wanted.Next(n.first + (slot+1)*wide)
		}
		old, err := b.r.a.nodes(ctx, ids, level-1, n.first, grid.Count(b.before.Size))
		if err != nil {
			return err
		}
		for _, slot := range slots {
			was := old[slot]
			if n.first == 0 && slot == 0 && level-1 > b.beforeHigh {
				was = b.above(level - 1)
			}
			n.left.Add(1)
			child := &growing{parent: n, slot: slot, first: n.first + int64(slot)*wide}
			if err := b.open(ctx, child, level-1, was); err != nil {
				return err
			}
		}
	}
	return nil
}

// work does jobs until there are no more.
func (b *adder) work(ctx context.Context) error {
	w := worker{adder: b, buf: make([]byte, jobChunks*grid.Chunk)}
	for j := range b.jobs {
		if err := w.do(ctx, j); err != nil {
			return err
		}
	}
	return nil
}

// worker is one goroutine's memory.
type worker struct {
	*adder
	buf    []byte
	record []byte
	ids    [jobChunks]ID
	known  [jobChunks]bool
}

func (w *worker) do(ctx context.Context, j job) error {
	off := j.first * grid.Chunk
	buf := w.buf[:min(j.n*grid.Chunk, w.s.Size-off)]
	if n, err := w.s.Image.ReadAt(buf, off); n < len(buf) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read %d bytes at %d: %w", len(buf), off, err)
	}
	ids := w.ids[:j.n]
	for i := range ids {
		ids[i] = ID{}
		if chunk := w.chunk(buf, i); !bytes.Equal(chunk, zeroChunk[:len(chunk)]) {
			ids[i] = w.r.a.id(chunk)
		}
	}
	if err := w.r.known(ids, w.known[:j.n]); err != nil {
		return err
	}
	for i, id := range ids {
		slot := &j.leaf.ids[j.first+int64(i)-j.leaf.first]
		chunk := w.chunk(buf, i)
		if !slot.IsZero() {
			w.data.Add(-chunkSize(w.before.Size, j.first+int64(i)))
		}
		if !id.IsZero() {
			w.data.Add(int64(len(chunk)))
		}
		*slot = id
		if id.IsZero() || w.known[i] || !w.r.packer.claim(id) {
			continue
		}
		var e entry
		w.record, e = w.r.a.sealRecord(w.record[:0], id, chunk)
		if err := w.r.packer.put(ctx, &w.r.packer.data, w.record, e); err != nil {
			return err
		}
	}
	if w.s.Progress != nil {
		w.progress.Lock()
		w.s.Progress(int64(len(buf)))
		w.progress.Unlock()
	}
	return w.release(ctx, j.leaf)
}

// chunk is the i-th one of those that were read.
func (w *worker) chunk(buf []byte, i int) []byte {
	return buf[i*grid.Chunk : min((i+1)*grid.Chunk, len(buf))]
}

// release takes one off what a node waits for. A node that waits for nothing is complete: it is stored, and its parent waits for
// one less.
func (b *adder) release(ctx context.Context, n *growing) error {
	for n.left.Add(-1) == 0 {
		id, err := b.store(ctx, n.ids)
		if err != nil {
			return err
		}
		if n.parent == nil {
			b.root = id
			return nil
		}
		n.parent.ids[n.slot] = id
		n = n.parent
	}
	return nil
}

// store stores a node.
func (b *adder) store(ctx context.Context, ids []ID) (ID, error) {
	bufs := &b.r.a.buffers
	node, record := bufs.Get().(*[]byte), bufs.Get().(*[]byte)
	defer bufs.Put(node)
	defer bufs.Put(record)
	raw := encodeNode((*node)[:0], ids)
	if bytes.Equal(raw, zeroChunk[:nodeBytes]) {
		return ID{}, nil
	}
	id := b.r.a.id(raw)
	var known [1]bool
	if err := b.r.known([]ID{id}, known[:]); err != nil || known[0] || !b.r.packer.claim(id) {
		return id, err
	}
	var e entry
	*record, e = b.r.a.sealRecord((*record)[:0], id, raw)
	return id, b.r.packer.put(ctx, &b.r.packer.nodes, *record, e)
}
