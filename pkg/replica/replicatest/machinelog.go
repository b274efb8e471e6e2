package replicatest

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"

	"github.com/farshore/farshore/pkg/replica/objects"
)

// logFile is a file that is written in place: what is durable, and what was done since.
type logFile struct {
	now, synced []byte
	pending     []logChange
}

type logChange struct {
	off  int64
	data []byte
	size int64 // where there is no data: the size that the file is cut to
}

// crash keeps any part of what was not synced, sector by sector, in order; sectors that lie beyond a lost one leave a hole.
func (l *logFile) crash(r *rand.Rand) {
	l.now = slices.Clone(l.synced)
	for _, c := range l.pending {
		if c.data == nil {
			if r.IntN(2) == 0 && int64(len(l.now)) > c.size {
				l.now = l.now[:c.size]
			}
			continue
		}
		for at := int64(0); at < int64(len(c.data)); {
			n := min(sector-(c.off+at)%sector, int64(len(c.data))-at)
			if r.IntN(2) == 0 {
				l.write(c.off+at, c.data[at:at+n])
			}
			at += n
		}
	}
	l.synced, l.pending = slices.Clone(l.now), nil
}

func (l *logFile) write(off int64, data []byte) {
	if end := off + int64(len(data)); end > int64(len(l.now)) {
		l.now = append(l.now, make([]byte, end-int64(len(l.now)))...)
	}
	copy(l.now[off:], data)
}

// List implements replica.FS.
func (m *Machine) List(dir string) (names []string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return nil, ErrCrashed
	}
	for name := range m.files {
		if filepath.Dir(name) == dir {
			names = append(names, filepath.Base(name))
		}
	}
	slices.Sort(names)
	return names, nil
}

// Remove implements replica.FS.
func (m *Machine) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.step("remove " + name)
	if err != nil && (!m.dead || m.rand.IntN(2) == 0) {
		return err
	}
	if m.files[name] == nil && err == nil {
		return fmt.Errorf("remove %s: %w", name, fs.ErrNotExist)
	}
	delete(m.files, name)
	return err
}

// OpenLog implements replica.FS.
func (m *Machine) OpenLog(name string, blank bool) (objects.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.step("open " + name); err != nil {
		return nil, err
	}
	n := m.files[name]
	switch {
	case n == nil && !blank:
		return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
	case n == nil:
		n = &inode{log: new(logFile)}
		m.files[name] = n
	case blank:
		n.log.now = nil
		n.log.pending = append(n.log.pending, logChange{size: 0})
	}
	return &machineLog{m, n.log, name}, nil
}

// machineLog is an open log on a Machine.
type machineLog struct {
	m    *Machine
	l    *logFile
	name string
}

var _ objects.File = (*machineLog)(nil)

// ReadAt implements objects.File.
func (f *machineLog) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.m.dead {
		return 0, ErrCrashed
	}
	if off >= int64(len(f.l.now)) {
		return 0, io.EOF
	}
	n := copy(p, f.l.now[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements objects.File. One that fails may have written a part.
func (f *machineLog) WriteAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	err := f.m.step("write " + f.name)
	if err != nil {
		p = p[:f.m.rand.IntN(len(p)+1)]
	}
	if len(p) > 0 {
		f.l.write(off, p)
		f.l.pending = append(f.l.pending, logChange{off: off, data: slices.Clone(p)})
	}
	return len(p), err
}

// Sync implements objects.File. One that fails may have made any part durable; the machine forgets which, as a kernel does.
func (f *machineLog) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.m.step("sync " + f.name); err != nil {
		if !f.m.dead {
			kept := slices.Clone(f.l.now)
			f.l.crash(f.m.rand)
			f.l.now = kept // the page cache still shows what may never have reached the disk
		}
		return err
	}
	f.l.synced, f.l.pending = slices.Clone(f.l.now), nil
	return nil
}

// Truncate implements objects.File.
func (f *machineLog) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.m.step("truncate " + f.name); err != nil {
		return err
	}
	if int64(len(f.l.now)) > size {
		f.l.now = f.l.now[:size]
	}
	f.l.pending = append(f.l.pending, logChange{size: size})
	return nil
}

// Close implements objects.File.
func (f *machineLog) Close() error { return nil }
