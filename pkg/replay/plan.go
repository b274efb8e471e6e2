package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
)

// How much of a source is read to learn how fast it is.
const (
	sampleBytes = 32 << 20
	sampleTime  = time.Second
)

// Reading is what a replay reads from one place.
type Reading struct {
	Bytes uint64 `json:"bytes"`
	// Rate is what a sample gave, in bytes per second; 0: none was taken, or it was too small to tell.
	Rate float64 `json:"rate"`
	// Time is how long Bytes take at Rate; 0: not known.
	Time time.Duration `json:"time"`
}

// Plan is what a Run would do.
type Plan struct {
	Point    Point         `json:"point"`
	From     Origin        `json:"from"`     // what it would begin from
	Base     uint64        `json:"base"`     // barrier of that; 0: blank volumes
	Copy     Reading       `json:"copy"`     // of the replicas or the base; nothing where files share their blocks
	Archive  Reading       `json:"archive"`  // of the store
	Requests int64         `json:"requests"` // to the store
	Journal  Reading       `json:"journal"`
	Time     time.Duration `json:"time"`    // of all of it; 0: not known
	Resumes  bool          `json:"resumes"` // it would go on with what is in Into
}

// DryRun tells what a Run would read and about how long that takes, judging by samples that it reads. It writes nothing, and refuses
// what Run refuses before it writes.
func DryRun(ctx context.Context, o Options) (*Plan, error) {
	r := newRun(o)
	r.dry = true
	hold, err := holdBase(ctx, o.Dir, r.log)
	if err != nil {
		return nil, err
	}
	defer hold()
	w, err := openWork(&o)
	if err != nil {
		return nil, err
	}
	plan, err := r.plan(ctx, w)
	return plan, errors.Join(err, w.close())
}

func (r *run) plan(ctx context.Context, w *work) (*Plan, error) {
	if point := w.recovered(r.o.Target); point != nil {
		cp, err := replica.ReadCheckpoint(w.dir)
		if err == nil {
			err = r.checkDevices(&cp, point)
		}
		return &Plan{Point: *point, From: w.m.From, Base: w.m.Base, Resumes: true}, err
	}
	h, err := open(ctx, &r.o)
	if err != nil {
		return nil, err
	}
	var plan *Plan
	err = r.reach(h, w, func(point *Point) (err error) {
		plan, err = r.planTo(ctx, h, w, point)
		return err
	})
	return plan, err
}

func (r *run) planTo(ctx context.Context, h *history, w *work, point *Point) (*Plan, error) {
	plan := &Plan{Point: *point}
	from, release, err := r.outlook(h, w, point, plan)
	if err != nil {
		return nil, err
	}
	defer release()
	plan.From, plan.Base = from.origin, from.barrier
	plan.Copy.Bytes, plan.Journal.Bytes = from.copies, from.replays
	if from.point != nil && from.fetches > 0 {
		if err := r.costs(ctx, w, from, plan); err != nil {
			return nil, err
		}
	}
	if plan.Copy.Bytes > 0 {
		plan.Copy.sampled(sampleSet(from))
	}
	if point.commit != nil && plan.Journal.Bytes > 0 {
		n, took, err := h.sampleJournal(ctx, point, &from.set)
		if err != nil {
			return nil, err
		}
		plan.Journal.sampled(n, took)
	}
	plan.Time = plan.Copy.Time + plan.Archive.Time + plan.Journal.Time
	for _, part := range []Reading{plan.Copy, plan.Archive, plan.Journal} {
		if part.Bytes > 0 && part.Time == 0 {
			plan.Time = 0
		}
	}
	return plan, nil
}

// outlook returns what the replay would begin from: what an earlier attempt left, or the base that leaves least to read.
func (r *run) outlook(h *history, w *work, point *Point, plan *Plan) (*base, func(), error) {
	if w.m != nil && w.m.is(point) {
		cp, err := replica.ReadCheckpoint(w.dir)
		switch {
		case err == nil && h.leads(&cp, point):
			plan.Resumes = true
			from := &base{origin: w.m.From, barrier: w.m.Base, set: cp}
			r.measure(h, point, from)
			return from, func() {}, r.checkDevices(&from.set, point)
		case errors.Is(err, os.ErrNotExist) && w.m.From == Archived:
			if a := h.begun(w.m, point); a != nil {
				plan.Resumes = true
				from := &base{origin: Archived, barrier: w.m.Base, set: a.set, point: a}
				r.measure(h, point, from)
				return from, func() {}, r.checkDevices(&from.set, point)
			}
		}
	}
	list, release := r.bases(h, point)
	if len(list) == 0 {
		release()
		return nil, nil, errMovedOn(point)
	}
	if err := r.checkDevices(&list[0].set, point); err != nil {
		release()
		return nil, nil, err
	}
	return &list[0], release, nil
}

// errMovedOn says that a point was there a moment ago.
func errMovedOn(p *Point) error {
	return fmt.Errorf("nothing leads to %s any more: its history was trimmed meanwhile", describe(p))
}

// costs asks the archive what a point takes, less what an earlier attempt has restored of it.
func (r *run) costs(ctx context.Context, w *work, from *base, plan *Plan) error {
	cost, err := r.o.Archive.Cost(ctx, from.point.point.Parts)
	var damage *archive.DamageError
	if errors.As(err, &damage) {
		return &spoiledError{from.point, err}
	}
	if err != nil {
		return err
	}
	left := 1.0
	if plan.Resumes {
		size, done := int64(0), int64(0)
		for _, p := range from.point.point.Parts {
			size += p.Size
			done += w.m.Parts[p.Name].Done
		}
		left = 1 - float64(done)/float64(max(size, 1))
	}
	plan.Requests = int64(float64(cost.Requests) * left)
	plan.Archive = Reading{
		Bytes: uint64(float64(cost.Bytes) * left), Rate: cost.Rate, Time: time.Duration(float64(cost.Time) * left),
	}
	return nil
}

// sampled sets the rate and the time by a sample.
func (r *Reading) sampled(bytes int64, took time.Duration) {
	if bytes == 0 || took <= 0 {
		return
	}
	r.Rate = float64(bytes) / took.Seconds()
	r.Time = time.Duration(float64(r.Bytes) / r.Rate * float64(time.Second))
}

// sampleSet reads the beginning of what is to be copied. A sample that fails tells nothing: the copy would say what is wrong.
func sampleSet(from *base) (bytes int64, took time.Duration) {
	began := time.Now()
	buf := make([]byte, 1<<20)
	for name, v := range from.set.Volumes {
		path := place(from.dir, name, v)
		if path == "" || v.Seq == 0 {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		for bytes < sampleBytes && time.Since(began) < sampleTime {
			n, err := io.ReadFull(f, buf)
			bytes += int64(n)
			if err != nil {
				break
			}
		}
		_ = f.Close() // it was only read
	}
	return bytes, time.Since(began)
}

// sampleJournal reads the beginning of the way to a point.
func (h *history) sampleJournal(ctx context.Context, p *Point, from *replica.Checkpoint) (bytes int64, took time.Duration, err error) {
	began := time.Now()
	for _, v := range replica.Parts(p.commit) {
		legs, _, err := replica.Path(from.Volumes[v.Volume], v.Position, h.opening(v.Volume))
		if err != nil {
			return 0, 0, err
		}
		for _, leg := range legs {
			n, err := h.sampleLeg(ctx, journal.StreamID{Group: h.group, Part: v.Volume, Generation: leg.Generation}, leg, began, sampleBytes-bytes)
			if err != nil {
				return 0, 0, err
			}
			bytes += n
		}
	}
	return bytes, time.Since(began), nil
}

func (h *history) sampleLeg(ctx context.Context, id journal.StreamID, leg replica.Leg, began time.Time, limit int64) (bytes int64, err error) {
	if limit <= 0 || time.Since(began) > sampleTime {
		return 0, nil
	}
	reader, err := h.site.OpenMirror(ctx, id, leg.After+1)
	if err != nil {
		return 0, err
	}
	defer reader.Close()
	for seq := leg.After + 1; seq <= leg.Last && bytes < limit && time.Since(began) < sampleTime; seq++ {
		m, err := reader.Next(ctx)
		if err != nil {
			return bytes, err
		}
		bytes += int64(m.Size)
	}
	return bytes, nil
}
