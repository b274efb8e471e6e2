package objects

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/farshore/farshore/pkg/group"
)

// DefaultSlack is Options.Slack where that is 0.
const DefaultSlack = 4 << 20

// Place is where a store's objects are: what a checkpoint keeps of it. The zero one is a store without objects.
type Place struct {
	File   string `json:"file,omitempty"`   // in the store's directory
	Length int64  `json:"length,omitempty"` // bytes of it that count
}

// Options shape a Store.
type Options struct {
	// Slack is how many bytes more than the objects take a log may have of what is no longer wanted before it is written
	// anew; 0 means DefaultSlack.
	Slack int64
	Log   *slog.Logger // nil: silent
}

// Store is the objects of a group at one commit. View may be called at any time, everything else by one goroutine at a time.
type Store struct {
	fs    FS
	dir   string
	slack int64
	slog  *slog.Logger

	place  Place
	log    *log  // nil: there is no file
	paused int64 // no compaction is tried before the log has so many bytes

	mu   sync.Mutex
	view *View
}

// Open opens the store in dir, which it makes, at a place that a durable checkpoint names, with the commit and the revision
// that belong to it. It reads and verifies the whole log: one that isn't what was written gives ErrDamaged. Files that no
// checkpoint names are removed.
func Open(fsys FS, dir string, at Place, point group.Point, revision string, o Options) (*Store, error) {
	s := &Store{fs: fsys, dir: dir, slack: o.Slack, slog: o.Log, place: at}
	if s.slack == 0 {
		s.slack = DefaultSlack
	}
	if s.slog == nil {
		s.slog = slog.New(slog.DiscardHandler)
	}
	if err := s.open(point, revision); err != nil {
		return nil, fmt.Errorf("open objects %s: %w", dir, err)
	}
	return s, nil
}

func (s *Store) open(point group.Point, revision string) error {
	if err := s.fs.MkdirAll(s.dir); err != nil {
		return err
	}
	if err := s.fs.SyncDir(filepath.Dir(s.dir)); err != nil { // an earlier attempt may have made it and failed
		return err
	}
	v := &View{point: point, revision: revision}
	if s.place.File != "" {
		file, err := s.fs.OpenLog(filepath.Join(s.dir, s.place.File), false)
		if err != nil {
			return err
		}
		s.log = &log{filepath.Join(s.dir, s.place.File), file}
		change := &change{draft: index{}.draft()}
		err = s.log.scan(s.place.Length, change.recall)
		if err == nil && change.open() {
			err = fmt.Errorf("%w: %s ends within a split object", ErrDamaged, s.log.name)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("%w; restore the file, or remove the whole set to start again", err), file.Close())
		}
		v.log, v.index = s.log, change.draft.index
	}
	s.view = v
	s.removeOthers()
	return nil
}

// removeOthers removes files that an attempt left which didn't come to its end. That is about room only.
func (s *Store) removeOthers() {
	names, err := s.fs.List(s.dir)
	for _, name := range names {
		if name != s.place.File && err == nil {
			err = s.fs.Remove(filepath.Join(s.dir, name))
		}
	}
	if err != nil {
		s.slog.Warn("files of the objects that nothing needs were not removed", "directory", s.dir, "error", err)
	}
}

// View returns the objects that the store holds.
func (s *Store) View() *View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view
}

// Place returns where they are.
func (s *Store) Place() Place { return s.place }

// next returns the name of the file behind the present one.
func (s *Store) next() string {
	n, _ := strconv.ParseUint(strings.TrimSuffix(s.place.File, ".log"), 10, 64) // a name that is none of ours counts as 0
	return fmt.Sprintf("%08d.log", n+1)
}

// create makes the next file and returns it with its magic written.
func (s *Store) create() (*writer, error) {
	name := filepath.Join(s.dir, s.next())
	file, err := s.fs.OpenLog(name, true)
	if err != nil {
		return nil, err
	}
	return &writer{log: &log{name, file}, buf: []byte(magic)}, nil
}

// Take makes the store hold what a batch made: the batch's Place is named by a durable checkpoint now. Views of before
// stay as they are.
func (s *Store) Take(b *Batch, point group.Point, revision string) *View {
	before := s.log
	s.log, s.place = b.log(), b.place
	v := &View{index: b.change.draft.index, point: point, revision: revision, log: s.log}
	s.mu.Lock()
	s.view = v
	s.mu.Unlock()
	if before != nil && before != s.log {
		// Views may still read it: it is not closed, and goes with the last of them.
		if err := s.fs.Remove(before.name); err != nil {
			s.slog.Warn("a file of the objects that nothing needs was not removed", "file", before.name, "error", err)
		}
	}
	return v
}
