package archiver

import (
	"io"
	"sync"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/replica"
)

// overlay is a target over an image that isn't changed: what is written goes to an upper file, which has whole chunks. It lives
// as long as one attempt to build a point, so nothing of it is made durable.
type overlay struct {
	upper replica.Target
	image io.ReaderAt // nil: zeros
	below int64       // bytes of image

	mu  sync.RWMutex // held shared to read, alone to change anything
	own *grid.Set    // chunks that upper has
}

var _ replica.Target = (*overlay)(nil)

// newOverlay puts upper, which reads as zero, over an image of below bytes.
func newOverlay(upper replica.Target, image io.ReaderAt, below int64) *overlay {
	return &overlay{upper: upper, image: image, below: below, own: grid.New(upper.Size())}
}

// inside tells whether a range lies inside the volume; the errors for others are the upper file's.
func (o *overlay) inside(off, length int64) bool {
	size := o.upper.Size()
	return off >= 0 && length > 0 && off <= size && length <= size-off
}

// ReadAt implements replica.Target.
func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if !o.inside(off, int64(len(p))) {
		return o.upper.ReadAt(p, off)
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		first, end := at/grid.Chunk, grid.Count(off+int64(len(p)))
		last := first + 1
		for last < end && o.own.Has(last) == o.own.Has(first) {
			last++
		}
		run := p[done:min(int64(len(p)), last*grid.Chunk-off)]
		var err error
		if o.own.Has(first) {
			_, err = o.upper.ReadAt(run, at)
		} else {
			err = o.readBelow(run, at)
		}
		if err != nil {
			return done, err
		}
		done += len(run)
	}
	return len(p), nil
}

// readBelow reads from the image, behind whose end there are zeros.
func (o *overlay) readBelow(p []byte, off int64) error {
	n := int64(0)
	if o.image != nil {
		n = max(0, min(int64(len(p)), o.below-off))
	}
	clear(p[n:])
	if n == 0 {
		return nil
	}
	got, err := o.image.ReadAt(p[:n], off)
	if int64(got) == n {
		return nil
	}
	return err
}

// take makes the chunks of a range the upper file's. What of them the range doesn't cover is copied.
func (o *overlay) take(off, length int64) error {
	for c := off / grid.Chunk; c < grid.Count(off+length); c++ {
		if o.own.Has(c) {
			continue
		}
		from := c * grid.Chunk
		to := min(from+grid.Chunk, o.upper.Size())
		if off > from || off+length < to {
			buf := make([]byte, to-from)
			if err := o.readBelow(buf, from); err != nil {
				return err
			}
			if _, err := o.upper.WriteAt(buf, from); err != nil {
				return err
			}
		}
		o.own.Add(c)
	}
	return nil
}

// WriteAt implements replica.Target.
func (o *overlay) WriteAt(p []byte, off int64) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.inside(off, int64(len(p))) {
		if err := o.take(off, int64(len(p))); err != nil {
			return 0, err
		}
	}
	return o.upper.WriteAt(p, off)
}

// Zero implements replica.Target.
func (o *overlay) Zero(off, length int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.inside(off, length) {
		if err := o.take(off, length); err != nil {
			return err
		}
	}
	return o.upper.Zero(off, length)
}

// Trim implements replica.Target.
func (o *overlay) Trim(off, length int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.inside(off, length) {
		if err := o.take(off, length); err != nil {
			return err
		}
	}
	return o.upper.Trim(off, length)
}

// Reserve implements replica.Target. What of chunks has to be copied takes more than is reserved; a build that finds no room is
// tried again.
func (o *overlay) Reserve(extents []replica.Extent) error { return o.upper.Reserve(extents) }

// Resize implements replica.Target.
func (o *overlay) Resize(size int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if old := o.upper.Size(); size > old && old%grid.Chunk != 0 {
		if err := o.take(old-1, 1); err != nil { // it becomes another chunk, since it gets longer
			return err
		}
	}
	if err := o.upper.Resize(size); err != nil {
		return err
	}
	own := grid.New(size)
	for c := range o.own.All() {
		own.Add(c)
	}
	o.own = own
	return nil
}

// Size implements replica.Target.
func (o *overlay) Size() int64 { return o.upper.Size() }

// Sync implements replica.Target. A crash leaves nothing that anybody relies on.
func (o *overlay) Sync() error { return nil }

// Close implements replica.Target.
func (o *overlay) Close() error { return o.upper.Close() }
