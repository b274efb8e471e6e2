package replica

import (
	"context"
	"sync"

	"github.com/farshore/farshore/pkg/journal"
)

// Mirrors is the Source of a recovery site's mirrors. Readers that were closed at one position are kept
// and go on from there when the next Open asks for it. A Mirrors must be closed.
type Mirrors struct {
	site *journal.Site

	mu    sync.Mutex
	idle  map[journal.StreamID]*mirrorReader
	close bool
}

// NewMirrors returns the mirrors at site.
func NewMirrors(site *journal.Site) *Mirrors {
	return &Mirrors{site: site, idle: make(map[journal.StreamID]*mirrorReader)}
}

// MirrorName returns the name of the first incarnation of a stream's mirror.
func MirrorName(id journal.StreamID) string { return id.Mirror(1) }

// Name implements Source. Errors of a reader itself name the incarnation that it reads.
func (m *Mirrors) Name(id journal.StreamID) string { return MirrorName(id) }

// Open implements Source.
func (m *Mirrors) Open(ctx context.Context, id journal.StreamID, from uint64) (Reader, error) {
	m.mu.Lock()
	idle := m.idle[id]
	delete(m.idle, id)
	m.mu.Unlock()
	if idle != nil {
		if idle.next == from {
			return idle, nil
		}
		idle.Reader.Close()
	}
	r, err := m.site.OpenMirror(ctx, id, from)
	if err != nil {
		return nil, err
	}
	return &mirrorReader{Reader: r, mirrors: m, id: id, next: from}, nil
}

// Last implements Ends.
func (m *Mirrors) Last(ctx context.Context, id journal.StreamID) (uint64, error) {
	mirror, err := m.site.Mirror(ctx, id)
	if err != nil {
		return 0, err
	}
	return mirror.Last(), nil
}

// Close releases the readers that are kept, and every one that is closed later.
func (m *Mirrors) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.close = true
	for id, r := range m.idle {
		r.Reader.Close()
		delete(m.idle, id)
	}
}

// mirrorReader is a reader that goes back to its Mirrors when it is closed.
type mirrorReader struct {
	*journal.Reader
	mirrors *Mirrors
	id      journal.StreamID
	next    uint64
	failed  bool
}

// Next implements Reader.
func (r *mirrorReader) Next(ctx context.Context) (journal.Message, error) {
	m, err := r.Reader.Next(ctx)
	if err != nil {
		r.failed = true
		return m, err
	}
	r.next = m.Seq + 1
	return m, nil
}

// Close implements Reader.
func (r *mirrorReader) Close() {
	r.mirrors.mu.Lock()
	defer r.mirrors.mu.Unlock()
	if r.failed || r.mirrors.close || r.mirrors.idle[r.id] != nil {
		r.Reader.Close()
		return
	}
	r.mirrors.idle[r.id] = r
}
