package archive

import (
	"context"
	"crypto/sha256"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/internal/grid"
)

// packer writes records into packs, and packs into the store: two at a time are being filled, one with the chunks of volumes and
// one with the nodes of trees, since who reads a tree wants nothing else. Its memory is bounded: who puts records waits while
// enough packs are on their way.
type packer struct {
	a *Archive
	// uploads is given by whoever puts records meanwhile.
	uploads *errgroup.Group
	room    chan struct{} // one token for each pack that may be on its way
	free    chan []byte   // buffers

	data, nodes filling

	mu      sync.Mutex
	pending map[ID]struct{} // chunks that are put and not in the index yet
	stored  []packed        // packs in the store that are not in the index yet
	records int             // in them
	bytes   int64           // that were stored
}

// filling is a pack that is not full yet.
type filling struct {
	mu      sync.Mutex
	buf     []byte
	entries []entry
}

const packsOnTheirWay = 3

func (a *Archive) newPacker() *packer {
	return &packer{
		a:       a,
		room:    make(chan struct{}, packsOnTheirWay),
		free:    make(chan []byte, packsOnTheirWay+2),
		pending: make(map[ID]struct{}),
	}
}

// begin lets records be put: packs that get full are stored by a group of goroutines, which the caller may use too, and waits for.
func (p *packer) begin(ctx context.Context) (*errgroup.Group, context.Context) {
	p.uploads, ctx = errgroup.WithContext(ctx)
	return p.uploads, ctx
}

// claim tells whether the caller is to put a chunk: nobody did so yet in this run.
func (p *packer) claim(id ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, there := p.pending[id]; there {
		return false
	}
	p.pending[id] = struct{}{}
	return true
}

// put adds a record to the packs of data or of nodes. It may be called concurrently.
func (p *packer) put(ctx context.Context, f *filling, record []byte, e entry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.buf)+len(record) > p.a.packTarget || len(f.entries) == packRecords {
		if err := p.send(ctx, f); err != nil {
			return err
		}
	}
	if f.buf == nil {
		f.buf = appendHeader(p.buffer())
	}
	f.buf = append(f.buf, record...)
	f.entries = append(f.entries, e)
	return nil
}

func (p *packer) buffer() []byte {
	select {
	case b := <-p.free:
		return b
	default:
		// The last record may lie behind the target, if it is the only one; the directory of chunks that don't compress has room.
		return make([]byte, 0, p.a.packTarget+packHeader+p.a.packTarget/grid.Chunk*2*entryLength+grid.Chunk)
	}
}

// send stores a pack, by and by, and leaves an empty one. The caller has f's lock.
func (p *packer) send(ctx context.Context, f *filling) error {
	if len(f.entries) == 0 {
		return nil
	}
	select {
	case p.room <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	buf, entries := f.buf, f.entries
	f.buf, f.entries = nil, nil
	p.uploads.Go(func() error {
		defer func() { <-p.room }()
		buf = appendDirectory(buf, entries, p.a.keys)
		done := packed{name: sha256.Sum256(buf), size: int64(len(buf)), entries: entries}
		if err := p.a.put(ctx, done.name.object(), buf); err != nil {
			return err
		}
		select {
		case p.free <- buf[:0]:
		default:
		}
		return p.note(done)
	})
	return nil
}

// note takes note of a stored pack.
func (p *packer) note(done packed) error {
	p.mu.Lock()
	p.bytes += done.size
	p.stored = append(p.stored, done)
	p.records += len(done.entries)
	enough := p.records >= indexBatch
	p.mu.Unlock()
	if enough {
		return p.index()
	}
	return nil
}

// index makes what is stored known to the index, durably.
func (p *packer) index() error {
	p.mu.Lock()
	stored := p.stored
	p.stored, p.records = nil, 0
	p.mu.Unlock()
	if err := p.a.index.add(stored...); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, done := range stored {
		for _, e := range done.entries {
			delete(p.pending, e.id)
		}
	}
	return nil
}

// flush stores what is left, and waits until all is in the store and in the index. Few nodes go with the data.
func (p *packer) flush(ctx context.Context) error {
	g, ctx := p.begin(ctx)
	g.Go(func() error { return p.rest(ctx) })
	if err := g.Wait(); err != nil {
		return err
	}
	return p.index()
}

func (p *packer) rest(ctx context.Context) error {
	d, n := &p.data, &p.nodes
	d.mu.Lock()
	defer d.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(d.buf) > 0 && len(n.buf) > 0 && len(d.buf)+len(n.buf) <= p.a.packTarget && len(d.entries)+len(n.entries) <= packRecords {
		d.buf = append(d.buf, n.buf[packHeader:]...)
		d.entries = append(d.entries, n.entries...)
		n.buf, n.entries = nil, nil
	}
	if err := p.send(ctx, d); err != nil {
		return err
	}
	return p.send(ctx, n)
}
