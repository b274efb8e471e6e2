package archive

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/farshore/farshore/internal/grid"
)

// windowChunks is how many chunks are planned and held at once: the more, the more of them lie together in packs.
const windowChunks = 1024

// stretch is a range of a part: zeros, or chunks with content.
type stretch struct {
	off, length int64
	first, n    int // of the window's chunks; n == 0: zeros
}

// window is ranges of a part that follow each other, with at most so many chunks.
type window struct {
	stretches []stretch
	ids       []ID       // chunks that are no zeros
	last      int        // bytes of the last chunk; the others are whole
	of        []*request // by chunk
	buf       []byte     // the content, each chunk at a multiple of grid.Chunk
	err       error      // what comes next can't be read
}

// request is a range of a pack that is read at once for a window.
type request struct {
	reading
	w    *window
	in   []place // where the window's chunks lie
	done chan struct{}
	err  error // set when done is closed
}

// windows cuts a part into windows: it is given the part's chunks in order.
type windows struct {
	size  int64 // of the part
	from  int64 // the first chunk that is wanted
	limit int   // chunks of a window
	give  func(w *window) error
	w     *window // being filled
}

func newWindows(size, from int64, limit int, give func(w *window) error) *windows {
	return &windows{size: size, from: from, limit: limit, give: give, w: new(window)}
}

// visitor fills windows with what a tree's nodes tell.
func (p *windows) visitor() visitor {
	return visitor{
		leaf: func(first int64, ids []ID) error {
			for i, id := range ids {
				if err := p.chunk(first+int64(i), id); err != nil {
					return err
				}
			}
			return nil
		},
		zeros: func(first, count int64) error {
			p.zeros(first, count)
			return nil
		},
	}
}

// last is the range that the next one may continue; nil: there is none.
func (p *windows) last() *stretch {
	if n := len(p.w.stretches); n > 0 {
		return &p.w.stretches[n-1]
	}
	return nil
}

// zeros adds chunks that are zeros.
func (p *windows) zeros(first, count int64) {
	off := max(first, p.from) * grid.Chunk
	length := min((first+count)*grid.Chunk, p.size) - off
	if length <= 0 {
		return
	}
	if s := p.last(); s != nil && s.n == 0 {
		s.length += length
		return
	}
	p.w.stretches = append(p.w.stretches, stretch{off: off, length: length})
}

// chunk adds a chunk.
func (p *windows) chunk(number int64, id ID) error {
	if id.IsZero() {
		p.zeros(number, 1)
		return nil
	}
	if number < p.from {
		return nil
	}
	if len(p.w.ids) == p.limit {
		if err := p.flush(); err != nil {
			return err
		}
	}
	length := chunkSize(p.size, number)
	if s := p.last(); s != nil && s.n > 0 {
		s.length, s.n = s.length+length, s.n+1
	} else {
		p.w.stretches = append(p.w.stretches, stretch{number * grid.Chunk, length, len(p.w.ids), 1})
	}
	p.w.ids, p.w.last = append(p.w.ids, id), int(length)
	return nil
}

// flush gives what was added since the last window.
func (p *windows) flush() error {
	w := p.w
	p.w = new(window)
	if len(w.stretches) == 0 {
		return nil
	}
	return p.give(w)
}

// bytes is how long the window's content is.
func (w *window) bytes() int { return max(0, len(w.ids)-1)*grid.Chunk + w.last }

// chunk is the place of a chunk's content.
func (w *window) chunk(i int) []byte { return w.buf[i*grid.Chunk : min((i+1)*grid.Chunk, w.bytes())] }

// requests plans how the window is filled, its beginning first. What lies nowhere is in requests that have failed already.
func (w *window) requests(ctx context.Context, a *Archive) ([]*request, error) {
	places, missing, err := a.lookup(ctx, w.ids)
	if err != nil {
		return nil, err
	}
	w.of = make([]*request, len(w.ids))
	for _, i := range missing {
		w.of[i] = &request{done: make(chan struct{}), err: a.notThere(w.ids[i])}
		close(w.of[i].done)
	}
	list := planReads(places)
	out := make([]*request, len(list))
	for n, r := range list {
		out[n] = &request{reading: r, w: w, in: places, done: make(chan struct{})}
		for _, i := range r.chunks {
			w.of[i] = out[n]
		}
	}
	slices.SortFunc(out, func(a, b *request) int { return cmp.Compare(slices.Min(a.chunks), slices.Min(b.chunks)) })
	return out, nil
}

// serve reads what was requested.
func (q *request) serve(ctx context.Context, a *Archive) {
	defer close(q.done)
	q.err = a.read(ctx, q.reading, q.in, q.w.chunk, func(i int, chunk []byte) error {
		to := q.w.chunk(i)
		if len(chunk) != len(to) {
			return wrongLength(q.w.ids[i], len(chunk), len(to))
		}
		if &chunk[0] != &to[0] {
			copy(to, chunk)
		}
		return nil
	})
}

// ready tells whether what was requested is there.
func (q *request) ready() bool {
	select {
	case <-q.done:
		return q.err == nil
	default:
		return false
	}
}

// wrongLength is the error of a chunk that is what its name says, and not what a tree is about.
func wrongLength(id ID, got, want int) error {
	return &DamageError{Object: "chunk " + id.String(), Reason: fmt.Sprintf("it has %d bytes, and the tree tells of %d", got, want)}
}
