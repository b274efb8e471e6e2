package sqlitevol_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// memory is a device in memory that logs what it is told.
type memory struct {
	content []byte
	log     []entry
}

type entry struct {
	off   int64
	data  []byte // nil: a flush
	flush bool
}

func newMemory(size int64) *memory { return &memory{content: make([]byte, size)} }

func (m *memory) Size() int64 { return int64(len(m.content)) }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > m.Size() {
		return 0, fmt.Errorf("read of %d bytes at %d leaves the device", len(p), off)
	}
	return copy(p, m.content[off:]), nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > m.Size() {
		return 0, fmt.Errorf("write of %d bytes at %d leaves the device", len(p), off)
	}
	m.log = append(m.log, entry{off: off, data: slices.Clone(p)})
	return copy(m.content[off:], p), nil
}

func (m *memory) Flush() error {
	m.log = append(m.log, entry{flush: true})
	return nil
}

// prefix is what a device holds that got the first n entries of the log.
func (m *memory) prefix(n int) *memory {
	d := newMemory(m.Size())
	for _, e := range m.log[:n] {
		copy(d.content[e.off:], e.data)
	}
	return d
}

// powerLoss is what a device holds whose power failed behind the first n entries: everything up to
// the last flush, and of what came behind it what chance kept, in whole sectors.
func (m *memory) powerLoss(n int, r *rand.Rand) *memory {
	d := newMemory(m.Size())
	flushed := 0
	for i, e := range m.log[:n] {
		if e.flush {
			flushed = i
		}
	}
	for i, e := range m.log[:n] {
		if i < flushed {
			copy(d.content[e.off:], e.data)
			continue
		}
		const sector = 512
		for from := int64(0); from < int64(len(e.data)); {
			to := min(int64(len(e.data)), ((e.off+from)/sector+1)*sector-e.off)
			if r.IntN(2) == 0 {
				copy(d.content[e.off+from:], e.data[from:to])
			}
			from = to
		}
	}
	return d
}
