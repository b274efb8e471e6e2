package barrier

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/events"
)

// The model is an application whose state lies in volumes and in Kubernetes objects. Each of its threads
// takes steps 1, 2, 3, … one after the other, each a write to a random volume or a change of an object of a random kind,
// and step n+1 only after n was acknowledged. Streams are slices; the barriers are real.
const (
	modelVolumes = 3
	modelKinds   = 3
	modelThreads = 4
)

// step is what a thread did: its n-th.
type step struct{ thread, n int }

// gate is a tap's, as Tap and ObjectsTap promise it.
type gate struct {
	mu     sync.Mutex
	opened *sync.Cond
	newest events.Token
	closed bool
	limit  *time.Timer
}

func (g *gate) hold(t events.Token, limit time.Duration) error {
	if t.Compare(g.newest) <= 0 {
		return cdc.ErrStaleToken
	}
	g.newest, g.closed = t, true
	g.limit = time.AfterFunc(limit, func() { g.Release(t) })
	return nil
}

// open opens the gate if it is closed for t.
func (g *gate) open(t events.Token) bool {
	if !g.closed || g.newest != t {
		return false
	}
	g.limit.Stop()
	g.closed = false
	g.opened.Broadcast()
	return true
}

func (g *gate) Release(t events.Token) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open(t)
}

func (g *gate) Ready() (bool, events.Progress) { return true, events.Progress{} }

// jitter waits for up to about a millisecond, mostly not at all.
func jitter(ctx context.Context) {
	if rand.IntN(4) == 0 {
		pause(ctx, time.Duration(rand.IntN(1000))*time.Microsecond)
	}
}

// modelVolume is a volume: a mutation is in its stream when it is acknowledged.
type modelVolume struct {
	gate
	log []step // a Mark is the zero step
}

func newModelVolume() *modelVolume {
	v := new(modelVolume)
	v.opened = sync.NewCond(&v.mu)
	return v
}

func (v *modelVolume) write(s step) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.closed {
		v.opened.Wait()
	}
	v.log = append(v.log, s)
}

func (v *modelVolume) Hold(t events.Token, limit time.Duration) error {
	jitter(context.Background())
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.hold(t, limit)
}

func (v *modelVolume) Mark(ctx context.Context, t events.Token) (cdc.Marked, error) {
	jitter(ctx)
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.open(t) {
		return cdc.Marked{}, cdc.ErrNotHeld
	}
	v.log = append(v.log, step{})
	seq := uint64(len(v.log))
	return cdc.Marked{Stored: func(context.Context) (uint64, error) { return seq, nil }}, nil
}

// change is one change of an object, under its revision.
type change struct {
	step
	kind     int
	revision uint64
}

// faults are what can be wrong with the tap of the objects.
type faults struct {
	readAtHold bool // the revision is the one of when the hold was asked for
	readAtMark bool // the revision is the one of when the mark was asked for
	leaky      bool // the gate isn't closed by a hold
	unproven   bool // a mark doesn't wait for kinds whose watch is late
}

// modelObjects is an API server and the watcher of its objects.
type modelObjects struct {
	gate
	faults
	arrived *sync.Cond // the watch told something

	revision uint64             // of the API server
	last     [modelKinds]uint64 // revision of the last change of each kind
	told     [modelKinds]uint64 // what the watch told last
	pending  []change           // told behind a closed gate
	log      []change           // the stream; a Mark is the zero change
	proven   uint64
	bound    map[events.Token]uint64
	down     bool                    // the API server doesn't answer; its watches tell nothing
	watches  [modelKinds]chan change // from the API server to the watcher
}

func newModelObjects(f faults) *modelObjects {
	o := &modelObjects{faults: f, revision: 1, proven: 1, bound: make(map[events.Token]uint64)}
	o.opened, o.arrived = sync.NewCond(&o.mu), sync.NewCond(&o.mu)
	for i := range o.watches {
		o.watches[i] = make(chan change, 16)
	}
	return o
}

// write changes an object and returns when the API server has acknowledged it.
func (o *modelObjects) write(kind int, s step) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.watches[kind]) == cap(o.watches[kind]) {
		o.arrived.Wait() // else the watch would fall behind without end
	}
	o.revision++
	o.last[kind] = o.revision
	o.watches[kind] <- change{s, kind, o.revision}
}

// watch tells of the changes of one kind, late.
func (o *modelObjects) watch(ctx context.Context, kind int) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-o.watches[kind]:
			jitter(ctx)
			o.mu.Lock()
			o.told[kind] = c.revision
			if o.closed && !o.leaky {
				o.pending = append(o.pending, c)
			} else {
				o.log = append(o.log, c)
			}
			o.arrived.Broadcast()
			o.mu.Unlock()
		}
	}
}

func (o *modelObjects) Hold(t events.Token, limit time.Duration) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flush()
	if o.readAtHold {
		o.bound[t] = o.revision
	}
	return o.hold(t, limit)
}

// flush appends what waited behind a gate that has opened by itself.
func (o *modelObjects) flush() {
	o.log, o.pending = append(o.log, o.pending...), nil
}

func (o *modelObjects) Revision(ctx context.Context, t events.Token) (string, error) {
	jitter(ctx)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.down {
		return "", errors.New("connection refused")
	}
	if !o.readAtHold {
		o.bound[t] = o.revision
	}
	return strconv.FormatUint(o.bound[t], 10), nil
}

func (o *modelObjects) Mark(ctx context.Context, t events.Token) (ObjectsMarked, error) {
	jitter(ctx)
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed || o.newest != t {
		return ObjectsMarked{}, cdc.ErrNotHeld
	}
	o.limit.Stop()
	if bound, ok := o.bound[t]; ok {
		delete(o.bound, t)
		if o.readAtMark {
			bound = o.revision
		}
		if err := o.prove(ctx, t, bound); err != nil {
			return ObjectsMarked{}, err
		}
	}
	o.log = append(o.log, change{})
	seq, proven := uint64(len(o.log)), o.proven
	o.flush()
	o.open(t)
	return ObjectsMarked{
		Revision: strconv.FormatUint(proven, 10),
		Stored:   func(context.Context) (uint64, error) { return seq, nil },
	}, nil
}

// prove appends every change up to bound and none above it.
func (o *modelObjects) prove(ctx context.Context, t events.Token, bound uint64) error {
	defer context.AfterFunc(ctx, o.arrived.Broadcast)()
	want := o.last // later changes of a kind may be above bound: then there is nothing to wait for but them
	for kind := range want {
		for o.told[kind] < min(want[kind], bound) && !o.unproven {
			if ctx.Err() != nil || !o.closed || o.newest != t {
				return cdc.ErrNotHeld
			}
			o.arrived.Wait()
		}
	}
	var above []change
	for _, c := range o.pending {
		if c.revision <= bound {
			o.log = append(o.log, c)
		} else {
			above = append(above, c)
		}
	}
	o.pending, o.proven = above, max(o.proven, bound)
	return nil
}

// application is the model's threads.
type application struct {
	volumes []*modelVolume
	objects *modelObjects
	where   [modelThreads][]int // of each step: a volume's number, or modelVolumes + a kind's; of 0: nothing
}

func (a *application) run(ctx context.Context, seed uint64) error {
	var wg sync.WaitGroup
	for thread := range modelThreads {
		rnd := rand.New(rand.NewPCG(seed, uint64(thread)))
		wg.Go(func() {
			pace := time.NewTicker(50 * time.Microsecond)
			defer pace.Stop()
			for n := 1; ctx.Err() == nil; n++ {
				place := rnd.IntN(modelVolumes + modelKinds)
				a.where[thread] = append(a.where[thread], place)
				if s := (step{thread + 1, n}); place < modelVolumes {
					a.volumes[place].write(s)
				} else {
					a.objects.write(place-modelVolumes, s)
				}
				if n%16 == 0 { // else two steps in a row are as close as they can be
					<-pace.C
				}
			}
		})
	}
	wg.Wait()
	return nil
}

// cutModel runs the application under crash and labelled barriers and returns the commits and every violation of
// their cuts.
func (r *rig) cutModel(seed uint64, enough int, f faults, meanwhile func(context.Context, *Coordinator)) (commits []*events.Commit, violations []string) {
	r.t.Helper()
	a := &application{objects: newModelObjects(f)}
	var names []string
	for i := range modelVolumes {
		a.volumes = append(a.volumes, newModelVolume())
		names = append(names, fmt.Sprintf("v%d", i))
		r.serve(names[i], 1, a.volumes[i])
	}
	r.serveObjects(1, a.objects)
	for kind := range modelKinds {
		start(r.t, func(ctx context.Context) error { return a.objects.watch(ctx, kind) })
	}
	if err := r.coordinate(Options{Volumes: volumes(names...), Objects: true, Interval: onDemand}).stop(); err != nil {
		r.t.Fatal(err) // the older snapshotter, whose messages may still be under way
	}
	c := r.coordinate(Options{Volumes: volumes(names...), Objects: true, Interval: time.Millisecond})
	r.eventually("all are members", func() error {
		if got := r.mark("start"); len(got.Vector) != modelVolumes || got.Objects == nil {
			return fmt.Errorf("committed %+v", got)
		}
		return nil
	})
	load := start(r.t, func(ctx context.Context) error { return a.run(ctx, seed) })
	side := start(r.t, func(ctx context.Context) error { meanwhile(ctx, c.Coordinator); return nil })
	for range enough {
		r.mark("x")
	}
	side.stop()
	load.stop()
	r.mark("end")
	if err := c.stop(); err != nil {
		r.t.Error(err)
	}
	commits = r.commits()
	return commits, a.checkCuts(r.t, commits)
}

// cutState is what a cut holds of each thread: the steps, and the first that is missing.
type cutState struct {
	has           [modelThreads + 1][]bool
	first, newest [modelThreads + 1]int
}

func (s *cutState) add(p step) {
	if p.n == 0 {
		return
	}
	for len(s.has[p.thread]) <= p.n {
		s.has[p.thread] = append(s.has[p.thread], false)
	}
	s.has[p.thread][p.n] = true
	s.newest[p.thread] = max(s.newest[p.thread], p.n)
}

// checkCuts rolls forward from commit to commit. A labelled cut holds of every thread all steps up to
// some step and none behind it. A crash cut holds all writes that came before any step that it has; objects may trail,
// but not below the revision that the commit tells.
func (a *application) checkCuts(t testing.TB, commits []*events.Commit) (violations []string) {
	var s cutState
	at := make([]int, modelVolumes)
	objects, labelled := 0, 0
	for i := range s.first {
		s.first[i] = 1
	}
	wrong := func(c *events.Commit, format string, args ...any) {
		violations = append(violations, fmt.Sprintf("barrier %d of type %d: ", c.Token.Barrier, c.Type)+fmt.Sprintf(format, args...))
	}
	for _, c := range commits {
		if len(c.Vector) != modelVolumes || c.Objects == nil {
			continue // from before all were members
		}
		for i, v := range c.Vector {
			for ; at[i] < int(v.Position.Seq); at[i]++ {
				s.add(a.volumes[i].log[at[i]])
			}
		}
		var revision uint64
		for ; objects < int(c.Objects.Seq); objects++ {
			s.add(a.objects.log[objects].step)
			revision = max(revision, a.objects.log[objects].revision)
		}
		proven, err := strconv.ParseUint(c.Revision, 10, 64)
		switch {
		case err != nil:
			wrong(c, "revision: %v", err)
		case c.Type == events.Labeled && revision > proven:
			wrong(c, "revision %d is in it, above %d", revision, proven)
		}
		for _, later := range a.objects.log[objects:] {
			if later.revision > 0 && later.revision <= proven {
				wrong(c, "revision %d is not in it, below %d", later.revision, proven)
				break
			}
		}
		for thread := 1; thread <= modelThreads; thread++ {
			for n := s.first[thread]; n <= s.newest[thread]; n++ {
				switch place := a.where[thread-1][n-1]; {
				case s.has[thread][n]:
					if n == s.first[thread] {
						s.first[thread]++
					}
				case place < modelVolumes || c.Type == events.Labeled:
					wrong(c, "thread %d: it has step %d and lacks step %d at %d", thread, s.newest[thread], n, place)
					n = s.newest[thread]
				}
			}
		}
		if c.Type == events.Labeled {
			labelled++
		}
	}
	t.Logf("%d commits, %d of them labelled, %d changes of objects, steps %v", len(commits), labelled, objects, s.newest[1:])
	return violations
}
