package archiver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
)

// mostBefore is how many points are looked at for one that the journal leads on from.
const mostBefore = 3

// run is a commit that is being archived.
type run struct {
	w      *worker
	commit replica.Commit
	began  time.Time
	read   atomic.Int64 // bytes
	total  atomic.Int64 // bytes; 0: not known yet

	archive *archive.Run
}

// begin begins to archive a commit.
func (w *worker) begin(ctx context.Context, c replica.Commit) (*run, error) {
	opened, err := w.archive.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("begin to archive barrier %d: %w", c.Barrier, err)
	}
	r := &run{w: w, commit: c, began: time.Now(), archive: opened}
	w.mu.Lock()
	w.running = r
	w.mu.Unlock()
	// What was removed since the points were read can't be relied on.
	if err := w.readPoints(ctx, true); err != nil {
		return nil, errors.Join(err, r.end())
	}
	w.log.Debug("archiving a commit", "barrier", c.Barrier, "time", c.Time, "label", c.Label)
	return r, nil
}

// end ends the run, committed or not.
func (r *run) end() error {
	r.w.mu.Lock()
	r.w.running = nil
	r.w.mu.Unlock()
	return r.archive.Close()
}

// status tells how far the run has come.
func (r *run) status() *group.ArchiveRun {
	total := r.total.Load()
	return &group.ArchiveRun{Point: replica.PointOf(r.commit), Bytes: min(r.read.Load(), total), Total: total}
}

// live archives what a snapshot holds.
func (w *worker) live(ctx context.Context, s *replica.Snapshot) error {
	cp := s.Checkpoint()
	r, err := w.begin(ctx, cp.Commit)
	if err != nil {
		return err
	}
	sources, err := r.narrow(ctx, s, cp)
	if err == nil {
		err = r.finish(ctx, cp, sources)
	}
	return errors.Join(err, r.end())
}

// narrow tells what is to be read of a snapshot, and leaves the rest out of it.
func (r *run) narrow(ctx context.Context, s *replica.Snapshot, cp replica.Checkpoint) (sources []archive.Source, err error) {
	for _, name := range Parts(cp) {
		source := archive.Source{Name: name}
		if source.Image, source.Size, err = s.Image(name); err != nil {
			return nil, fmt.Errorf("read %s from the snapshot: %w", name, err)
		}
		if source.Before, source.Changed, err = r.before(ctx, name, cp.Volumes[name]); err != nil {
			return nil, err
		}
		if source.Changed != nil {
			s.Only(name, source.Changed)
		}
		sources = append(sources, source)
	}
	return sources, nil
}

// candidates returns the points that the run's commit can go on from, the newest first.
func (r *run) candidates() (out []archive.Point) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	for _, p := range slices.Backward(r.w.points) {
		trusted := !slices.ContainsFunc(p.Parts, func(part archive.Part) bool { return !r.archive.Trusts(&part) })
		if p.Barrier < r.commit.Barrier && trusted {
			out = append(out, p)
		}
	}
	return out
}

// before returns a volume in an earlier point, and what of it may differ now; nil: all may.
func (r *run) before(ctx context.Context, name string, now replica.Volume) (*archive.Part, *grid.Set, error) {
	if name == journal.Objects {
		return nil, nil, nil // their log is short, and what of it was there before isn't stored again
	}
	looked := 0
	for _, p := range r.candidates() {
		cp, err := Checkpoint(p)
		if err != nil {
			r.w.log.Warn("an archived point is not gone on from", "error", err)
			continue
		}
		was, ok := cp.Volumes[name]
		if !ok || was.Seq == 0 || was.UID != now.UID {
			continue
		}
		if looked++; looked > mostBefore {
			break
		}
		changed, err := r.w.changes(ctx, p.Barrier, name, was, now)
		if err != nil {
			return nil, nil, err
		}
		if changed == nil {
			continue
		}
		part := p.Part(name)
		if part.Size != now.Size && part.Size > 0 {
			changed.Mark(part.Size-1, now.Size-part.Size+1) // the chunk at its end may be another one
		}
		forget(changed)
		return part, changed, nil
	}
	r.w.log.Info("a volume is read as a whole: the journal doesn't lead there from a point that the archive has", "volume", name, "barrier", r.commit.Barrier)
	return nil, nil, nil
}

// finish stores the parts of a set and lists the point.
func (r *run) finish(ctx context.Context, cp replica.Checkpoint, sources []archive.Source) error {
	point, err := pointOf(cp)
	if err != nil {
		return err
	}
	for _, s := range sources {
		if s.Changed != nil {
			r.total.Add(min(s.Changed.Len()*grid.Chunk, s.Size))
		} else {
			r.total.Add(s.Size)
		}
	}
	for _, s := range sources {
		s.Progress = func(bytes int64) { r.read.Add(bytes) }
		part, err := r.archive.Add(ctx, s)
		if err != nil {
			return fmt.Errorf("archive %s at barrier %d: %w", s.Name, cp.Commit.Barrier, err)
		}
		point.Parts = append(point.Parts, part)
	}
	if point, err = r.archive.Commit(ctx, point); err != nil {
		return fmt.Errorf("archive barrier %d: %w", cp.Commit.Barrier, err)
	}
	r.w.archived(ctx, r, point)
	return nil
}

// archived notes a point that is listed.
func (a *Archiver) archived(ctx context.Context, r *run, p archive.Point) {
	took := time.Since(r.began)
	a.mu.Lock()
	a.points = slices.DeleteFunc(a.points, func(old archive.Point) bool { return old.Barrier == p.Barrier })
	i, _ := slices.BinarySearchFunc(a.points, p.Barrier, func(q archive.Point, b uint64) int {
		if q.Barrier < b {
			return -1
		}
		return 1
	})
	a.points = slices.Insert(a.points, i, p)
	delete(a.tries, p.Barrier)
	// Where this one could be archived those may be, too, that only had to wait.
	maps.DeleteFunc(a.tries, func(_ uint64, t *try) bool { return t.n == 0 })
	a.failures = 0
	a.mu.Unlock()
	a.problem("archive", "")
	a.metrics.archived(ctx, r.read.Load(), p.Added, took)
	a.measure(ctx)
	a.log.Info("archived a commit", "barrier", p.Barrier, "time", p.Time, "label", p.Label, "read", r.read.Load(), "stored", p.Added, "took", took)
}
