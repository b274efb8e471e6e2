package archiver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
)

// lower is a set that a point is built over. It isn't changed.
type lower struct {
	name  string
	cp    replica.Checkpoint
	point *archive.Point // nil: it isn't in the archive
	// image returns the content of a volume of cp; copyLog writes the log of its objects to a new file.
	image   func(name string) (io.ReaderAt, error)
	copyLog func(ctx context.Context, to *os.File) error
}

// build archives a commit that the replicas have passed: over an archived point before it, the base, or nothing, whatever the journal
// leads on from.
func (w *worker) build(ctx context.Context, c replica.Commit) (err error) {
	commit, err := w.follower.CommitAt(ctx, c.Barrier)
	if err != nil {
		if errors.Is(err, replica.ErrNoCommit) {
			w.tried(c, err)
			return nil
		}
		return err
	}
	r, err := w.begin(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.end()) }()
	var reasons []error
	use := func(l *lower) (done bool, err error) {
		err = whileRoom(ctx, w.o.Look, func() error { return w.room(w.dir) }, func(ctx context.Context) error { return r.over(ctx, l, commit) })
		switch {
		case err == nil:
			return true, nil
		case ctx.Err() == nil && gone(err):
			w.log.Debug("a commit can't be built this way", "barrier", c.Barrier, "over", l.name, "error", err)
			reasons = append(reasons, fmt.Errorf("over %s: %w", l.name, err))
			return false, nil
		}
		return false, err
	}
	for i, p := range r.candidates() {
		if i == mostBefore {
			break
		}
		l, err := w.overPoint(ctx, &p)
		if err != nil {
			w.log.Warn("an archived point is not gone on from", "error", err)
			continue
		}
		if done, err := use(l); done || err != nil {
			return err
		}
	}
	if done, err := r.useBase(ctx, use); done || err != nil {
		return err
	}
	blank := &lower{name: "blank volumes", cp: replica.Checkpoint{Group: w.group}}
	if done, err := use(blank); done || err != nil {
		return err
	}
	w.tried(c, errors.Join(reasons...))
	return nil
}

// gone tells whether an error means that the journal does not lead to a commit from where it was begun.
func gone(err error) bool {
	_, _, damaged := replica.Damage(err)
	return damaged || errors.Is(err, replica.ErrBranched) || errors.Is(err, replica.ErrRewind) || errors.Is(err, replica.ErrForeign) ||
		errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, errStalled)
}

// try returns how often a commit was tried to be built; a.mu is held.
func (a *Archiver) try(c replica.Commit) *try {
	t := a.tries[c.Barrier]
	if t == nil {
		t = new(try)
		a.tries[c.Barrier] = t
	}
	return t
}

// postpone lets others go before a commit that could not be built.
func (a *Archiver) postpone(c replica.Commit) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.try(c).next = time.Now().Add(2 * a.pause())
}

// tried notes that the journal does not lead to a commit. A mirror may be mended, so that counts only when it was found a few times.
func (a *Archiver) tried(c replica.Commit, err error) {
	a.mu.Lock()
	t := a.try(c)
	t.n++
	t.next = time.Now().Add(a.o.Retry << t.n)
	lost := t.n >= mostTries
	if lost {
		delete(a.tries, c.Barrier)
		a.lost = append(a.lost, loss{c, time.Now()})
	}
	a.mu.Unlock()
	if lost {
		a.metrics.gone()
		a.log.Error("a labelled commit can't be archived: its history is gone", "barrier", c.Barrier, "label", c.Label, "time", c.Time, "error", err)
		return
	}
	a.log.Warn("the history of a labelled commit is not there, trying again", "barrier", c.Barrier, "label", c.Label, "error", err)
}

// overPoint makes an archived point a lower set.
func (w *worker) overPoint(ctx context.Context, p *archive.Point) (*lower, error) {
	cp, err := Checkpoint(*p)
	if err != nil {
		return nil, err
	}
	return &lower{
		name: fmt.Sprintf("archived point %d", p.Barrier), cp: cp, point: p,
		image: func(name string) (io.ReaderAt, error) { return w.archive.Image(ctx, *p.Part(name)), nil },
		copyLog: func(ctx context.Context, to *os.File) error {
			part := p.Part(journal.Objects)
			if err := to.Truncate(part.Size); err != nil {
				return err
			}
			return w.archive.Restore(ctx, *part, archive.RestoreOptions{Sink: sink{to}})
		},
	}, nil
}

// sink restores into a file that reads as zeros.
type sink struct{ *os.File }

// Zero implements archive.Sink.
func (sink) Zero(int64, int64) error { return nil }

// useBase uses the base, which stays where it is meanwhile.
func (r *run) useBase(ctx context.Context, use func(*lower) (bool, error)) (done bool, err error) {
	dir := replica.BaseDir(r.w.dir)
	hold, err := replica.Hold(dir)
	for tries := 0; errors.Is(err, replica.ErrLocked) && tries < 100 && ctx.Err() == nil; tries++ { // it is being moved
		r.w.wait(ctx, lockRetry)
		hold, err = replica.Hold(dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("hold the base: %w", err)
	}
	var files []io.Closer
	defer func() {
		for _, f := range append(files, hold) {
			err = errors.Join(err, f.Close())
		}
	}()
	cp, err := replica.ReadCheckpoint(dir)
	if err != nil || !cp.Whole() || cp.Commit.Barrier > r.commit.Barrier {
		return false, err
	}
	return use(&lower{
		name: "the base", cp: cp,
		image: func(name string) (io.ReaderAt, error) {
			f, err := os.Open(replica.VolumePath(dir, name))
			if err == nil {
				files = append(files, f)
			}
			return f, err
		},
		copyLog: func(_ context.Context, to *os.File) error {
			v := cp.Volumes[journal.Objects]
			f, err := os.Open(replica.LogPath(dir, v))
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.CopyN(to, f, v.Log.Length)
			return err
		},
	})
}

// over builds a commit over a lower set, and archives it.
func (r *run) over(ctx context.Context, l *lower, c *events.Commit) (err error) {
	scratch := filepath.Join(r.w.dir, scratchDir)
	if err := os.RemoveAll(scratch); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	if err := r.reachable(ctx, c); err != nil {
		return err
	}
	if err := r.proven(ctx, l, c); err != nil {
		return fmt.Errorf("build barrier %d over %s: %w", c.Token.Barrier, l.name, err)
	}
	if err := plant(ctx, scratch, l); err != nil {
		return fmt.Errorf("build barrier %d over %s: %w", c.Token.Barrier, l.name, err)
	}
	b := &builder{lower: l, overlays: make(map[string]*overlay)}
	set, err := replica.Open(scratch, replica.Options{Group: r.w.group, OpenTarget: b.open, Log: r.w.log})
	if err != nil {
		return fmt.Errorf("build barrier %d: %w", c.Token.Barrier, err)
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	if err := set.Fill(ctx, r.w.source, c); err != nil {
		if errors.Is(err, errStalled) { // a server that doesn't answer is not a history that is gone
			err = cmp.Or(r.reachable(ctx, c), err)
		}
		return fmt.Errorf("build barrier %d over %s: %w", c.Token.Barrier, l.name, err)
	}
	cp := set.Checkpoint()
	sources, files, err := b.sources(scratch, cp)
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
	}()
	if err != nil {
		return err
	}
	return r.finish(ctx, cp, sources)
}

// reachable fails where the mirrors end before a commit, which a set would wait for.
func (r *run) reachable(ctx context.Context, c *events.Commit) error {
	for _, e := range replica.Parts(c) {
		id := journal.StreamID{Group: r.w.group, Part: e.Volume, Generation: e.Position.Generation}
		last, err := r.w.source.Last(ctx, id)
		if err != nil {
			return err
		}
		if last < e.Position.Seq {
			return &journal.GapError{Stream: r.w.source.Name(id), Want: last + 1, Got: e.Position.Seq}
		}
	}
	return nil
}

// proven fails where the journal is not that of the archived point that a lower set is: an earlier life of the group counted from 1, too.
func (r *run) proven(ctx context.Context, l *lower, c *events.Commit) error {
	if l.point == nil {
		return nil
	}
	for _, e := range replica.Parts(c) {
		ok, err := replica.Proves(ctx, r.w.source, r.w.group, e.Volume, l.cp.Volumes[e.Volume], e.Position)
		if err == nil && !ok {
			err = fmt.Errorf("%w: the journal doesn't have the mark that it was archived at", replica.ErrForeign)
		}
		if err != nil {
			return &replica.VolumeError{Volume: e.Volume, Err: err}
		}
	}
	return nil
}

// plant makes a set of a lower one, whose volumes it doesn't have.
func plant(ctx context.Context, dir string, l *lower) error {
	cp := withoutDevices(l.cp)
	if path := replica.LogPath(dir, cp.Volumes[journal.Objects]); path != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o640)
		if err != nil {
			return err
		}
		if err := errors.Join(l.copyLog(ctx, f), f.Close()); err != nil {
			return fmt.Errorf("the log of the objects: %w", err)
		}
	}
	_, err := replica.Plant(dir, cp)
	return err
}

// builder opens the volumes of a set that is built over another one.
type builder struct {
	lower *lower

	mu       sync.Mutex
	overlays map[string]*overlay // of volumes that were opened
}

// open is replica.Options.OpenTarget.
func (b *builder) open(t replica.TargetSpec) (replica.Target, error) {
	if err := os.Remove(t.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	upper, err := replica.OpenFile(t.Path, t.Size, true)
	if err != nil {
		return nil, err
	}
	var image io.ReaderAt
	below := int64(0)
	if !t.Blank {
		below = b.lower.cp.Volumes[t.Volume].Size
		if image, err = b.lower.image(t.Volume); err != nil {
			return nil, errors.Join(err, upper.Close())
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	o := newOverlay(upper, image, below)
	b.overlays[t.Volume] = o
	return o, nil
}

// sources tells what is to be archived of the set that was built, and what is open for it.
func (b *builder) sources(dir string, cp replica.Checkpoint) (sources []archive.Source, files []io.Closer, err error) {
	for _, name := range Parts(cp) {
		v := cp.Volumes[name]
		s := archive.Source{Name: name, Size: size(name, v)}
		o := b.overlays[name]
		switch {
		case name == journal.Objects:
			f, err := os.Open(replica.LogPath(dir, v))
			if err != nil {
				return nil, files, err
			}
			s.Image, files = f, append(files, f)
		case o == nil: // nothing of it was written
			if s.Image, err = b.lower.image(name); err != nil {
				return nil, files, err
			}
			if b.lower.point != nil {
				s.Before, s.Changed = b.lower.point.Part(name), grid.New(s.Size)
			}
		default:
			s.Image = o
			if b.lower.point != nil && o.image != nil {
				s.Before, s.Changed = b.lower.point.Part(name), o.own.Clone()
			}
		}
		if s.Changed != nil {
			forget(s.Changed)
		}
		sources = append(sources, s)
	}
	return sources, files, nil
}
