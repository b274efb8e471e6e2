package replica

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/farshore/farshore/internal/grid"
)

// errRead says that a chunk was read before, or isn't wanted.
var errRead = errors.New("the snapshot doesn't keep this chunk: it was read already, or left out")

// image is a volume as it was when a snapshot was taken, while the set goes on writing it.
//
// A wanted chunk is in one of two sets: live, it is as it was in the target, or spilt, it was copied to a file before the target was
// changed there. It begins live and moves to spilt at most once; what is in the file doesn't change. A chunk that is in neither
// was read, or is not wanted.
//
// The writer, of which there is one, copies what is live and marks it as spilt before it changes the target. A reader reads what is
// live from the target, with no lock held, and looks afterwards. If the chunk is live still then, no change of it had begun when
// the read ended: the writer would have marked it before. If it is spilt, what was read may be torn, and the file has what it was. If it
// is in neither, another reader was given it meanwhile, from when on the writer didn't keep it: that is an error, as the first look would
// have been.
type image struct {
	snapshot *Snapshot
	tap      *tap
	size     int64
	spill    *os.File

	mu    sync.Mutex
	live  *grid.Set
	spilt *grid.Set
	left  int64 // chunks that are live

	buf []byte // of the writer
}

// copyRun bounds what is copied at once before it is overwritten.
const copyRun = 16 * grid.Chunk

func newImage(s *Snapshot, t *tap, size int64, spill *os.File) *image {
	return &image{
		snapshot: s, tap: t, size: size, spill: spill,
		live: grid.Full(size), spilt: grid.New(size), left: grid.Count(size),
	}
}

// keep copies what is live of a range that is about to be changed. Where that fails the snapshot is lost, and nothing else
// comes of it.
func (m *image) keep(from io.ReaderAt, off, length int64) {
	if length <= 0 || off >= m.size {
		return
	}
	end := min(grid.Count(off+length), grid.Count(m.size))
	for c := off / grid.Chunk; c < end; {
		first, n := m.liveRun(c, end)
		if n == 0 {
			return
		}
		if err := m.copy(from, first, n); err != nil {
			m.snapshot.lose(fmt.Errorf("keep what is overwritten: %w", err))
			return
		}
		m.mu.Lock()
		for i := first; i < first+n; i++ {
			if m.live.Has(i) { // else it was read meanwhile
				m.live.Remove(i)
				m.spilt.Add(i)
				m.left--
			}
		}
		m.mu.Unlock()
		c = first + n
	}
}

// liveRun returns the first run of live chunks in a range, not longer than is copied at once; n is 0: there is none.
func (m *image) liveRun(from, end int64) (first, n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left == 0 {
		return 0, 0
	}
	for first = from; first < end && !m.live.Has(first); first++ {
	}
	for first+n < end && n < copyRun/grid.Chunk && m.live.Has(first+n) {
		n++
	}
	return first, n
}

// copy copies chunks to the file, in which what is zero stays a hole.
func (m *image) copy(from io.ReaderAt, first, n int64) error {
	off := first * grid.Chunk
	length := min(n*grid.Chunk, m.size-off)
	if int64(len(m.buf)) < length {
		m.buf = make([]byte, length)
	}
	buf := m.buf[:length]
	if _, err := from.ReadAt(buf, off); err != nil {
		return err
	}
	for at := int64(0); at < length; at += grid.Chunk {
		chunk := buf[at:min(at+grid.Chunk, length)]
		if isZero(chunk) {
			continue
		}
		if _, err := m.spill.WriteAt(chunk, off+at); err != nil {
			return err
		}
	}
	return nil
}

// only leaves chunks out that are not in the set.
func (m *image) only(chunks *grid.Set) {
	m.mu.Lock()
	m.live.Intersect(chunks)
	m.left = m.live.Len()
	var drop []int64
	for c := range m.spilt.All() {
		if !chunks.Has(c) {
			drop = append(drop, c)
		}
	}
	for _, c := range drop {
		m.spilt.Remove(c)
	}
	m.mu.Unlock()
	for _, c := range drop {
		m.punch(c)
	}
}

// closed is called before the target is closed.
func (m *image) closed() {
	m.mu.Lock()
	left := m.left
	m.mu.Unlock()
	if left > 0 {
		m.snapshot.lose(errors.New("the replica was closed, or begun anew"))
	}
}

// release gives back what the image keeps.
func (m *image) release() error {
	m.tap.detach(m)
	m.mu.Lock()
	m.live, m.spilt, m.left = grid.New(m.size), grid.New(m.size), 0
	m.mu.Unlock()
	return m.spill.Close()
}

// chunkPlace is where a chunk is.
type chunkPlace int

const (
	placeNone chunkPlace = iota
	placeLive
	placeSpilt
)

func (m *image) at(c int64) chunkPlace {
	switch {
	case m.live.Has(c):
		return placeLive
	case m.spilt.Has(c):
		return placeSpilt
	}
	return placeNone
}

// ReadAt implements io.ReaderAt.
func (m *image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > m.size {
		return 0, inside(off, int64(len(p)), m.size)
	}
	want := p[:min(int64(len(p)), m.size-off)]
	done := 0
	for done < len(want) {
		n, err := m.readRun(want[done:], off+int64(done))
		done += n
		if err != nil {
			return done, fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// readRun reads from the front of a range what is in the same place.
func (m *image) readRun(p []byte, off int64) (int, error) {
	m.mu.Lock()
	first, end := off/grid.Chunk, grid.Count(off+int64(len(p)))
	where, last := m.at(first), first+1
	for last < end && m.at(last) == where {
		last++
	}
	m.mu.Unlock()
	p = p[:min(int64(len(p)), last*grid.Chunk-off)]
	switch where {
	case placeLive:
		if _, err := m.tap.Target.ReadAt(p, off); err != nil {
			return 0, err
		}
		return m.settle(p, off, placeLive)
	case placeSpilt:
		if err := m.readSpilt(p, off); err != nil {
			return 0, err
		}
		return m.settle(p, off, placeSpilt)
	}
	return 0, errRead
}

// readSpilt reads from the file, which ends behind the last chunk that isn't zero.
func (m *image) readSpilt(p []byte, off int64) error {
	n, err := m.spill.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		clear(p[n:])
		err = nil
	}
	return err
}

// settle looks where the chunks are that were read from a place, and returns how much of it is sound. Those that were read whole aren't
// kept any more.
func (m *image) settle(p []byte, off int64, from chunkPlace) (int, error) {
	m.mu.Lock()
	// A writer that finds the snapshot lost by another one goes on at once, perhaps before this image was released.
	if m.snapshot.lostErr() != nil {
		m.mu.Unlock()
		return 0, ErrSnapshotLost
	}
	var punched []int64
	n := 0
	for n < len(p) {
		at := off + int64(n)
		c := at / grid.Chunk
		now := m.at(c)
		if now != from {
			break // it was copied meanwhile, or given to somebody else: the next look tells
		}
		stop := min((c+1)*grid.Chunk, m.size)
		if at == c*grid.Chunk && off+int64(len(p)) >= stop {
			if from == placeLive {
				m.live.Remove(c)
				m.left--
			} else {
				m.spilt.Remove(c)
				punched = append(punched, c)
			}
		}
		n = int(min(stop-off, int64(len(p))))
	}
	m.mu.Unlock()
	for _, c := range punched {
		m.punch(c)
	}
	return n, nil
}

// punch gives the room of a chunk in the file back, as far as that can be done.
func (m *image) punch(c int64) {
	_ = fallocate(m.spill, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, c*grid.Chunk, grid.Chunk)
}
