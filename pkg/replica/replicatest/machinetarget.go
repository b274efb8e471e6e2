package replicatest

import (
	"fmt"
	"slices"
	"syscall"

	"github.com/farshore/farshore/pkg/replica"
)

// OpenTarget opens a replica on the machine, for replica.Options.
func (m *Machine) OpenTarget(spec replica.TargetSpec) (replica.Target, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.step("open " + spec.Path); err != nil {
		return nil, err
	}
	d := m.disks[spec.Path]
	switch {
	case spec.Blank:
		d = &disk{now: make([]byte, spec.Size), synced: make([]byte, spec.Size)}
		m.disks[spec.Path] = d
	case d == nil || int64(len(d.now)) < spec.Size:
		return nil, fmt.Errorf("open %s: %w", spec.Path, replica.ErrForeign)
	}
	return &target{m: m, d: d, name: spec.Volume, size: spec.Size}, nil
}

// target is a replica on a Machine.
type target struct {
	m    *Machine
	d    *disk
	name string
	size int64
}

var _ replica.Target = (*target)(nil)

// ReadAt implements replica.Target.
func (t *target) ReadAt(p []byte, off int64) (int, error) {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	if t.m.dead {
		return 0, ErrCrashed
	}
	if err := t.inside(off, int64(len(p))); err != nil {
		return 0, err
	}
	return copy(p, t.d.now[off:]), nil
}

func (t *target) inside(off, n int64) error {
	if off < 0 || n < 0 || off > t.size || n > t.size-off {
		return fmt.Errorf("range of %d bytes at %d: %w", n, off, syscall.EINVAL)
	}
	return nil
}

// change does a change, or, where the step fails, any part of it.
func (t *target) change(name string, off int64, data []byte) error {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	if err := t.inside(off, int64(len(data))); err != nil {
		return err
	}
	err := t.m.step(name + " " + t.name)
	if err != nil && t.m.dead {
		data = nil
	} else if err != nil {
		data = data[:t.m.rand.IntN(len(data)+1)]
	}
	copy(t.d.now[off:], data)
	t.d.pending = append(t.d.pending, change{off: off, data: slices.Clone(data)})
	return err
}

// WriteAt implements replica.Target.
func (t *target) WriteAt(p []byte, off int64) (int, error) {
	if err := t.change("write", off, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Zero implements replica.Target.
func (t *target) Zero(off, length int64) error {
	if err := t.inside(off, length); err != nil {
		return err
	}
	return t.change("zero", off, make([]byte, length))
}

// Trim implements replica.Target.
func (t *target) Trim(off, length int64) error {
	if err := t.inside(off, length); err != nil {
		return err
	}
	return t.change("trim", off, make([]byte, length))
}

// Reserve implements replica.Target.
func (t *target) Reserve(extents []replica.Extent) error {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	end := int64(0)
	for _, e := range extents {
		if err := t.inside(e.Offset, e.Length); err != nil {
			return err
		}
		if e.Offset < end {
			return fmt.Errorf("extents overlap or are not sorted: %w", syscall.EINVAL)
		}
		end = e.Offset + e.Length
	}
	return t.m.step("reserve " + t.name)
}

// Resize implements replica.Target.
func (t *target) Resize(size int64) error {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	if size < t.size {
		return syscall.EINVAL
	}
	if err := t.m.step("resize " + t.name); err != nil {
		return err
	}
	d := t.d
	clear(d.now[t.size:])
	d.now = append(d.now[:t.size], make([]byte, size-t.size)...)
	d.pending = append(d.pending, change{size: size}, change{off: t.size, data: make([]byte, size-t.size)})
	t.size = size
	return nil
}

// Size implements replica.Target.
func (t *target) Size() int64 { return t.size }

// Sync implements replica.Target. One that fails may have made any part durable; the machine forgets
// which, as a kernel does.
func (t *target) Sync() error {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	if err := t.m.step("sync target " + t.name); err != nil {
		if !t.m.dead {
			kept := slices.Clone(t.d.now)
			t.d.crash(t.m.rand)
			copy(t.d.now, kept) // the page cache still shows what may never have reached the disk
		}
		return err
	}
	t.d.synced, t.d.pending = slices.Clone(t.d.now), nil
	return nil
}

// Close implements replica.Target.
func (t *target) Close() error { return nil }
