package replay

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/farshore/farshore/internal/durable"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/replica"
)

// Names of what a replay keeps in the directory that it fills, for as long as it is not finished.
const (
	markerFile = "unfinished.json"
	markerTemp = markerFile + ".tmp"
	markerLock = "unfinished.lock"
)

// ErrNotEmpty is a directory to fill that holds something.
var ErrNotEmpty = errors.New("the directory is not empty: name a new one")

// ErrBusy is a directory that another replay fills just now.
var ErrBusy = errors.New("another replay is filling the directory")

// UnfinishedError means that the directory to fill holds a replay to something else, which didn't come to its end.
type UnfinishedError struct {
	Into string
	What string // is in it
}

// Error implements error.
func (e *UnfinishedError) Error() string {
	return fmt.Sprintf("%s holds an unfinished replay %s: the command that began it goes on with it; to drop it, remove the directory or name another one",
		e.Into, e.What)
}

// marker is what an unfinished replay says of itself. It is written before anything else is, and removed at the end.
type marker struct {
	Format  int               `json:"format"`
	Group   string            `json:"group"`
	Target  string            `json:"target"` // as it was named
	Barrier uint64            `json:"barrier"`
	Time    time.Time         `json:"time"`
	From    Origin            `json:"from"`
	Base    uint64            `json:"base"` // barrier that it begins from
	Devices map[string]string `json:"devices,omitempty"`
	Disks   map[string]disk   `json:"disks,omitempty"` // behind Devices
	Parts   map[string]extent `json:"parts,omitempty"` // of an archived point
	Dropped bool              `json:"dropped,omitempty"`
}

// extent is how much of a part of an archived point is durably in its place.
type extent struct {
	Root archive.ID `json:"root"`
	Done int64      `json:"done"` // bytes from the beginning
}

const markerFormat = 1

// work is a directory that is being filled.
type work struct {
	dir  string
	lock io.Closer // nil: nothing was begun
	m    *marker   // nil: nothing was begun
}

// openWork looks at the directory to fill: it is empty or isn't there, or it holds what the same replay left.
func openWork(o *Options) (*work, error) {
	w := &work{dir: o.Into}
	data, err := os.ReadFile(filepath.Join(w.dir, markerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return w, w.empty()
	}
	if err != nil {
		return nil, err
	}
	if err := w.take(); err != nil {
		return nil, err
	}
	if err := w.resume(o, data); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *work) take() (err error) {
	w.lock, err = durable.Lock(filepath.Join(w.dir, markerLock), false, ErrBusy)
	return err
}

// resume takes over what an earlier attempt left.
func (w *work) resume(o *Options, data []byte) error {
	m := new(marker)
	if err := json.Unmarshal(data, m); err != nil || m.Format != markerFormat {
		return &UnfinishedError{w.dir, fmt.Sprintf("that this Farshore can't go on with (%s can't be read)", markerFile)}
	}
	w.m = m
	if m.Dropped {
		return w.discard()
	}
	switch {
	case m.Group != o.Group:
		return &UnfinishedError{w.dir, "of group " + m.Group}
	case !maps.Equal(m.Devices, o.Devices):
		return &UnfinishedError{w.dir, fmt.Sprintf("to %s, with the devices %v", m.describe(), m.Devices)}
	}
	return m.sameDisks()
}

// describe names the point that the work is about.
func (m *marker) describe() string {
	return describe(&Point{Barrier: m.Barrier, Time: m.Time})
}

// is tells whether the work is about the point.
func (m *marker) is(p *Point) bool { return m.Barrier == p.Barrier && m.Time.Equal(p.Time) }

// empty refuses a directory that holds something.
func (w *work) empty() error {
	entries, err := os.ReadDir(w.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if n := e.Name(); n != markerTemp && n != markerLock {
			return fmt.Errorf("replay into %s: %w", w.dir, ErrNotEmpty)
		}
	}
	return nil
}

// begin marks the directory, durably, before anything is put into it.
func (w *work) begin(m *marker) error {
	if w.lock == nil {
		if err := durable.MkdirAll(w.dir); err != nil {
			return err
		}
		if err := w.take(); err != nil {
			return err
		}
		if err := w.empty(); err != nil { // somebody was faster
			return err
		}
	}
	m.Format = markerFormat
	w.m = m
	return w.save()
}

// save makes the marker durable.
func (w *work) save() error {
	data, err := json.MarshalIndent(w.m, "", "  ")
	if err != nil {
		return err
	}
	name := filepath.Join(w.dir, markerTemp)
	if err := os.WriteFile(name, append(data, '\n'), 0o640); err != nil {
		return err
	}
	if err := durable.Sync(name); err != nil {
		return err
	}
	if err := os.Rename(name, filepath.Join(w.dir, markerFile)); err != nil {
		return err
	}
	return durable.Sync(w.dir)
}

// worth tells whether what is there is worth going on from.
func (w *work) worth() bool {
	if w.m == nil {
		return false
	}
	for _, e := range w.m.Parts {
		if e.Done > 0 {
			return true
		}
	}
	cp, err := replica.ReadCheckpoint(w.dir)
	if err != nil {
		return false
	}
	for _, v := range cp.Volumes {
		if v.Seq > 0 {
			return true
		}
	}
	return false
}

// recovered returns the point that the volumes of unfinished work to a target are recovered to, whatever became of it since; nil: they are not, or
// not yet.
func (w *work) recovered(target string) *Point {
	if w.m == nil || w.m.Target != target {
		return nil
	}
	cp, err := replica.ReadCheckpoint(w.dir)
	if err != nil || !cp.Whole() || cp.Commit.Barrier != w.m.Barrier || !cp.Commit.Time.Equal(w.m.Time) {
		return nil
	}
	p := pointOf(cp.Commit, cp.Volumes)
	return &p
}

// keeps adds to an error that what was done is left.
func (w *work) keeps(err error) error {
	return fmt.Errorf("%w; what was done is kept in %s: the same command goes on from there", err, w.dir)
}

// discard removes everything that the replay put into the directory; the marker, which says so, comes last. What is on block
// devices stays as it is.
func (w *work) discard() error {
	if w.m == nil {
		return nil
	}
	w.m.Dropped, w.m.Parts = true, nil
	if err := w.save(); err != nil {
		return err
	}
	entries, err := os.ReadDir(w.dir)
	errs := []error{err}
	for _, e := range entries {
		if n := e.Name(); n != markerFile && n != markerLock {
			errs = append(errs, os.RemoveAll(filepath.Join(w.dir, n)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	w.m = nil
	return w.unmark()
}

// finish says that the directory is whole.
func (w *work) finish() error {
	w.m = nil
	return w.unmark()
}

func (w *work) unmark() error {
	if err := os.Remove(filepath.Join(w.dir, markerFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.Sync(w.dir)
}

// close lets others into the directory. Where nothing is unfinished nothing of the replay's own is left.
func (w *work) close() error {
	if w.lock == nil {
		return nil
	}
	var err error
	if w.m == nil {
		err = os.Remove(filepath.Join(w.dir, markerLock))
	}
	return errors.Join(err, w.lock.Close())
}
