package archive

import (
	"bytes"
	"container/list"
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/farshore/farshore/internal/grid"
)

const (
	cachedNodes  = 128 // 2 MiB
	cachedChunks = 64  // 4 MiB
)

// Image gives random access to a part, for as long as ctx goes on. What it reads is verified; what is damaged is a *DamageError. It may
// be read from several goroutines at once, and holds a few MiB.
func (a *Archive) Image(ctx context.Context, p Part) io.ReaderAt {
	m := &image{a: a, p: p, nodes: lru{limit: cachedNodes}, chunks: lru{limit: cachedChunks}}
	return readerAt(func(b []byte, off int64) (int, error) { return m.readAt(ctx, b, off) })
}

// readerAt is an io.ReaderAt that is a function.
type readerAt func(b []byte, off int64) (int, error)

// ReadAt implements io.ReaderAt.
func (f readerAt) ReadAt(b []byte, off int64) (int, error) { return f(b, off) }

// image is a part that is read at random.
type image struct {
	a      *Archive
	p      Part
	nodes  lru
	chunks lru
}

func (m *image) readAt(ctx context.Context, b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read %s at %d", m.p.Name, off)
	}
	if off >= m.p.Size {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), m.p.Size-off))
	// In pieces, so that what is read at once is bounded whatever the caller asks for.
	for at := 0; at < n; {
		end := min(n, at+int(readMost-(off+int64(at))%grid.Chunk))
		if err := m.fill(ctx, b[at:end], off+int64(at)); err != nil {
			return at, err
		}
		at = end
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// fill reads a range that lies in the part.
func (m *image) fill(ctx context.Context, b []byte, off int64) error {
	type wish struct {
		to   []byte
		skip int64 // of the chunk
		size int64 // of the chunk
	}
	var ids []ID
	var wishes []wish
	for len(b) > 0 {
		number := off / grid.Chunk
		w := wish{skip: off % grid.Chunk, size: chunkSize(m.p.Size, number)}
		w.to = b[:min(int64(len(b)), w.size-w.skip)]
		b, off = b[len(w.to):], off+int64(len(w.to))
		id, err := m.find(ctx, number)
		if err != nil {
			return err
		}
		if id.IsZero() {
			clear(w.to)
		} else if c := m.chunks.get(id); c != nil && int64(len(c)) == w.size {
			copy(w.to, c[w.skip:])
		} else {
			ids, wishes = append(ids, id), append(wishes, w)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return m.a.fetch(ctx, ids, func(i int, chunk []byte) error {
		w := wishes[i]
		if int64(len(chunk)) != w.size {
			return wrongLength(ids[i], len(chunk), int(w.size))
		}
		if copy(w.to, chunk[w.skip:]) < len(chunk) { // who reads a piece may go on to the next
			m.chunks.put(ids[i], bytes.Clone(chunk))
		}
		return nil
	})
}

// find returns the name of a chunk.
func (m *image) find(ctx context.Context, number int64) (ID, error) {
	id, first := m.p.Root, int64(0)
	for level := levels(m.p.Size); level > 0 && !id.IsZero(); level-- {
		raw := m.nodes.get(id)
		if raw == nil {
			err := m.a.fetch(ctx, []ID{id}, func(_ int, node []byte) error {
				if len(node) != nodeBytes {
					return wrongLength(id, len(node), nodeBytes)
				}
				raw = bytes.Clone(node)
				return nil
			})
			if err != nil {
				return ID{}, err
			}
			m.nodes.put(id, raw)
		}
		i := (number - first) / span(level-1)
		id, first = ID(raw[i*32:]), first+i*span(level-1)
	}
	return id, nil
}

// lru keeps the chunks that were asked for last. Methods may be called concurrently; what it holds must not be changed.
type lru struct {
	limit int
	mu    sync.Mutex
	by    map[ID]*list.Element
	order list.List // of kept, the last one that was asked for first
}

type kept struct {
	id    ID
	chunk []byte
}

func (l *lru) get(id ID) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.by[id]
	if e == nil {
		return nil
	}
	l.order.MoveToFront(e)
	return e.Value.(kept).chunk
}

func (l *lru) put(id ID, chunk []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.by == nil {
		l.by = make(map[ID]*list.Element)
	}
	if l.by[id] != nil {
		return
	}
	l.by[id] = l.order.PushFront(kept{id, chunk})
	if l.order.Len() > l.limit {
		delete(l.by, l.order.Remove(l.order.Back()).(kept).id)
	}
}
