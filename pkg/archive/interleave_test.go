package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
)

// errKilled is what an actor that was killed gets from its store.
var errKilled = errors.New("killed")

// world is a store that runs and prunes work on, each operation of each when it is told to: in any order, however slowly, until
// they are killed. After every operation it checks that no listed point lost anything.
type world struct {
	t      *testing.T
	random *rand.Rand
	shelf  *shelf
	codec  *Archive // for its keys
	stalls bool     // leases of the living may run out

	mu     sync.Mutex
	moved  *sync.Cond
	actors []*actor

	last uint64 // barrier that was given to a run
	// spoiled are points that were listed by a run whose lease had run out: it may die before it takes them back. What is built on such a point is
	// no better.
	spoiled map[uint64]bool
	packs   map[string]map[ID]bool // what is in packs, which never change
	nodes   map[ID][]byte
	counts  map[string]int // what came of it all
}

// actor is a run or a prune.
type actor struct {
	name    string
	turn    chan struct{}
	killed  chan struct{}
	waiting int  // operations
	dead    bool // it was killed
	done    bool
	barrier uint64 // of a run's point
	leases  []string
	last    storetest.Op // that took effect
}

// on is an actor's hook.
func (w *world) on(a *actor) func(storetest.Op) *storetest.Fault {
	return func(op storetest.Op) *storetest.Fault {
		w.mu.Lock()
		if !a.dead {
			a.waiting++
			w.moved.Broadcast()
		}
		w.mu.Unlock()
		select {
		case <-a.killed:
			return &storetest.Fault{Before: errKilled}
		case <-a.turn:
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		a.last = op
		if op.Kind == "Put" && (strings.HasPrefix(op.Name, runLeases) || strings.HasPrefix(op.Name, lockLeases)) {
			if id, _, _ := strings.Cut(op.Name, "."); !slices.Contains(a.leases, id) {
				a.leases = append(a.leases, id)
			}
		}
		if op.Kind == "Put" && strings.HasPrefix(op.Name, pointsPrefix) && !w.alive(a.leases) {
			w.spoiled[a.barrier] = true
		}
		return nil
	}
}

// alive tells whether the last of an actor's leases has not run out.
func (w *world) alive(leases []string) bool {
	for info := range w.shelf.memory.List(context.Background(), leases[len(leases)-1]) {
		if w.now().Sub(info.Modified) <= usualTimes.dead {
			return true
		}
	}
	return false
}

func (w *world) now() time.Time { return w.shelf.memory.Now() }

// quiet waits until every actor waits for its turn, or is done.
func (w *world) quiet() (ready []*actor) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		busy := false
		ready = ready[:0]
		for _, a := range w.actors {
			busy = busy || !a.done && a.waiting == 0
			if !a.done {
				ready = append(ready, a)
			}
		}
		if !busy {
			return ready
		}
		w.moved.Wait()
	}
}

// step lets one operation of an actor happen.
func (w *world) step(a *actor) {
	w.mu.Lock()
	a.waiting--
	w.mu.Unlock()
	a.turn <- struct{}{}
	w.quiet()
	w.check()
}

// kill kills an actor: none of its operations has an effect from now on.
func (w *world) kill(a *actor) {
	w.mu.Lock()
	a.dead, a.waiting = true, 0
	close(a.killed)
	w.mu.Unlock()
	w.quiet()
	w.check()
}

// start lets an actor work.
func (w *world) start(name string, work func(a *actor, over store.Store, random *rand.Rand) error) {
	a := &actor{name: name, turn: make(chan struct{}), killed: make(chan struct{})}
	w.mu.Lock()
	w.actors = append(w.actors, a)
	w.mu.Unlock()
	faulty := storetest.NewFaulty(w.shelf.memory)
	faulty.On(w.on(a))
	random := rand.New(rand.NewPCG(w.random.Uint64(), 0))
	go func() {
		err := work(a, faulty, random)
		w.mu.Lock()
		defer w.mu.Unlock()
		a.done = true
		w.judge(a, err)
		w.moved.Broadcast()
	}()
	w.quiet()
}

// judge tells whether an actor may end like this.
func (w *world) judge(a *actor, err error) {
	var locked *LockedError
	how := "done"
	switch {
	case err == nil:
	case errors.Is(err, errKilled):
		how = "killed"
	case errors.As(err, &locked):
		how = "locked"
	case w.stalls && (errors.Is(err, errLost) || errors.Is(err, ErrAbandoned) || errors.Is(err, errOtherPrune)):
		how = "came too late"
	case w.stalls && len(w.spoiled) > 0 && isDamage(err):
		how = "met a spoiled point"
	default:
		w.t.Errorf("%s: %v", a.name, err)
	}
	w.counts[strings.Fields(a.name)[0]+" "+how]++
}

// openFor opens the archive for an actor.
func (w *world) openFor(over store.Store) (*Archive, error) {
	a, err := Open(context.Background(), Options{Store: over, Group: "bank", Workers: 1, Requests: 2})
	if err == nil {
		a.packTarget = 300
	}
	return a, err
}

// chunksOf draws content whose chunks are often those of other points.
func chunksOf(v volume, random *rand.Rand, n int) *grid.Set {
	changed := grid.New(int64(len(v)))
	for range n {
		c := random.Int64N(changed.Chunks())
		changed.Add(c)
		copy(v[c*grid.Chunk:], bytes.Repeat([]byte{byte(random.IntN(40))}, grid.Chunk))
	}
	return changed
}

// run archives a point, mostly over another one.
func (w *world) run() {
	w.last++
	barrier := w.last
	w.start(fmt.Sprintf("run %d", barrier), func(self *actor, over store.Store, random *rand.Rand) (err error) {
		self.barrier = barrier
		ctx := context.Background()
		a, err := w.openFor(over)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, a.Close()) }()
		// What is to be built on is known from before the run, as often as not.
		points, _, err := a.Points(ctx)
		if err != nil {
			return err
		}
		r, err := a.Begin(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.Close()) }()
		if random.IntN(2) == 0 {
			if points, _, err = a.Points(ctx); err != nil {
				return err
			}
		}
		v := make(volume, 12*grid.Chunk)
		s := source("disk", v)
		var base uint64
		if len(points) > 0 && random.IntN(5) > 0 {
			p := points[random.IntN(len(points))]
			w.mu.Lock()
			copy(v, w.shelf.truth[p.Barrier])
			w.mu.Unlock()
			s.Before, base = p.Part("disk"), p.Barrier
		}
		s.Changed = chunksOf(v, random, 1+random.IntN(6))
		w.mu.Lock()
		w.shelf.truth[barrier] = v
		w.spoiled[barrier] = w.spoiled[base]
		w.mu.Unlock()
		part, err := r.Add(ctx, s)
		if err != nil {
			return err
		}
		_, err = r.Commit(ctx, Point{Barrier: barrier, Time: time.Unix(int64(barrier), 0), Kind: "crash", Parts: []Part{part}})
		return err
	})
}

func (w *world) prune(unused float64) {
	w.start("prune", func(_ *actor, over store.Store, random *rand.Rand) error {
		a, err := w.openFor(over)
		if err != nil {
			return err
		}
		w.mu.Lock()
		o := PruneOptions{Policy: Policy{Last: 1 + random.IntN(4)}, Unused: unused}
		w.mu.Unlock()
		_, err = a.Prune(context.Background(), o)
		return errors.Join(err, a.Close())
	})
}

// pass lets time go by.
func (w *world) pass(d time.Duration) {
	w.shelf.ahead.Add(int64(d))
	if w.stalls {
		return
	}
	// The living have renewed their leases.
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.actors {
		if a.dead {
			continue
		}
		for _, lease := range a.leases {
			for info := range w.shelf.memory.List(context.Background(), lease) {
				data, err := w.shelf.memory.Get(context.Background(), info.Name, 0, -1)
				if err == nil {
					err = w.shelf.memory.Put(context.Background(), info.Name, data)
				}
				if err != nil {
					w.t.Error(err)
				}
			}
		}
	}
}

// check checks that packs hold what listed points need.
func (w *world) check() {
	ctx := context.Background()
	there := make(map[ID]bool)
	for info := range w.shelf.memory.List(ctx, packs) {
		if w.packs[info.Name] == nil {
			w.read(info)
		}
		for id := range w.packs[info.Name] {
			there[id] = true
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for info := range w.shelf.memory.List(ctx, pointsPrefix) {
		barrier, _ := parsePointObject(info.Name)
		raw, err := w.shelf.memory.Get(ctx, info.Name, 0, -1)
		if err != nil {
			w.t.Fatal(err)
		}
		p, err := decodePoint(raw, barrier, w.codec.keys)
		if err != nil {
			w.t.Fatal(err)
		}
		missing := 0
		root := p.Parts[0].Root
		if !root.IsZero() && !there[root] {
			missing++
		}
		for node := w.nodes[root]; len(node) > 0; node = node[32:] {
			if id := ID(node); !id.IsZero() && !there[id] {
				missing++
			}
		}
		if missing > 0 && !w.spoiled[barrier] {
			w.t.Fatalf("point %d lacks %d chunks", barrier, missing)
		}
	}
}

// read reads a pack.
func (w *world) read(info store.Info) {
	name, _ := parsePack(info.Name)
	entries, err := w.codec.readDirectory(context.Background(), name, info.Size)
	if err != nil {
		w.t.Fatal(err)
	}
	w.packs[info.Name] = make(map[ID]bool)
	off := int64(packHeader)
	for _, e := range entries {
		w.packs[info.Name][e.id] = true
		if e.raw == nodeBytes {
			record, err := w.shelf.memory.Get(context.Background(), info.Name, off, int64(e.stored))
			if err == nil {
				w.nodes[e.id], err = w.codec.openRecord(nil, record, e)
			}
			if err != nil {
				w.t.Fatal(err)
			}
		}
		off += int64(e.stored)
	}
}

// live lets anything happen, so many times.
func (w *world) live(steps int) {
	for range steps {
		ready := w.quiet()
		switch n := w.random.IntN(100); {
		case len(ready) < 2 || n < 5 && len(ready) < 5:
			if w.random.IntN(5) < 3 {
				w.run()
			} else {
				w.prune([]float64{1e-9, 0.5, 1}[w.random.IntN(3)])
			}
		case n < 7:
			w.kill(ready[w.random.IntN(len(ready))])
		case n < 12:
			w.pass(time.Duration(w.random.Int64N(int64(45 * time.Minute))))
		default:
			a := ready[w.random.IntN(len(ready))]
			for range 1 + w.random.IntN(20) {
				w.mu.Lock()
				done, last := a.done, a.last
				w.mu.Unlock()
				if done {
					break
				}
				if last.Kind == "Put" && strings.HasPrefix(last.Name, condemnedFolder) && w.random.IntN(3) == 0 {
					w.kill(a) // nobody would hit this moment
					break
				}
				w.step(a)
			}
		}
	}
}

// end lets everybody finish, and tidies up.
func (w *world) end() {
	for ready := w.quiet(); len(ready) > 0; ready = w.quiet() {
		w.step(ready[w.random.IntN(len(ready))])
	}
	w.shelf.ahead.Add(int64(usualTimes.dead + time.Minute))
	a := testArchive(w.t, w.shelf.memory, Options{})
	points, _, err := a.Points(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	var remove []uint64
	for _, p := range points {
		if w.spoiled[p.Barrier] {
			remove = append(remove, p.Barrier)
		} else {
			expect(w.t, a, *p.Part("disk"), w.shelf.truth[p.Barrier])
		}
	}
	for range 2 {
		if _, err := a.Prune(w.t.Context(), PruneOptions{Remove: remove, Policy: Policy{Last: 3}, Unused: 1e-9}); err != nil {
			w.t.Fatal(err)
		}
		remove = nil
	}
	w.shelf.restore(w.t, a)
	w.shelf.tidy(w.t, a)
}

// Runs and prunes work at once, in random orders, are killed, and stall. No point that is listed loses a chunk at any time, and in the end
// nothing is left that no point needs. Without stalls nobody fails who wasn't killed.
func TestInterleavings(t *testing.T) {
	t.Parallel()
	for _, stalls := range []bool{false, true} {
		for n := range 8 {
			t.Run(fmt.Sprintf("stalls=%v/%d", stalls, n), func(t *testing.T) {
				t.Parallel()
				w := &world{
					t: t, random: newRandom(t), shelf: newShelf(), stalls: stalls,
					spoiled: make(map[uint64]bool), packs: make(map[string]map[ID]bool), nodes: make(map[ID][]byte), counts: make(map[string]int),
				}
				w.moved = sync.NewCond(&w.mu)
				w.codec = testArchive(t, w.shelf.memory, Options{})
				w.live(300)
				w.end()
				t.Log(w.counts)
			})
		}
	}
}
