package replay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/objects"
)

// lockRetry is how often a base that is being moved is asked for.
const lockRetry = 200 * time.Millisecond

// Options shape a Run.
type Options struct {
	Site    *journal.Site    // DR site; nil: the archive alone is used
	Archive *archive.Archive // of the group; nil: none
	Group   string
	Dir     string // of the group at the DR site, for its base; it need not exist

	Target string // an RFC 3339 time, a barrier's number, a label, or Latest
	Into   string // directory to fill; it must be empty or not exist

	// Notice is told, in a sentence, what a person should know who sees the replay succeed. Nil: nobody is.
	Notice func(string)
	// Progress is called about four times a second, and once at the end. Nil: not called.
	Progress func(Progress)
	Log      *slog.Logger // nil: silent
}

func (o *Options) notice(format string, args ...any) {
	if o.Notice != nil {
		o.Notice(fmt.Sprintf(format, args...))
	}
}

// Phase is a part of a replay.
type Phase string

// The phases.
const (
	Copying   Phase = "copying"   // the base
	Replaying Phase = "replaying" // the journal behind it
)

// Progress is how far a replay has come.
type Progress struct {
	Phase   Phase
	Point   Point         // that is recovered
	Bytes   uint64        // done in this phase
	Total   uint64        // of this phase; an estimate while the base is copied
	Rate    float64       // bytes per second, over the last seconds
	Elapsed time.Duration // since the replay began
}

// Volume is one recovered volume.
type Volume struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
	Path string `json:"path"` // of its image
	Size int64  `json:"size"` // bytes
}

// Replayed is the Kubernetes objects of a recovered point.
type Replayed struct {
	Count    int    `json:"count"`
	Revision string `json:"revision,omitempty"` // resourceVersion that they were proven to have reached

	View *objects.View `json:"-"` // readable as long as anybody has it
}

// Result is what a replay made.
type Result struct {
	Point   Point         `json:"point"`
	Volumes []Volume      `json:"volumes"` // by name
	Objects *Replayed     `json:"objects"` // null where the point has none
	Bytes   uint64        `json:"bytes"`   // of the journal that was read
	Base    uint64        `json:"base"`    // barrier of the base it began from; 0: blank volumes
	Elapsed time.Duration `json:"elapsed"`
}

// ErrNotEmpty is a directory to fill that holds something.
var ErrNotEmpty = errors.New("the directory is not empty: name a new one")

// Run recovers the group at the target into new volumes. What it returns without an error is the group
// exactly at the point's cut, durable: every event up to the marks of its commit was read, verified and
// applied. With Latest, damage in the journal makes it recover the newest point before the damage.
// A point that is not here any more gives a *TrimmedError. A failed run leaves o.Into as it was.
func Run(ctx context.Context, o Options) (*Result, error) {
	r := newRun(o)
	hold, err := holdBase(ctx, o.Dir, r.log)
	if err != nil {
		return nil, err
	}
	defer hold()
	if err := checkEmpty(o.Into); err != nil {
		return nil, err
	}
	h, err := open(ctx, &o)
	if err != nil {
		return nil, err
	}
	var result *Result
	err = r.reach(h, func(point *Point) (err error) {
		if result, err = r.recover(ctx, h, point); err != nil {
			err = errors.Join(err, discard(o.Into))
		}
		return err
	})
	return result, err
}

// reach recovers the point that the target means; with Latest it goes back before damage that is found on the way.
func (r *run) reach(h *history, recover func(*Point) error) error {
	for {
		point, err := choose(h.points(), r.o.Target)
		if err != nil {
			return err
		}
		if err = recover(point); err == nil {
			return nil
		}
		err = fmt.Errorf("recover %s: %w", describe(point), err)
		stream, seq, damaged := replica.Damage(err)
		if !damaged || r.o.Target != Latest {
			return err
		}
		r.log.Warn("the journal is damaged, going back to the newest point before it", "error", err)
		h.damaged(replica.Damaged{Stream: stream, Seq: seq, Reason: err.Error()})
	}
}

// holdBase keeps the applier from trimming what the replay reads. Where the group's directory is not
// on this machine nothing can be held.
func holdBase(ctx context.Context, dir string, log *slog.Logger) (release func(), err error) {
	if _, err := os.Stat(dir); dir == "" || errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	told := false
	for {
		hold, err := replica.HoldBase(dir)
		if err == nil {
			return func() { _ = hold.Close() }, nil // closing a lock file that was only read can't lose anything
		}
		if !errors.Is(err, replica.ErrLocked) {
			return nil, err
		}
		if !told {
			log.Info("waiting while the applier moves its base")
			told = true
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the base: %w", ctx.Err())
		case <-time.After(lockRetry):
		}
	}
}

// run is one replay.
type run struct {
	o     Options
	log   *slog.Logger
	began time.Time
	read  atomic.Uint64 // bytes of the journal
}

func newRun(o Options) *run {
	r := &run{o: o, log: o.Log, began: time.Now()}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	return r
}

func (r *run) recover(ctx context.Context, h *history, point *Point) (*Result, error) {
	r.read.Store(0)
	meter := newMeter(r.o.Progress, *point, r.began)
	defer meter.stop()
	base, err := r.copyBase(ctx, h, point, meter)
	if err != nil {
		return nil, err
	}
	set, err := r.fill(ctx, h, r.o.Into, point, meter)
	if err != nil {
		return nil, err
	}
	result := r.result(set, point, base)
	if err := set.Close(); err != nil {
		return nil, err
	}
	meter.finish()
	return result, nil
}

// fill brings the set in a directory to a point.
func (r *run) fill(ctx context.Context, h *history, dir string, point *Point, meter *meter) (*replica.Set, error) {
	set, err := replica.Open(dir, replica.Options{Group: r.o.Group, Log: r.log, Hooks: replica.Hooks{
		Read: func(_ string, m journal.Message) {
			r.read.Add(uint64(m.Size))
			meter.add(uint64(m.Size))
		},
		Mismatch: func(volume string, _ events.Position, region replica.Extent) {
			r.log.Error("a region differs from the hash that the capturer sent", "volume", volume, "offset", region.Offset, "length", region.Length)
		},
	}})
	if err != nil {
		return nil, err
	}
	meter.phase(Replaying, h.estimate(point.commit, set.Checkpoint()))
	mirrors := replica.NewMirrors(r.o.Site)
	err = set.Fill(ctx, mirrors, point.commit)
	mirrors.Close()
	if err != nil {
		return nil, errors.Join(err, set.Close())
	}
	return set, nil
}

// nearest returns the nearest state there is to begin with, and its barrier: the replicas themselves, where no applier works on
// them, else the base, else none. It stays as it is until it is released.
func (r *run) nearest(h *history, point *Point) (from string, at uint64, release func()) {
	release = func() {}
	if h.base.Commit.Barrier > 0 {
		from, at = replica.BaseDir(r.o.Dir), h.base.Commit.Barrier
	}
	if hold, err := replica.Hold(r.o.Dir); err == nil {
		cp, err := replica.ReadCheckpoint(r.o.Dir)
		if err == nil && cp.Commit.Barrier > at && h.lacks(&cp, point.commit) == "" {
			from, at = r.o.Dir, cp.Commit.Barrier
		}
		release = func() { _ = hold.Close() } // it was only read
	}
	return from, at, release
}

// copyBase begins Into with the nearest state there is. It returns that state's barrier.
func (r *run) copyBase(ctx context.Context, h *history, point *Point, meter *meter) (uint64, error) {
	from, at, release := r.nearest(h, point)
	defer release()
	if from == "" {
		return 0, nil
	}
	cp, err := replica.ReadCheckpoint(from)
	if err != nil {
		return 0, err
	}
	total := uint64(0)
	for _, v := range cp.Volumes {
		total += uint64(v.Size + v.Log.Length)
	}
	meter.phase(Copying, total)
	return at, replica.Clone(ctx, from, r.o.Into, replica.CloneOptions{Copied: func(n int64) { meter.add(uint64(n)) }})
}

func (r *run) result(set *replica.Set, point *Point, base uint64) *Result {
	cp := set.Checkpoint()
	result := &Result{Point: *point, Bytes: r.read.Load(), Base: base, Elapsed: time.Since(r.began)}
	for _, name := range point.Volumes {
		v := cp.Volumes[name]
		result.Volumes = append(result.Volumes, Volume{Name: name, UID: v.UID, Path: set.Path(name), Size: v.Size})
	}
	if v := set.Objects(); v != nil && point.Objects {
		result.Objects = &Replayed{Count: v.Len(), Revision: v.Revision(), View: v}
	}
	return result
}

// estimate tells how many bytes of the journal lie between a checkpoint and a commit, taking every message of
// a stream for as large as the others.
func (h *history) estimate(c *events.Commit, cp replica.Checkpoint) uint64 {
	total := uint64(0)
	for _, v := range replica.Parts(c) {
		legs, _, err := replica.Path(cp.Volumes[v.Volume], v.Position, h.opening(v.Volume))
		if err != nil {
			continue // the replay itself says what is wrong
		}
		for _, leg := range legs {
			m, ok := h.mirrors[journal.StreamID{Group: h.group, Part: v.Volume, Generation: leg.Generation}]
			messages := uint64(0)
			if ok {
				messages = m.Newest().Messages
			}
			if messages > 0 {
				total += uint64(float64(m.Newest().Bytes) / float64(messages) * float64(leg.Last-leg.After))
			}
		}
	}
	return total
}

func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("replay into %s: %w", dir, ErrNotEmpty)
	}
	return nil
}

// discard empties the directory that a failed attempt began to fill.
func discard(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}
