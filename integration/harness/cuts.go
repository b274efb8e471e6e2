package harness

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// Cuts is what CheckCuts found.
type Cuts struct {
	Commits int // of all volumes, each a consistent cut
	Lost    int // name history that a new generation left behind
	Began   int // generations begun after the first, over all parts
}

// CheckCuts reads the group's streams at site, mirrors or origins, from their start to the last
// commit, over every generation, and checks the cut of every commit that can be reached: what it leaves on
// the volumes is, of every chain, what the counters 0 to k leave, for some k.
func (p *Pair) CheckCuts(ctx context.Context, site *journal.Site) (Cuts, error) {
	p.t.Helper()
	history, err := readHistory(ctx, site)
	if err != nil {
		return Cuts{}, err
	}
	w := &walker{layout: p.layout(len(p.counted)), size: p.options.Size, site: site, history: history, volumes: map[string]*image{}}
	defer w.close()
	cuts := Cuts{}
	for _, part := range history {
		cuts.Began += part.began
	}
	control := &place{path: history[journal.Control].path}
	defer control.close()
	for {
		m, ok, err := control.next(ctx, site, journal.Control)
		if err != nil || !ok {
			return cuts, err
		}
		c, isCommit := m.Event.(*events.Commit)
		if !isCommit {
			continue
		}
		if !history.reaches(c) {
			cuts.Lost++
			continue
		}
		if err := w.advance(ctx, c); err != nil {
			return cuts, fmt.Errorf("go to the commit of barrier %d: %w", c.Token.Barrier, err)
		}
		if !p.whole(volumesOf(c)) {
			continue
		}
		if err := w.check(); err != nil {
			return cuts, fmt.Errorf("commit of barrier %d: %w", c.Token.Barrier, err)
		}
		cuts.Commits++
	}
}

// whole tells whether a cut holds all volumes that chains write to. Before all have joined, and after one left,
// a chain's counters on it are missing.
func (p *Pair) whole(volumes []string) bool {
	for i := range p.options.Volumes {
		if !slices.Contains(volumes, Volume(i)) {
			return false
		}
	}
	return true
}

func volumesOf(c *events.Commit) (out []string) {
	for _, e := range c.Vector {
		out = append(out, e.Volume)
	}
	return out
}

// history is the way through the generations of each part.
type history map[string]*part

type part struct {
	path  []generation // those that can be reached, oldest first
	began int          // generations that exist beyond the first
}

// generation is a stretch of a part's way: its stream up to a sequence.
type generation struct {
	id    journal.StreamID
	blank bool   // it begins with a blank volume
	end   uint64 // last sequence on the way
}

func readHistory(ctx context.Context, site *journal.Site) (history, error) {
	streams, err := site.Streams(ctx, Group)
	if err != nil {
		return nil, err
	}
	ids := make(map[string]map[uint32]journal.StreamID)
	for _, s := range streams {
		if ids[s.ID.Part] == nil {
			ids[s.ID.Part] = make(map[uint32]journal.StreamID)
		}
		ids[s.ID.Part][s.ID.Generation] = s.ID
	}
	if ids[journal.Control] == nil {
		return nil, fmt.Errorf("no control stream of group %s", Group)
	}
	h := make(history)
	// The control stream first: what its commits name is then in the others.
	for _, name := range append([]string{journal.Control}, slices.Collect(maps.Keys(ids))...) {
		if h[name] != nil {
			continue
		}
		if h[name], err = readPart(ctx, site, ids[name]); err != nil {
			return nil, fmt.Errorf("history of %s: %w", name, err)
		}
	}
	return h, nil
}

// readPart follows the bases from the newest generation back.
func readPart(ctx context.Context, site *journal.Site, ids map[uint32]journal.StreamID) (*part, error) {
	number := slices.Max(slices.Collect(maps.Keys(ids)))
	p := &part{began: int(number) - 1}
	end := ^uint64(0)
	for {
		id, ok := ids[number]
		if !ok {
			return nil, fmt.Errorf("generation %d is the base of a later one, and is not here", number)
		}
		r, err := openAt(ctx, site, id, 1)
		if err != nil {
			return nil, err
		}
		m, err := r.Next(ctx)
		r.Close()
		if err != nil {
			return nil, fmt.Errorf("first event of %s: %w", id.Name(), err)
		}
		epoch, ok := m.Event.(*events.Epoch)
		if !ok {
			return nil, fmt.Errorf("%s begins with a %T", id.Name(), m.Event)
		}
		stored, err := lastSeq(ctx, site, id)
		if err != nil {
			return nil, err
		}
		if end != ^uint64(0) && stored < end && id.Part != journal.Control {
			p.path = nil // what was built on is at the replica and no longer in the mirror: nothing behind it can be read
		}
		p.path = append(p.path, generation{id: id, blank: epoch.Base == nil, end: min(end, stored)})
		if epoch.Base == nil {
			slices.Reverse(p.path)
			return p, nil
		}
		number, end = epoch.Base.Generation, epoch.Base.Seq
	}
}

// reaches tells whether all that a commit's vector names lies on the way.
func (h history) reaches(c *events.Commit) bool {
	for _, e := range c.Vector {
		p := h[e.Volume]
		if p == nil || !slices.ContainsFunc(p.path, func(g generation) bool {
			return g.id.Generation == e.Position.Generation && e.Position.Seq <= g.end
		}) {
			return false
		}
	}
	return true
}

// place is how far a part's way was gone.
type place struct {
	path   []generation
	seq    uint64 // of path[0]
	reader reader
}

type reader interface {
	Next(ctx context.Context) (journal.Message, error)
	Close()
}

func (p *place) close() {
	if p.reader != nil {
		p.reader.Close()
		p.reader = nil
	}
}

// next returns the next event on the way; ok is false at its end.
func (p *place) next(ctx context.Context, site *journal.Site, part string) (m journal.Message, ok bool, err error) {
	for len(p.path) > 0 && p.seq >= p.path[0].end {
		p.close()
		p.path, p.seq = p.path[1:], 0
	}
	if len(p.path) == 0 {
		return m, false, nil
	}
	if p.reader == nil {
		if p.reader, err = openAt(ctx, site, p.path[0].id, 1); err != nil {
			return m, false, err
		}
	}
	if m, err = p.reader.Next(ctx); err != nil {
		return m, false, fmt.Errorf("read %s: %w", p.path[0].id.Name(), err)
	}
	p.seq = m.Seq
	return m, true, nil
}

// image is what a volume's slots hold: the counter plus one, and its chain above; 0: none.
type image struct {
	place
	slots   []uint64
	content []byte // everything, where the walker wants it
}

const chainShift = 48

type walker struct {
	layout  layout
	size    int64
	whole   bool // the volumes' content is wanted, not the slots alone
	site    *journal.Site
	history history
	volumes map[string]*image
	buffer  []byte
}

func (w *walker) close() {
	for _, v := range w.volumes {
		v.close()
	}
}

func (w *walker) advance(ctx context.Context, c *events.Commit) error {
	for _, e := range c.Vector {
		v := w.volumes[e.Volume]
		if v == nil {
			v = &image{place: place{path: w.history[e.Volume].path}, slots: make([]uint64, w.size/2/slot)}
			if w.whole {
				v.content = []byte{} // the first event tells its size
			}
			w.volumes[e.Volume] = v
		}
		for {
			if len(v.path) > 0 && v.path[0].id.Generation == e.Position.Generation && v.seq >= e.Position.Seq {
				break
			}
			m, ok, err := v.next(ctx, w.site, e.Volume)
			if err != nil {
				return err
			}
			if !ok {
				return fmt.Errorf("%s ends before %d of generation %d", e.Volume, e.Position.Seq, e.Position.Generation)
			}
			if m.Seq == 1 && v.path[0].blank {
				clear(v.slots)
				clear(v.content)
			}
			switch e := m.Event.(type) {
			case *events.Frame:
				if err := w.frame(v, e); err != nil {
					return err
				}
			case *events.Epoch:
				v.grow(e.Size)
			case *events.Resize:
				v.grow(e.New)
			}
			if v.path[0].id.Generation == e.Position.Generation && m.Seq == e.Position.Seq {
				if mark, ok := m.Event.(*events.Mark); !ok || mark.Token != c.Token {
					return fmt.Errorf("the vector names %s %d, which is no mark of it", e.Volume, m.Seq)
				}
			}
		}
	}
	return nil
}

func (w *walker) frame(v *image, f *events.Frame) error {
	if w.buffer == nil {
		w.buffer = make([]byte, 0, 1<<20)
	}
	content, err := f.Content(w.buffer)
	if err != nil {
		return err
	}
	for _, op := range f.Ops {
		var data []byte
		if op.Kind == events.OpWrite {
			data, content = content[:op.Length], content[op.Length:]
		}
		v.put(op.Offset, op.Length, data)
	}
	return nil
}

// grow gives the content, where it is wanted, a size; it never shrinks.
func (v *image) grow(size int64) {
	if v.content != nil {
		v.content = append(v.content, make([]byte, max(0, size-int64(len(v.content))))...)
	}
}

// put writes data, or zeroes, to the slots of a volume that lie in the range as a whole.
func (v *image) put(off, length int64, data []byte) {
	if v.content != nil && copy(v.content[off:off+length], data) == 0 {
		clear(v.content[off : off+length])
	}
	for at := (off + slot - 1) / slot * slot; at+slot <= off+length && at/slot < int64(len(v.slots)); at += slot {
		v.slots[at/slot] = 0
		if data != nil {
			v.slots[at/slot] = packed(data[at-off:])
		}
	}
}

func packed(b []byte) uint64 {
	if binary.LittleEndian.Uint64(b) != magic {
		return 0
	}
	return binary.LittleEndian.Uint64(b[8:])<<chainShift | binary.LittleEndian.Uint64(b[16:]) + 1
}

func (w *walker) check() error {
	slots := make([][]uint64, w.layout.volumes)
	for i := range slots {
		v := w.volumes[Volume(i)]
		if v == nil {
			return fmt.Errorf("%s is not in the cut", Volume(i))
		}
		slots[i] = v.slots
	}
	return w.layout.check(slots)
}

// check tells whether the slots of all volumes hold, of every chain, what the counters 0 to k leave.
func (l layout) check(slots [][]uint64) error {
	for chain := range l.chains {
		k := int64(-1)
		for _, s := range slots {
			for _, x := range s[chain*l.slots : (chain+1)*l.slots] {
				k = max(k, int64(x&(1<<chainShift-1))-1)
			}
		}
		for v, s := range slots {
			for j := range l.slots {
				want := uint64(0)
				if n := l.newest(int64(v), j, k); n >= 0 {
					want = uint64(chain)<<chainShift | uint64(n) + 1
				}
				if is := s[chain*l.slots+j]; is != want {
					return fmt.Errorf("chain %d: the cut holds counter %d; %s has counter %d of chain %d where %d should be",
						chain, k, Volume(v), int64(is&(1<<chainShift-1))-1, is>>chainShift, int64(want&(1<<chainShift-1))-1)
				}
			}
		}
	}
	return nil
}

// checkImages checks the cut that the images of all volumes are.
func (p *Pair) checkImages(paths []string) error {
	slots := make([][]uint64, len(paths))
	for i, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		b := make([]byte, slot)
		for off := int64(0); off < p.options.Size/2; off += slot {
			if _, err := f.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			slots[i] = append(slots[i], packed(b))
		}
	}
	return p.layout(len(p.counted)).check(slots)
}

// lastSeq returns where a stream ends at a site, which has the origin or a mirror of it.
func lastSeq(ctx context.Context, site *journal.Site, id journal.StreamID) (uint64, error) {
	if m, err := site.Mirror(ctx, id); err == nil {
		return m.End(), nil
	}
	tail, err := site.Tail(ctx, id.Name())
	return tail.Last, err
}

func openAt(ctx context.Context, site *journal.Site, id journal.StreamID, from uint64) (reader, error) {
	r, err := site.OpenMirror(ctx, id, from)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return site.OpenReader(ctx, id.Name(), from)
	}
	return r, err
}
