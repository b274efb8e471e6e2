package activity

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
)

// disk is a file system whose steps can fail, and whose crash states can be enumerated: of the sectors
// that were written and not synced any subset is there, of the directory's changes either all or none.
type disk struct {
	mu      sync.Mutex
	steps   int
	fail    map[int]error
	after   func() // called when a step has been taken
	files   map[string]*inode
	durable map[string]*inode
	locks   map[string]bool
	names   []string // of the steps
}

type inode struct {
	base    []byte // durable
	pending []sectorWrite
}

// sectorWrite is one sector that was written; lost: no sync makes it durable any more, since one failed.
type sectorWrite struct {
	at   int64
	data []byte
	lost bool
}

var _ FS = (*disk)(nil)

func newDisk(files map[string][]byte) *disk {
	d := &disk{fail: make(map[int]error), files: make(map[string]*inode), durable: make(map[string]*inode), locks: make(map[string]bool)}
	for name, content := range files {
		d.files[name] = &inode{base: bytes.Clone(content)}
		d.durable[name] = d.files[name]
	}
	return d
}

// step counts a step that changes something; done is called after it, whatever its outcome.
func (d *disk) step(name string) error {
	d.steps++
	d.names = append(d.names, name)
	if err := d.fail[d.steps]; err != nil {
		return fmt.Errorf("step %d, %s: %w", d.steps, name, err)
	}
	return nil
}

func (d *disk) done() {
	if d.after != nil {
		d.after()
	}
}

func (n *inode) read(pick func(i int) bool) []byte {
	b := bytes.Clone(n.base)
	for i, w := range n.pending {
		if end := int(w.at) + len(w.data); end > len(b) {
			b = append(b, make([]byte, end-len(b))...)
		}
		if pick(i) {
			copy(b[w.at:], w.data)
		}
	}
	return b
}

// states returns what a crash now can leave of a file; nil: it isn't there.
func (d *disk) states(name string) [][]byte {
	var out [][]byte
	nodes := []*inode{d.durable[name]}
	if d.files[name] != nodes[0] {
		nodes = append(nodes, d.files[name])
	}
	for _, n := range nodes {
		if n == nil {
			out = append(out, nil)
			continue
		}
		if len(n.pending) > 12 {
			panic("too many sectors aren't synced")
		}
		for subset := range 1 << len(n.pending) {
			out = append(out, n.read(func(i int) bool { return subset&(1<<i) != 0 }))
		}
	}
	return out
}

func (d *disk) MkdirAll(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.done()
	return d.step("mkdir")
}

func (d *disk) ReadFile(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.done()
	if err := d.step("read"); err != nil {
		return nil, err
	}
	n := d.files[name]
	if n == nil {
		return nil, fs.ErrNotExist
	}
	return n.read(func(int) bool { return true }), nil
}

func (d *disk) Create(name string) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.done()
	if err := d.step("create"); err != nil {
		return nil, err
	}
	d.files[name] = new(inode)
	return &diskFile{d, d.files[name]}, nil
}

func (d *disk) Rename(oldName, newName string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.done()
	err := d.step("rename")
	if err == nil || errors.Is(err, errAfter) {
		d.files[newName] = d.files[oldName]
		delete(d.files, oldName)
	}
	return err
}

func (d *disk) SyncDir(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.done()
	if err := d.step("sync directory"); err != nil {
		return err
	}
	clear(d.durable)
	for name, n := range d.files {
		if filepath.Dir(name) != dir {
			panic(name)
		}
		d.durable[name] = n
	}
	return nil
}

type diskLock struct {
	d    *disk
	name string
}

func (k diskLock) Close() error {
	k.d.mu.Lock()
	defer k.d.mu.Unlock()
	delete(k.d.locks, k.name)
	return nil
}

func (d *disk) Lock(name string) (io.Closer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.done()
	if err := d.step("lock"); err != nil {
		return nil, err
	}
	if d.locks[name] {
		return nil, ErrLocked
	}
	d.locks[name] = true
	return diskLock{d, name}, nil
}

// errAfter is the error of a step that has done its work all the same.
var errAfter = errors.New("it was done, and failed")

type diskFile struct {
	d *disk
	n *inode
}

func (f *diskFile) WriteAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	defer f.d.done()
	err := f.d.step("write")
	if off%sectorSize != 0 || len(p)%sectorSize != 0 {
		panic("not in sectors")
	}
	n := len(p)
	if err != nil && !errors.Is(err, errAfter) {
		n = n / 2 / sectorSize * sectorSize
	}
	for at := 0; at < n; at += sectorSize {
		for _, w := range f.n.pending {
			if w.at == off+int64(at) {
				panic("a sector is written again")
			}
		}
		f.n.pending = append(f.n.pending, sectorWrite{at: off + int64(at), data: bytes.Clone(p[at : at+sectorSize])})
	}
	if err != nil {
		return n, err
	}
	return n, nil
}

func (f *diskFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	defer f.d.done()
	if err := f.d.step("sync"); err != nil {
		for i := range f.n.pending {
			f.n.pending[i].lost = true
		}
		return err
	}
	size := len(f.n.read(func(int) bool { return false }))
	f.n.base = append(f.n.base, make([]byte, size-len(f.n.base))...)
	f.n.pending = slices.DeleteFunc(f.n.pending, func(w sectorWrite) bool {
		if !w.lost {
			copy(f.n.base[w.at:], w.data)
		}
		return !w.lost
	})
	return nil
}

func (f *diskFile) Close() error { return nil }
