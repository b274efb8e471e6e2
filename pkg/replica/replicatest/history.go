package replicatest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// History makes up the streams of a group and keeps what its volumes hold at every commit. It is made
// by one goroutine; State may be called by others.
type History struct {
	Group   string
	Commits []*events.Commit
	States  []map[string][]byte // what the volumes hold at each commit

	// Clock dates commits; nil is a clock that advances by a second from one to the next.
	Clock func() time.Time

	// Sink stores an event of a volume and returns its sequence.
	Sink func(volume string, e events.Event) (uint64, error)

	mu        sync.Mutex // guards Commits, States and objectsAt
	objects   *churn
	objectsAt []Objects // what the objects are at each commit

	rand    *rand.Rand
	volumes map[string][]byte
	member  map[string]bool
	renewed map[string]uint32 // generations behind the first one, by part
	uids    map[string]string // of volumes that were replaced
	barrier uint64
	clock   time.Time
}

// NewHistory returns a History that is made from a seed.
func NewHistory(group string, seed uint64, sink func(volume string, e events.Event) (uint64, error)) *History {
	return &History{
		Group: group, Sink: sink, rand: rand.New(rand.NewPCG(seed, 7)), volumes: make(map[string][]byte),
		objects: newChurn(seed), member: make(map[string]bool), renewed: make(map[string]uint32), uids: make(map[string]string), clock: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

// MemoryHistory returns a History whose streams are in memory, with one writer for each.
func MemoryHistory(group string, seed uint64) (*History, *Memory) {
	m := NewMemory()
	epochs := make(map[journal.StreamID]uint64)
	var h *History
	h = NewHistory(group, seed, func(volume string, e events.Event) (uint64, error) {
		id := h.ID(volume)
		if e.Kind() == events.KindEpoch {
			epochs[id]++
		}
		h.clock = h.clock.Add(time.Millisecond)
		return m.Append(id, events.Header{Epoch: epochs[id], Time: h.clock}, e)
	})
	return h, m
}

// ID returns the newest stream of a part.
func (h *History) ID(part string) journal.StreamID {
	return journal.StreamID{Group: h.Group, Part: part, Generation: 1 + h.renewed[part]}
}

// UID returns the identity that a volume has in the history, unless it is replaced.
func UID(volume string) string { return "uid-" + volume }

// UID returns the identity that a volume has now.
func (h *History) UID(volume string) string {
	if volume == journal.Objects {
		return ""
	}
	if uid := h.uids[volume]; uid != "" {
		return uid
	}
	return UID(volume)
}

// Epoch returns the event that opens a writer's tenure of a volume.
func (h *History) Epoch(volume string) *events.Epoch {
	if volume == journal.Objects {
		return &events.Epoch{Writer: fmt.Sprintf("writer-%d", h.rand.Uint32())}
	}
	return &events.Epoch{Writer: fmt.Sprintf("writer-%d", h.rand.Uint32()), UID: h.UID(volume), Size: int64(len(h.volumes[volume])), BlockSize: 512}
}

// BaseAt returns a volume's place in a commit, as a new generation names it; nil is no commit.
func BaseAt(volume string, c *events.Commit) *events.Base {
	if c == nil {
		return nil
	}
	for _, e := range c.Vector {
		if e.Volume == volume {
			return &events.Base{Generation: e.Position.Generation, Seq: e.Position.Seq, Barrier: c.Token.Barrier}
		}
	}
	return nil
}

// Renewed makes ID name the next generation of a part.
func (h *History) Renewed(part string) { h.renewed[part]++ }

// Renew begins a new generation of a volume on its state at a commit, or, with nil, on a blank one. What the old
// generation got behind that is lost; what the volume holds is sent again where it differs.
func (h *History) Renew(volume string, c *events.Commit) error {
	h.Renewed(volume)
	e := h.Epoch(volume)
	e.Base = BaseAt(volume, c)
	if _, err := h.Sink(volume, e); err != nil {
		return err
	}
	return h.Resend(volume, c)
}

// Resend appends what a volume holds and did not at a commit, and the end of the pass.
func (h *History) Resend(volume string, c *events.Commit) error {
	if c == nil {
		return h.Seed(volume)
	}
	const unit = 4 << 10
	v, old := h.volumes[volume], h.State(c.Token.Barrier)[volume]
	old = append(slices.Clone(old), make([]byte, len(v)-len(old))...)
	for off := 0; off < len(v); off += unit {
		region := v[off:min(off+unit, len(v))]
		if bytes.Equal(region, old[off:off+len(region)]) {
			continue
		}
		if err := h.Write(volume, int64(off), region); err != nil {
			return err
		}
	}
	_, err := h.Sink(volume, &events.PassDone{Pass: events.PassResync})
	return err
}

// Replace makes a blank volume of another identity take a volume's place, in a generation of its own.
func (h *History) Replace(volume string, size int64) error {
	h.Replaced(volume, size)
	return h.Renew(volume, nil)
}

// Replaced makes a blank volume of another identity take a volume's place; no stream has it yet.
func (h *History) Replaced(volume string, size int64) {
	h.uids[volume] = fmt.Sprintf("%s-%d", UID(volume), h.renewed[volume]+2)
	h.volumes[volume] = make([]byte, size)
}

// Add makes a blank volume known; opened tells that its Epoch is in the stream already.
func (h *History) Add(volume string, size int64, opened bool) error {
	h.volumes[volume] = make([]byte, size)
	if opened {
		return nil
	}
	_, err := h.Sink(volume, h.Epoch(volume))
	return err
}

// Join makes a volume, or journal.Objects, a member from the next commit on.
func (h *History) Join(volume string) { h.member[volume] = true }

// Leave takes a volume out of the commits.
func (h *History) Leave(volume string) { delete(h.member, volume) }

// Content returns what a volume holds now.
func (h *History) Content(volume string) []byte { return h.volumes[volume] }

// Frame appends a frame of up to so many random operations.
func (h *History) Frame(volume string, most int) error {
	v := h.volumes[volume]
	var ops []events.Op
	var content []byte
	for range 1 + h.rand.IntN(most) {
		off := h.rand.Int64N(int64(len(v))/512) * 512
		n := min(512*(1+h.rand.Int64N(16)), int64(len(v))-off)
		if len(ops) > 0 && h.rand.IntN(3) == 0 { // behind the one before, as file systems write
			last := ops[len(ops)-1]
			if off = last.Offset + last.Length; off >= int64(len(v)) {
				off = 0
			}
			n = min(n, int64(len(v))-off)
		}
		kind := events.OpWrite
		if h.rand.IntN(4) == 0 {
			kind = events.OpZero + events.OpKind(h.rand.IntN(2))
		}
		ops = append(ops, events.Op{Kind: kind, Offset: off, Length: n})
		if kind != events.OpWrite {
			clear(v[off : off+n])
			continue
		}
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(h.rand.Uint32() & 3) // compresses a little
		}
		copy(v[off:], data)
		content = append(content, data...)
	}
	f, err := events.NewFrame(ops, content, events.Compression(h.rand.IntN(2)))
	if err != nil {
		return err
	}
	_, err = h.Sink(volume, f)
	return err
}

// Write appends a frame with one write.
func (h *History) Write(volume string, off int64, data []byte) error {
	copy(h.volumes[volume][off:], data)
	f, err := events.NewFrame([]events.Op{{Kind: events.OpWrite, Offset: off, Length: int64(len(data))}}, slices.Clone(data), events.Uncompressed)
	if err != nil {
		return err
	}
	_, err = h.Sink(volume, f)
	return err
}

// Seed appends a whole pass over a volume and its end.
func (h *History) Seed(volume string) error {
	v := h.volumes[volume]
	for off := 0; off < len(v); off += events.MaxContent {
		region := v[off:min(off+events.MaxContent, len(v))]
		f, err := events.NewFrame([]events.Op{{Kind: events.OpWrite, Offset: int64(off), Length: int64(len(region))}}, slices.Clone(region), events.S2)
		if err != nil {
			return err
		}
		if _, err := h.Sink(volume, f); err != nil {
			return err
		}
	}
	_, err := h.Sink(volume, &events.PassDone{Pass: events.PassSeed, Regions: 1, Bytes: uint64(len(v))})
	return err
}

// Hash appends the hash of a region.
func (h *History) Hash(volume string, off, length int64) error {
	_, err := h.Sink(volume, &events.RegionHash{Offset: off, Length: length, Hash: sha256.Sum256(h.volumes[volume][off : off+length])})
	return err
}

// Resize lets a volume grow.
func (h *History) Resize(volume string, size int64) error {
	v := h.volumes[volume]
	_, err := h.Sink(volume, &events.Resize{Old: int64(len(v)), New: size})
	h.volumes[volume] = append(v, make([]byte, size-int64(len(v)))...)
	return err
}

// Commit cuts all members and keeps what they hold.
func (h *History) Commit(label string) (*events.Commit, error) {
	h.barrier++
	h.clock = h.clock.Add(time.Second)
	if h.Clock != nil {
		h.clock = h.Clock()
	}
	c := &events.Commit{Token: events.Token{Epoch: 1, Barrier: h.barrier}, Type: events.Crash, Label: label, Time: h.clock, Roster: 1}
	if label != "" {
		c.Type = events.Labeled
	}
	state, objects := make(map[string][]byte), Objects(nil)
	for _, volume := range slices.Sorted(maps.Keys(h.member)) {
		mark := &events.Mark{Token: c.Token}
		if volume == journal.Objects {
			c.Revision = fmt.Sprint(h.objects.revision)
			mark.Revision = c.Revision
		}
		seq, err := h.Sink(volume, mark)
		if err != nil {
			return nil, err
		}
		if volume == journal.Objects {
			c.Objects, objects = &events.Position{Generation: h.ID(volume).Generation, Seq: seq}, h.objects.clone()
			continue
		}
		c.Vector = append(c.Vector, events.VectorEntry{Volume: volume, Position: events.Position{Generation: h.ID(volume).Generation, Seq: seq}})
		state[volume] = slices.Clone(h.volumes[volume])
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Commits, h.States, h.objectsAt = append(h.Commits, c), append(h.States, state), append(h.objectsAt, objects)
	return c, nil
}

// PassBarrier leaves a barrier out, as one that was tried and not committed, or that the test made up.
func (h *History) PassBarrier() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.barrier++
	h.clock = h.clock.Add(time.Second)
	h.Commits, h.States, h.objectsAt = append(h.Commits, nil), append(h.States, nil), append(h.objectsAt, nil)
}

// State returns what the volumes hold at a barrier.
func (h *History) State(barrier uint64) map[string][]byte {
	if barrier == 0 {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.States[barrier-1]
}
