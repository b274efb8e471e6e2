package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/journal"
)

// ErrSnapshotLost means that a snapshot is not what the set was any more: what it kept didn't find room, or a replica was begun anew, or
// closed. Nothing was read wrong before.
var ErrSnapshotLost = errors.New("the snapshot was lost")

// ErrNotWhole means that a set doesn't hold a commit: it is between two, or blank, or a member was begun anew.
var ErrNotWhole = errors.New("the replicas don't hold a commit")

// Snapshot is a set as it was between two commits, while it goes on. Its methods may be called concurrently.
//
// Where the file system can share blocks between files (reflinks) each volume is a file of its own; else the set copies what the snapshot wants
// before it overwrites it. Either takes room as the set goes on. Where the set finds none it gives its snapshots up and tries
// again, so that they never keep it from going on.
type Snapshot struct {
	set   *Set
	cp    Checkpoint
	parts map[string]part

	lost atomic.Pointer[error]
	once sync.Once
}

// part is the content of a part of a snapshot.
type part interface {
	io.ReaderAt
	only(chunks *grid.Set)
	release() error
}

// Snapshot takes a snapshot of the set, which must be whole: else the error is ErrNotWhole. dir is a directory on the replicas' file
// system, which is made: what of the set is about to be overwritten is kept there, in files without names. It waits for whoever works on the
// set, as long as ctx goes on. A volume that left the commits and whose replica isn't there any more is left out.
func (s *Set) Snapshot(ctx context.Context, dir string) (*Snapshot, error) {
	snap, err := s.snapshot(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("take a snapshot of the replicas: %w", err)
	}
	return snap, nil
}

func (s *Set) snapshot(ctx context.Context, dir string) (_ *Snapshot, err error) {
	for !s.advancing.TryLock() {
		if !sleep(ctx, lockPoll) {
			return nil, ctx.Err()
		}
	}
	defer s.advancing.Unlock()
	if err := s.settle(); err != nil {
		return nil, err
	}
	volumes, cp, err := s.standStill(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, v := range volumes {
			v.mu.Unlock()
		}
	}()
	if err := (OS{}).MkdirAll(dir); err != nil {
		return nil, err
	}
	snap := &Snapshot{set: s, cp: cp, parts: make(map[string]part)}
	defer func() {
		if err != nil {
			err = errors.Join(err, snap.release())
		}
	}()
	for _, v := range volumes {
		err := s.openVolume(v, v.now.Size)
		if err == nil && !v.whole {
			err = fmt.Errorf("%w: the replica holds something behind its commit", ErrNotWhole)
		}
		switch {
		case err != nil && v.now.State == Left:
			s.log.Warn("a volume that is in no commit any more can't be read as it was, and is left out of a snapshot", "volume", v.name, "error", err)
			delete(cp.Volumes, v.name)
			continue
		case err != nil:
			return nil, &VolumeError{v.name, err}
		}
		if snap.parts[v.name], err = snap.part(v, dir); err != nil {
			return nil, &VolumeError{v.name, err}
		}
	}
	if at, ok := cp.Volumes[journal.Objects]; ok {
		if snap.parts[journal.Objects], err = s.logPart(at); err != nil {
			return nil, &VolumeError{journal.Objects, err}
		}
	}
	s.mu.Lock()
	s.snapshots[snap] = true
	s.mu.Unlock()
	return snap, nil
}

// standStill locks the volumes that belong to the set's commit, or to an earlier one, and returns them with what the
// checkpoint tells of them and of the objects. Those on their first pass are left out.
func (s *Set) standStill(ctx context.Context) ([]*volume, Checkpoint, error) {
	for {
		cp := s.settled()
		if !cp.Whole() {
			return nil, cp, fmt.Errorf("%w: barrier %d, applying %v, without %q", ErrNotWhole, cp.Commit.Barrier, cp.Applying != nil, cp.Without)
		}
		var locked []*volume
		all := true
		for _, name := range slices.Sorted(maps.Keys(cp.Volumes)) {
			if name == journal.Objects {
				continue // they move in an Advance only
			}
			v := s.volume(name)
			if all = v.mu.TryLock(); !all {
				break
			}
			locked = append(locked, v)
		}
		if now := s.settled(); all && now.Whole() && maps.Equal(now.Volumes, cp.Volumes) {
			for name, at := range cp.Volumes {
				at.Device = ""
				cp.Volumes[name] = at
			}
			return locked, cp, nil
		}
		for _, v := range locked {
			v.mu.Unlock()
		}
		if !sleep(ctx, lockPoll) {
			return nil, cp, ctx.Err()
		}
	}
}

// settled returns the checkpoint without the volumes that never were in a commit.
func (s *Set) settled() Checkpoint {
	cp := s.Checkpoint()
	maps.DeleteFunc(cp.Volumes, func(_ string, v Volume) bool { return v.Seq == 0 || v.State != Member && v.State != Left })
	return cp
}

// part makes a volume part of the snapshot. The volume is locked and open.
func (s *Snapshot) part(v *volume, dir string) (part, error) {
	f, err := os.CreateTemp(dir, "snapshot-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	size := v.now.Size
	if t, ok := v.target.Target.(*file); ok && t.cloneInto(f) == nil {
		return &filePart{io.NewSectionReader(f, 0, size), f}, nil
	}
	m := newImage(s, v.target, size, f)
	v.target.attach(m)
	return m, nil
}

// logPart returns the objects' log, of which what counts never changes. It stays readable when the set goes on with another file.
func (s *Set) logPart(at Volume) (part, error) {
	if at.Log.File == "" {
		return &filePart{io.NewSectionReader(nil, 0, 0), nil}, nil
	}
	f, err := s.fs.OpenLog(LogPath(s.dir, at), false)
	if err != nil {
		return nil, err
	}
	return &filePart{io.NewSectionReader(f, 0, at.Log.Length), f}, nil
}

// filePart is a part that nobody changes.
type filePart struct {
	*io.SectionReader
	f io.Closer // nil: none is open
}

func (p *filePart) only(*grid.Set) {}

func (p *filePart) release() error {
	if p.f == nil {
		return nil
	}
	return p.f.Close()
}

// Checkpoint returns what the set held: the members of its commit, and volumes that left the commits before. No volume is on a device:
// where the parts are put is up to whoever reads them.
func (s *Snapshot) Checkpoint() Checkpoint { return s.cp.Clone() }

// Only says that of a part nothing but the chunks is going to be read: the rest isn't kept any more, and reading it is an error.
func (s *Snapshot) Only(part string, chunks *grid.Set) {
	if p := s.parts[part]; p != nil {
		p.only(chunks)
	}
}

// Image returns the content of a part, and its size in bytes: of a volume, or, for journal.Objects, of the log's bytes that count. It may
// be read concurrently. A chunk that was read whole, within one call, is kept no longer, and must not be read again: that is an
// error, or, where nothing had to be kept, gives what it was. An error that wraps ErrSnapshotLost says that nothing more can be read of
// any part.
func (s *Snapshot) Image(part string) (io.ReaderAt, int64, error) {
	p := s.parts[part]
	if p == nil {
		return nil, 0, fmt.Errorf("the snapshot of barrier %d has no part %s", s.cp.Commit.Barrier, part)
	}
	if err := s.lostErr(); err != nil {
		return nil, 0, err
	}
	at := s.cp.Volumes[part]
	if part == journal.Objects {
		return partReader{s, p}, at.Log.Length, nil
	}
	return partReader{s, p}, at.Size, nil
}

// partReader says of errors that they come from a snapshot that was lost.
type partReader struct {
	s *Snapshot
	p part
}

// ReadAt implements io.ReaderAt.
func (r partReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.p.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		if lost := r.s.lostErr(); lost != nil {
			return n, lost
		}
	}
	return n, err
}

// lostErr tells why the snapshot was lost; nil: it wasn't.
func (s *Snapshot) lostErr() error {
	if err := s.lost.Load(); err != nil {
		return *err
	}
	return nil
}

// lose gives the snapshot up. From here on nothing of it is read.
func (s *Snapshot) lose(cause error) {
	err := fmt.Errorf("%w: %w", ErrSnapshotLost, cause)
	if !s.lost.CompareAndSwap(nil, &err) {
		return
	}
	s.set.log.Warn("a snapshot of the replicas was lost", "barrier", s.cp.Commit.Barrier, "error", cause)
	if err := s.release(); err != nil {
		s.set.log.Debug("what a snapshot kept was not given back", "error", err)
	}
}

// Close gives back what the snapshot keeps. Nothing may read it.
func (s *Snapshot) Close() error { return s.release() }

func (s *Snapshot) release() (err error) {
	s.once.Do(func() {
		s.set.mu.Lock()
		delete(s.set.snapshots, s)
		s.set.mu.Unlock()
		for _, p := range s.parts {
			if p != nil {
				err = errors.Join(err, p.release())
			}
		}
	})
	return err
}

// giveUpSnapshots gives up what snapshots keep, since something found no room, and tells whether there were any.
func (s *Set) giveUpSnapshots(cause error) bool {
	s.mu.Lock()
	snapshots := slices.Collect(maps.Keys(s.snapshots))
	s.mu.Unlock()
	for _, snap := range snapshots {
		snap.lose(fmt.Errorf("the replicas need the room: %w", cause))
	}
	return len(snapshots) > 0
}
