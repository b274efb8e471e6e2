package replay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
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
	Into   string // directory to fill; it must be empty, not exist, or hold what the same replay left
	// Devices names the block devices that volumes are recovered onto; the others become files in Into. What a device holds
	// is overwritten.
	Devices map[string]string

	// Notice is told, in a sentence, what a person should know who sees the replay succeed. Nil: nobody is.
	Notice func(string)
	// Finish is called with what was recovered before the replay counts as finished: after an error the same run goes on with it.
	// It is called again if the run dies. Nil: there is nothing more to do.
	Finish func(*Result) error
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
	Copying   Phase = "copying"   // the base, or the replicas
	Fetching  Phase = "fetching"  // an archived point
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
	From    Origin        `json:"from"`    // what it began from
	Base    uint64        `json:"base"`    // barrier of that; 0: blank volumes
	Elapsed time.Duration `json:"elapsed"`
}

// Run recovers the group at the target into new volumes. What it returns without an error is the group
// exactly at the point's cut, durable: every event up to the marks of its commit was read, verified and
// applied, and every chunk of an archived point was verified by its name. It begins from whatever leaves least to read.
// Damage makes it begin from something else, or, with Latest, recover the newest point before the damage.
// A point that is not here any more gives a *TrimmedError.
//
// A run that fails or dies leaves in o.Into what the same run goes on from, and says so; where there is nothing to go on with,
// or the point can't be recovered for good, it leaves o.Into as it was. Block devices are left as they are.
func Run(ctx context.Context, o Options) (*Result, error) {
	r := newRun(o)
	hold, err := holdBase(ctx, o.Dir, r.log)
	if err != nil {
		return nil, err
	}
	defer hold()
	w, err := openWork(&o)
	if err != nil {
		return nil, err
	}
	result, err := r.run(ctx, w)
	return result, errors.Join(err, w.close())
}

func (r *run) run(ctx context.Context, w *work) (*Result, error) {
	if point := w.recovered(r.o.Target); point != nil {
		result, err := r.end(w, point)
		if err != nil {
			err = w.keeps(fmt.Errorf("recover %s: %w", describe(point), err))
		}
		return result, err
	}
	h, err := open(ctx, &r.o)
	if err != nil {
		return nil, err
	}
	var result *Result
	err = r.reach(h, w, func(point *Point) (err error) {
		if result, err = r.recover(ctx, h, w, point); err == nil {
			return nil
		}
		if h.spoil(err) || !w.worth() {
			return errors.Join(err, w.discard())
		}
		return w.keeps(err)
	})
	return result, err
}

// reach recovers the point that the target means. Damage that is found on the way is noted: where something else leads to the point that
// is tried, and with Latest it goes back before the damage.
func (r *run) reach(h *history, w *work, recover func(*Point) error) error {
	for {
		point, err := r.target(h, w)
		if err != nil {
			return h.explain(err)
		}
		if err = recover(point); err == nil {
			return nil
		}
		err = fmt.Errorf("recover %s: %w", describe(point), err)
		if !h.spoil(err) || r.o.Target != Latest && !h.restorable(point) {
			return err
		}
		r.o.notice("%v; trying without", err)
	}
}

// explain adds to an error about points what is not known of them.
func (h *history) explain(err error) error {
	if h.unread == nil {
		return err
	}
	return fmt.Errorf("%w (%w)", err, h.unread)
}

// target returns the point that is to be recovered: that of the work which is gone on with, else the one that the target means.
func (r *run) target(h *history, w *work) (*Point, error) {
	points := h.points()
	if w == nil || w.m == nil {
		return choose(points, r.o.Target)
	}
	var kept *Point
	for i := range points {
		if w.m.is(&points[i]) {
			kept = &points[i]
		}
	}
	if r.o.Target != w.m.Target {
		if p, err := choose(points, r.o.Target); err != nil || !w.m.is(p) {
			return nil, errors.Join(&UnfinishedError{w.dir, fmt.Sprintf("to %s (--to %s)", w.m.describe(), w.m.Target)}, err)
		}
	}
	if kept != nil && kept.Restorable {
		return kept, nil
	}
	if w.m.From == Archived && (r.o.Archive == nil || h.unread != nil) {
		return nil, fmt.Errorf("go on with the replay in %s to %s: it needs the archive", w.dir, w.m.describe())
	}
	if r.o.Target != Latest {
		return nil, fmt.Errorf("go on with the replay in %s: %s can't be recovered any more; remove the directory and choose another point", w.dir, w.m.describe())
	}
	r.o.notice("%s can't be recovered any more, beginning anew", w.m.describe())
	if r.dry {
		return choose(points, r.o.Target)
	}
	if err := w.discard(); err != nil {
		return nil, err
	}
	return choose(points, r.o.Target)
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
	o       Options
	log     *slog.Logger
	began   time.Time
	read    atomic.Uint64 // bytes of the journal
	objects bool          // of them alone
	dry     bool          // nothing is to be written
}

func newRun(o Options) *run {
	r := &run{o: o, log: o.Log, began: time.Now()}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	return r
}

func (r *run) recover(ctx context.Context, h *history, w *work, point *Point) (*Result, error) {
	r.read.Store(0)
	meter := newMeter(r.o.Progress, *point, r.began)
	defer meter.stop()
	if err := r.begin(ctx, h, w, point, meter); err != nil {
		return nil, err
	}
	set, err := r.fill(ctx, h, w.dir, point, meter)
	if err != nil {
		return nil, err
	}
	return r.conclude(w, set, point, meter)
}

// end goes on with work whose volumes are recovered: it needs neither journal nor archive any more.
func (r *run) end(w *work, point *Point) (*Result, error) {
	meter := newMeter(r.o.Progress, *point, r.began)
	defer meter.stop()
	cp, err := replica.ReadCheckpoint(w.dir)
	if err == nil {
		err = r.checkDevices(&cp, point)
	}
	if err != nil {
		return nil, err
	}
	set, err := r.openSet(w.dir, meter)
	if err != nil {
		return nil, err
	}
	return r.conclude(w, set, point, meter)
}

// conclude makes a replay of a set that is at its point count as finished, and closes the set.
func (r *run) conclude(w *work, set *replica.Set, point *Point, meter *meter) (*Result, error) {
	result := r.result(set, point, w.m)
	if r.o.Finish != nil {
		if err := r.o.Finish(result); err != nil {
			return nil, errors.Join(err, set.Close())
		}
	}
	if err := set.Close(); err != nil {
		return nil, err
	}
	if err := w.finish(); err != nil {
		return nil, err
	}
	result.Elapsed = time.Since(r.began)
	meter.finish()
	return result, nil
}

// begin brings the directory to where the journal goes on to the point.
func (r *run) begin(ctx context.Context, h *history, w *work, point *Point, meter *meter) error {
	if w.m != nil {
		done, err := r.resume(ctx, h, w, point, meter)
		if done || err != nil {
			return err
		}
		if err := w.discard(); err != nil {
			return err
		}
	}
	list, release := r.bases(h, point)
	defer release()
	if len(list) == 0 {
		return errMovedOn(point)
	}
	from := list[0]
	if err := r.checkDevices(&from.set, point); err != nil {
		return err
	}
	m := &marker{
		Group: r.o.Group, Target: r.o.Target, Barrier: point.Barrier, Time: point.Time,
		From: from.origin, Base: from.barrier, Devices: r.o.Devices,
	}
	if from.point != nil {
		m.Parts = extents(&from.point.point)
	}
	var err error
	if m.Disks, err = disks(m.Devices); err != nil {
		return err
	}
	if err := w.begin(m); err != nil {
		return err
	}
	return r.place(ctx, &from, w.dir, m.Parts, w.save, meter)
}

// resume goes on with what an earlier attempt left. It tells whether that can be done.
func (r *run) resume(ctx context.Context, h *history, w *work, point *Point, meter *meter) (bool, error) {
	switch cp, err := replica.ReadCheckpoint(w.dir); {
	case err == nil && (w.m.From == Blank && cp.Floor() == 0 || h.leads(&cp, point)):
		return true, r.checkDevices(&cp, point)
	case err == nil || !errors.Is(err, fs.ErrNotExist):
		r.o.notice("what is in %s doesn't lead to %s any more, beginning anew", w.dir, describe(point))
		return false, nil
	case w.m.From != Archived:
		return false, nil // a copy that was cut short is worth nothing
	}
	if a := h.begun(w.m, point); a != nil {
		if err := r.checkDevices(&a.set, point); err != nil {
			return true, err
		}
		return true, r.fetch(ctx, a, w.dir, w.m.Parts, w.save, meter)
	}
	if r.o.Archive == nil || h.unread != nil {
		return false, h.explain(fmt.Errorf("go on with the replay in %s: it needs the archive", w.dir))
	}
	r.o.notice("the archived point that %s came from is gone, beginning anew", w.dir)
	return false, nil
}

// place puts a base into a directory.
func (r *run) place(ctx context.Context, from *base, dir string, done map[string]extent, save func() error, meter *meter) error {
	switch {
	case from.point != nil:
		return r.fetch(ctx, from.point, dir, done, save, meter)
	case from.dir == "":
		return nil
	}
	meter.phase(Copying, occupied(from.dir, &from.set, r.objects))
	copied := func(n int64) { meter.add(uint64(n)) }
	if r.objects {
		return replica.CloneObjects(ctx, from.dir, dir, copied)
	}
	devices := make(map[string]string)
	for name, device := range r.o.Devices {
		if from.set.Volumes[name].Seq > 0 {
			devices[name] = device
		}
	}
	return replica.Clone(ctx, from.dir, dir, replica.CloneOptions{Devices: devices, Copied: copied})
}

// openSet opens the set in a directory.
func (r *run) openSet(dir string, meter *meter) (*replica.Set, error) {
	return replica.Open(dir, replica.Options{Group: r.o.Group, Devices: r.o.Devices, Log: r.log, Hooks: replica.Hooks{
		Read: func(_ string, m journal.Message) {
			r.read.Add(uint64(m.Size))
			meter.add(uint64(m.Size))
		},
		Mismatch: func(volume string, _ events.Position, region replica.Extent) {
			r.log.Error("a region differs from the hash that the capturer sent", "volume", volume, "offset", region.Offset, "length", region.Length)
		},
	}})
}

// fill brings the set in a directory to a point.
func (r *run) fill(ctx context.Context, h *history, dir string, point *Point, meter *meter) (*replica.Set, error) {
	set, err := r.openSet(dir, meter)
	if err != nil {
		return nil, err
	}
	if cp := set.Checkpoint(); point.commit == nil || cp.Whole() && cp.Commit.Barrier == point.Barrier {
		if !h.leads(&cp, point) {
			return nil, errors.Join(fmt.Errorf("the set is at barrier %d", cp.Commit.Barrier), set.Close())
		}
		return set, nil // it is there already
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

func (r *run) result(set *replica.Set, point *Point, m *marker) *Result {
	cp := set.Checkpoint()
	result := &Result{Point: *point, Bytes: r.read.Load(), From: m.From, Base: m.Base, Elapsed: time.Since(r.began)}
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
