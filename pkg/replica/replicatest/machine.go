package replicatest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"

	"github.com/farshore/farshore/pkg/replica"
)

// Machine is a file system and replicas on a simulated disk. It counts every step that changes
// something; at a chosen one it fails or crashes. What was not synced before a crash is there, is not,
// or is there in part.
type Machine struct {
	mu    sync.Mutex
	rand  *rand.Rand
	steps int
	plan  map[int]Fault
	dead  bool
	trace []string

	files   map[string]*inode // what a running system sees
	durable map[string]*inode // what a crash leaves for certain
	disks   map[string]*disk
	locks   map[string]bool
}

// Fault is what happens at a step.
type Fault struct {
	Err   error // the step fails with it, perhaps having done part of its work
	Crash bool  // the machine stops instead
}

// ErrCrashed is what everything fails with once the machine has crashed.
var ErrCrashed = errors.New("the machine has crashed")

var _ replica.FS = (*Machine)(nil)

type inode struct {
	content []byte
	synced  []byte
	whole   bool // content is durable

	log *logFile // of a file that is written in place, instead
}

// disk is one replica: what is durable, and what was done since.
type disk struct {
	now, synced []byte
	pending     []change
}

type change struct {
	off  int64
	data []byte
	size int64 // above 0: a change of size
}

// NewMachine returns an empty machine whose accidents are made from a seed.
func NewMachine(seed uint64) *Machine {
	return &Machine{
		rand: rand.New(rand.NewPCG(seed, 9)), plan: make(map[int]Fault), files: make(map[string]*inode),
		durable: make(map[string]*inode), disks: make(map[string]*disk), locks: make(map[string]bool),
	}
}

// At plans a fault for the nth step from now on; the next step is 1.
func (m *Machine) At(n int, f Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.plan[m.steps+n] = f
}

// Steps returns how many steps were taken.
func (m *Machine) Steps() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.steps
}

// Dead tells whether the machine has crashed.
func (m *Machine) Dead() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dead
}

// Last returns the names of the last steps, for a test's message.
func (m *Machine) Last() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.trace[max(0, len(m.trace)-8):])
}

// step counts a step and tells what happens at it.
func (m *Machine) step(name string) error {
	if m.dead {
		return ErrCrashed
	}
	m.steps++
	m.trace = append(m.trace, fmt.Sprintf("%d %s", m.steps, name))
	f, ok := m.plan[m.steps]
	switch {
	case !ok:
		return nil
	case f.Crash:
		m.dead = true
		return ErrCrashed
	}
	return f.Err
}

// Crash stops the machine.
func (m *Machine) Crash() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = true
}

// Reboot starts the machine again, with what the crash left.
func (m *Machine) Reboot() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = false
	clear(m.locks)
	names := make(map[string]bool)
	for name := range m.files {
		names[name] = true
	}
	for name := range m.durable {
		names[name] = true
	}
	left := make(map[string]*inode)
	for name := range names {
		n := m.durable[name]
		if m.files[name] != n && m.rand.IntN(2) == 0 {
			n = m.files[name]
		}
		if n != nil {
			left[name] = n
		}
	}
	for _, n := range left {
		if n.log != nil {
			n.log.crash(m.rand)
			continue
		}
		if !n.whole {
			switch m.rand.IntN(4) {
			case 0:
				n.content = slices.Clone(n.synced)
			case 1:
				n.content = nil
			case 2:
				n.content = n.content[:m.rand.IntN(len(n.content)+1)]
			}
		}
		n.synced, n.whole = slices.Clone(n.content), true
	}
	m.files, m.durable = left, make(map[string]*inode)
	for name, n := range left {
		m.durable[name] = n
	}
	for _, d := range m.disks {
		d.crash(m.rand)
	}
}

const sector = 512

// crash keeps any part of what was not synced, sector by sector, in order.
func (d *disk) crash(r *rand.Rand) {
	d.now = slices.Clone(d.synced)
	for _, c := range d.pending {
		if c.size > 0 {
			if int64(len(d.now)) < c.size {
				d.now = append(d.now, make([]byte, c.size-int64(len(d.now)))...)
			}
			continue
		}
		for at := int64(0); at < int64(len(c.data)); {
			n := min(sector-(c.off+at)%sector, int64(len(c.data))-at)
			if r.IntN(2) == 0 {
				copy(d.now[c.off+at:], c.data[at:at+n])
			}
			at += n
		}
	}
	d.synced, d.pending = slices.Clone(d.now), nil
}

// MkdirAll implements replica.FS. Directories are always there.
func (m *Machine) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.step("mkdir " + dir)
}

// ReadFile implements replica.FS.
func (m *Machine) ReadFile(name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return nil, ErrCrashed
	}
	n := m.files[name]
	if n == nil {
		return nil, fmt.Errorf("read %s: %w", name, fs.ErrNotExist)
	}
	return slices.Clone(n.content), nil
}

// Write implements replica.FS.
func (m *Machine) Write(name string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.step("write " + name)
	if err != nil && !m.dead {
		data = data[:m.rand.IntN(len(data)+1)]
	}
	if err == nil || m.rand.IntN(2) == 0 {
		n := m.files[name]
		if n == nil {
			n = new(inode)
			m.files[name] = n
		}
		n.content, n.whole = slices.Clone(data), false
	}
	return err
}

// SyncFile implements replica.FS.
func (m *Machine) SyncFile(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.step("sync " + name); err != nil {
		return err
	}
	n := m.files[name]
	if n == nil {
		return fmt.Errorf("sync %s: %w", name, fs.ErrNotExist)
	}
	n.synced, n.whole = slices.Clone(n.content), true
	return nil
}

// Rename implements replica.FS.
func (m *Machine) Rename(oldName, newName string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.step("rename " + newName)
	if err != nil && (!m.dead || m.rand.IntN(2) == 0) {
		return err
	}
	m.files[newName] = m.files[oldName]
	delete(m.files, oldName)
	return err
}

// SyncDir implements replica.FS.
func (m *Machine) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.step("sync dir " + dir); err != nil {
		return err
	}
	for name := range m.durable {
		if filepath.Dir(name) == dir && m.files[name] == nil {
			delete(m.durable, name)
		}
	}
	for name, n := range m.files {
		if filepath.Dir(name) == dir {
			m.durable[name] = n
		}
	}
	return nil
}

type machineLock struct {
	m    *Machine
	name string
}

// Close implements io.Closer.
func (l machineLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	delete(l.m.locks, l.name)
	return nil
}

// Lock implements replica.FS.
func (m *Machine) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.step("lock " + name); err != nil {
		return nil, err
	}
	if m.locks[name] {
		return nil, replica.ErrLocked
	}
	m.locks[name] = true
	return machineLock{m, name}, nil
}

// Content returns what the replica at path holds.
func (m *Machine) Content(path string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := m.disks[path]; d != nil {
		return slices.Clone(d.now)
	}
	return nil
}
