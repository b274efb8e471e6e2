package activity

import (
	"errors"
	"maps"
	"math/rand/v2"
	"testing"
	"time"
)

// [I] Whatever is called in which order: the log says that those regions are stale which are, and what a
// crash leaves says so of all that may differ.
func TestRandomHistories(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	histories := uint64(400)
	if testing.Short() {
		histories = 40
	}
	t.Logf("seed %d", seed)
	states := 0
	for n := range histories {
		states += (&walk{rnd: rand.New(rand.NewPCG(seed, n))}).run(t)
	}
	t.Logf("%d crashes", states)
}

// walk is one random history.
type walk struct {
	*model
	rnd     *rand.Rand
	running [][2]uint32 // mutations that have begun
	given   [][2]int64  // what was given out to be sent
	places  []uint64    // the places that were known then
	epoch   int
	crashes int
}

func (w *walk) run(t *testing.T) int {
	w.model = newModel(t, newDisk(nil), 16, 5)
	must(t, boolErr(w.open() && w.adopt(streams[0])))
	if w.rnd.IntN(4) > 0 {
		w.clean()
	}
	for range 200 {
		what := w.rnd.IntN(24)
		w.random(what)
		w.compare(what)
	}
	return w.crashes
}

func (w *walk) random(what int) {
	switch what {
	case 0, 1, 2, 3, 4, 5:
		if len(w.running) < 3 {
			n := 1 + uint32(w.rnd.IntN(2))
			first := uint32(w.rnd.IntN(len(w.regions) - int(n) + 1))
			w.makeRoom()
			must(w.t, boolErr(w.begin(first, n)))
			w.running = append(w.running, [2]uint32{first, n})
		}
	case 6, 7, 8, 9, 10:
		w.endOne(w.rnd.IntN(10) > 0)
	case 11, 12:
		w.store(w.stored + w.rnd.Uint64N(w.place-w.stored+1))
	case 13:
		w.flush()
	case 14:
		w.overlapping()
	case 15:
		off, length := w.give(uint32(w.rnd.IntN(len(w.regions))), 1+w.rnd.Int64N(4))
		if length > 0 {
			w.given, w.places = append(w.given, [2]int64{off, length}), append(w.places, w.place)
		}
	case 16, 17:
		if n := len(w.given); n > 0 {
			if w.rnd.IntN(2) == 0 {
				w.place++
				w.places[n-1] = w.place
			}
			w.resent(w.given[n-1][0], w.given[n-1][1], w.places[n-1])
			w.given, w.places = w.given[:n-1], w.places[:n-1]
		}
	case 18:
		must(w.t, boolErr(w.markStale(uint32(w.rnd.IntN(len(w.regions))), 1)))
	case 19:
		w.idle()
	case 20:
		w.rare()
	case 21:
		w.crash()
	default:
		w.tidy()
	}
}

// endOne ends a mutation that runs.
func (w *walk) endOne(sent bool) {
	if len(w.running) == 0 {
		return
	}
	i := w.rnd.IntN(len(w.running))
	w.end(w.running[i][0], w.running[i][1], sent)
	w.running = append(w.running[:i], w.running[i+1:]...)
}

// makeRoom lets what is hot be stored where it uses up the room, since nobody else would meanwhile.
func (w *walk) makeRoom() {
	if w.l.hotNow() > w.o.Hot-2 {
		for len(w.running) > 1 {
			w.endOne(true)
		}
		w.store(w.place)
	}
}

// overlapping is two flushes at a time, of which the first may fail.
func (w *walk) overlapping() {
	w.call()
	first := w.l.FlushBegun()
	w.endOne(true)
	w.call()
	second, at := w.l.FlushBegun(), w.time
	w.endOne(true)
	w.call()
	w.l.Flushed(second)
	w.idleNow()
	if w.rnd.IntN(2) == 0 {
		w.call()
		w.l.FlushFailed(first)
		w.spoil()
	} else {
		w.call()
		w.l.Flushed(first)
	}
	w.flushed = max(w.flushed, at)
}

// idleNow clears what can be without a flush.
func (w *walk) idleNow() {
	flush := w.l.o.Flush
	w.l.o.Flush = nil
	w.idle()
	w.l.o.Flush = flush
}

// rare is what doesn't happen often.
func (w *walk) rare() {
	switch w.rnd.IntN(6) {
	case 0:
		w.drop()
	case 1:
		w.epoch++
		must(w.t, boolErr(w.adopt(Stream{Generation: streams[0].Generation + uint32(w.epoch/2), Created: streams[0].Created, Epoch: uint64(w.epoch)})))
	case 2:
		w.call()
		after := w.rnd.Uint64N(w.place*w.step + 1)
		if !w.l.Lost(after) {
			w.t.Fatal("not covered")
		}
		for r, s := range w.regions {
			s.taken = false
			if s.seq > after {
				w.owe(r)
			}
		}
		for r := range staleSet(w.l) { // it may be more than it must be
			w.owe(r)
			w.regions[r].taken = true
		}
		must(w.t, w.l.SetSeeded()) // durable with the next commit
	case 3:
		w.flushes = errors.New("the device is broken")
		w.idle()
		w.flushes = nil
	case 4:
		w.call()
		at := uint32(len(w.regions))
		for r := at; r < at+2; r++ {
			w.regions[r] = new(truth)
			w.owe(r)
		}
		w.o.Size += 2 * RegionSize
		must(w.t, w.l.Grow(w.o.Size, true))
	case 5:
		w.call()
		w.l.AllStale()
		for r := range w.regions {
			w.owe(r)
		}
		must(w.t, w.l.SetSeeded())
	}
}

// compare asks the log which regions are stale.
func (w *walk) compare(what int) {
	stale := maps.Clone(w.l.staleNow())
	for r, s := range w.regions {
		if s.owed != stale[r] {
			w.t.Fatalf("after %d, region %d: stale is %v, should be %v", what, r, stale[r], s.owed)
		}
	}
}

func (l *Log) staleNow() map[uint32]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	set := make(map[uint32]bool)
	for r := range l.regions {
		if l.stale.has(r) {
			set[r] = true
		}
	}
	return set
}

// crash judges what a crash leaves, and goes on with one of those.
func (w *walk) crash() {
	var c crashes
	c.add(w.d, w.required())
	for _, s := range c.states {
		o := w.o
		o.FS = s.disk()
		must(w.t, s.q.check(w.t, s.at, o).release())
	}
	w.crashes += len(c.states)
	if w.rnd.IntN(3) > 0 {
		return
	}
	w.d = c.states[w.rnd.IntN(len(c.states))].disk()
	w.o.FS = w.d
	w.running, w.given, w.places = nil, nil, nil
	must(w.t, boolErr(w.open()))
	w.flushed, w.heard = w.time, 0
	_, acked := w.l.Tenure()
	w.tenures[0].acked = acked
	w.store(w.stored)
	stale := w.l.staleNow()
	for r, s := range w.regions {
		s.pins, s.place, s.ended, s.owed, s.taken = 0, 0, 0, stale[r], false
	}
}
