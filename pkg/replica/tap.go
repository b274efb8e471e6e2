package replica

import (
	"slices"
	"sync"
	"sync/atomic"
)

// tap is the target of a volume as its set writes it. It lets snapshots keep what is about to be overwritten; without
// a snapshot that costs a load.
type tap struct {
	Target
	roomy func(error) bool // makes room by giving up snapshots, and tells whether there were any

	mu     sync.Mutex // held to change images
	images atomic.Pointer[[]*image]
}

func (s *Set) tapped(t Target) *tap { return &tap{Target: t, roomy: s.giveUpSnapshots} }

// attach lets an image keep what is overwritten from here on.
func (t *tap) attach(m *image) {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := append(slices.Clone(t.attached()), m)
	t.images.Store(&list)
}

// detach takes an image out again.
func (t *tap) detach(m *image) {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(t.attached()), func(other *image) bool { return other == m })
	t.images.Store(&list)
	if len(list) == 0 {
		t.images.Store(nil)
	}
}

func (t *tap) attached() []*image {
	if list := t.images.Load(); list != nil {
		return *list
	}
	return nil
}

// keep lets the images keep a range that is about to be changed.
func (t *tap) keep(off, length int64) {
	list := t.attached()
	if len(list) == 0 || forgets() {
		return
	}
	for _, m := range list {
		m.keep(t.Target, off, length)
	}
}

// retry calls f, and once more where it finds no room and snapshots have some to give.
func (t *tap) retry(f func() error) error {
	err := f()
	if noRoom(err) && t.roomy(err) {
		return f()
	}
	return err
}

// WriteAt implements Target.
func (t *tap) WriteAt(p []byte, off int64) (n int, err error) {
	t.keep(off, int64(len(p)))
	err = t.retry(func() error {
		n, err = t.Target.WriteAt(p, off)
		return err
	})
	return n, err
}

// Zero implements Target.
func (t *tap) Zero(off, length int64) error {
	t.keep(off, length)
	return t.retry(func() error { return t.Target.Zero(off, length) })
}

// Trim implements Target.
func (t *tap) Trim(off, length int64) error {
	t.keep(off, length)
	return t.retry(func() error { return t.Target.Trim(off, length) })
}

// Reserve implements Target.
func (t *tap) Reserve(list []Extent) error {
	return t.retry(func() error { return t.Target.Reserve(list) })
}

// Resize implements Target. What it changes lies behind every image's end.
func (t *tap) Resize(size int64) error {
	return t.retry(func() error { return t.Target.Resize(size) })
}

// Close implements Target. Images that still need what it holds are lost.
func (t *tap) Close() error {
	for _, m := range t.attached() {
		m.closed()
	}
	return t.Target.Close()
}
