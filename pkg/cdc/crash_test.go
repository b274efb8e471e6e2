package cdc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/cdc/activity"
	"github.com/farshore/farshore/pkg/events"
)

var errDown = errors.New("the power is out")

// power goes out after a number of operations on anything that it feeds. What is done behind that fails
// and has no effect.
type power struct {
	mu   sync.Mutex
	left int
	down chan struct{}
}

func newPower(operations int) *power { return &power{left: operations, down: make(chan struct{})} }

// arm lets the power go out after a number of operations from now on.
func (p *power) arm(operations int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = operations
}

// use does something unless the power is out.
func (p *power) use(f func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left <= 0 {
		return errDown
	}
	if p.left--; p.left == 0 {
		close(p.down)
		return errDown
	}
	f()
	return nil
}

// frail is a device that forgets, when the power goes out, some of the sectors that weren't flushed.
type frail struct {
	*memDevice
	power   *power
	durable []byte
	dirty   map[int]bool // sectors
}

func newFrail(size int64) *frail {
	return &frail{memDevice: blank(size), durable: make([]byte, size), dirty: map[int]bool{}}
}

func (d *frail) WriteAt(p []byte, off int64) (n int, err error) {
	err = d.power.use(func() {
		n, _ = d.memDevice.WriteAt(p, off)
		for s := off / 512; s*512 < off+int64(len(p)); s++ {
			d.dirty[int(s)] = true
		}
	})
	return n, err
}

func (d *frail) ReadAt(p []byte, off int64) (n int, err error) {
	err = d.power.use(func() { n, _ = d.memDevice.ReadAt(p, off) })
	return n, err
}

func (d *frail) Zero(off, n int64, _ bool) error {
	_, err := d.WriteAt(make([]byte, n), off)
	return err
}

func (d *frail) Trim(off, n int64) error { return d.Zero(off, n, true) }

func (d *frail) Flush() error {
	return d.power.use(func() {
		for s := range d.dirty {
			copy(d.durable[s*512:][:512], d.b[s*512:])
		}
		clear(d.dirty)
	})
}

func (d *frail) crash(rnd *rand.Rand) {
	for s := range d.dirty {
		if rnd.IntN(2) == 0 {
			copy(d.b[s*512:][:512], d.durable[s*512:])
		}
		copy(d.durable[s*512:][:512], d.b[s*512:])
	}
	clear(d.dirty)
}

// frailFS is a file system of the same kind. Names that weren't made durable are the old or the new ones.
type frailFS struct {
	power          *power
	names, durable map[string]*frailFile
}

type frailFile struct {
	fs        *frailFS
	now, then []byte // then is durable
}

func newFrailFS() *frailFS {
	return &frailFS{names: map[string]*frailFile{}, durable: map[string]*frailFile{}}
}

func (f *frailFS) MkdirAll(string) error { return f.power.use(func() {}) }

func (f *frailFS) ReadFile(name string) (b []byte, err error) {
	if e := f.power.use(func() {
		file := f.names[name]
		if file == nil {
			err = fs.ErrNotExist
			return
		}
		b = bytes.Clone(file.now)
	}); e != nil {
		return nil, e
	}
	return b, err
}

func (f *frailFS) Create(name string) (activity.File, error) {
	file := &frailFile{fs: f}
	return file, f.power.use(func() { f.names[name] = file })
}

func (f *frailFS) Rename(oldName, newName string) error {
	return f.power.use(func() {
		f.names[newName] = f.names[oldName]
		delete(f.names, oldName)
	})
}

func (f *frailFS) SyncDir(string) error {
	return f.power.use(func() { f.durable = maps.Clone(f.names) })
}

func (f *frailFS) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

func (f *frailFile) WriteAt(p []byte, off int64) (int, error) {
	return len(p), f.fs.power.use(func() {
		if grow := int(off) + len(p) - len(f.now); grow > 0 {
			f.now = append(f.now, make([]byte, grow)...)
		}
		copy(f.now[off:], p)
	})
}

func (f *frailFile) Sync() error  { return f.fs.power.use(func() { f.then = bytes.Clone(f.now) }) }
func (f *frailFile) Close() error { return nil }

func (f *frailFS) crash(rnd *rand.Rand) {
	if rnd.IntN(2) == 0 {
		f.names = f.durable
	}
	for _, file := range f.names {
		for s := 0; s < len(file.now); s += 512 {
			if rnd.IntN(2) == 0 { // what was never synced reads as zero
				sector := file.now[s:min(s+512, len(file.now))]
				clear(sector)
				copy(sector, file.then[min(s, len(file.then)):])
			}
		}
		file.then = bytes.Clone(file.now)
	}
	f.durable = maps.Clone(f.names)
}

// frailJournal stores what it was given after a while, and loses what it hasn't stored.
type frailJournal struct {
	*memJournal
	power *power
}

func (j *frailJournal) Append(ctx context.Context, e events.Event) (seq uint64, err error) {
	var appendErr error
	if err := j.power.use(func() { seq, appendErr = j.memJournal.Append(ctx, e) }); err != nil {
		<-ctx.Done() // a writer waits
		return 0, ctx.Err()
	}
	return seq, appendErr
}

// store stores a part of what was appended, now and then: often, or seldom.
func (j *frailJournal) store(ctx context.Context, rnd *rand.Rand) {
	pause := 100 + rnd.IntN(2)*10000
	for ctx.Err() == nil {
		_ = j.power.use(func() {
			j.set(func() { j.stored += rnd.Uint64N(j.last - j.stored + 1) })
		})
		time.Sleep(time.Duration(rnd.IntN(pause)) * time.Microsecond)
	}
}

func (j *frailJournal) crash(rnd *rand.Rand) {
	j.set(func() {
		j.last = j.stored + rnd.Uint64N(j.last-j.stored+1)
		j.log, j.stored = j.log[:j.last], j.last
	})
}

// world is what survives a crash.
type world struct {
	dev     *frail
	fs      *frailFS
	journal *frailJournal
	replica []byte
	applied int
}

// follow applies what is new in the stream to the replica.
func (w *world) follow(t *testing.T) {
	t.Helper()
	all := w.journal.events(t)
	for _, e := range all[w.applied:] {
		if f, ok := e.(*events.Frame); ok {
			applyFrame(t, w.replica, f)
		}
	}
	w.applied = len(all)
}

// life runs a recorder under a load until the power goes out, or, with a load of its own, until that has ended;
// then it must be ready, and the stream must tell what the device holds. Where armed isn't 0 the power goes out so
// many operations behind the pass.
func (w *world) life(t *testing.T, p *power, armed int, rnd *rand.Rand, mode cdc.WhenBusGone, load func(context.Context, *cdc.Recorder, *rand.Rand)) {
	t.Helper()
	w.dev.power, w.fs.power, w.journal.power = p, p, p
	l, err := activity.Open(activity.Options{
		Path: "/log", UID: "uid", Size: w.dev.Size(), Hot: 4, Flush: w.dev.Flush, FS: w.fs, Log: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		err = l.Adopt(activity.Stream{Generation: 1})
	}
	if err != nil {
		if !errors.Is(err, errDown) {
			t.Fatal(err)
		}
		return
	}
	defer l.Close()
	r := cdc.NewRecorder(cdc.Options{
		Device: w.dev, Activity: l, Budget: cdc.NewBudget(8 << 20), RetryEvery: time.Millisecond, Linger: 200 * time.Microsecond,
		WhenBusGone: mode, Patience: 5 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { must(t, r.Run(ctx)) })
	work.Go(func() { must(t, r.Record(ctx, w.journal, cdc.Tenure{})) })
	work.Go(func() { must(t, l.Run(ctx)) })
	storer := rand.New(rand.NewPCG(rnd.Uint64(), 1))
	work.Go(func() { w.journal.store(ctx, storer) })
	defer work.Wait()
	defer cancel()
	if armed > 0 { // the pass is done before the power goes out
		eventually(t, "ready", func() bool { ready, _ := r.Ready(); return ready })
		p.arm(armed)
	}
	var loads sync.WaitGroup
	for range 6 {
		own := rand.New(rand.NewPCG(rnd.Uint64(), 2))
		loads.Go(func() { load(ctx, r, own) })
	}
	loaded := make(chan struct{})
	go func() { loads.Wait(); close(loaded) }()
	select {
	case <-p.down:
		cancel()
		<-loaded
		return
	case <-loaded:
	}
	eventually(t, "ready", func() bool { ready, _ := r.Ready(); return ready })
	must(t, r.Drain(deadline(t)))
	w.follow(t)
	if i := firstDifference(w.replica, w.dev.b); i >= 0 {
		t.Fatalf("the replayed stream and the device differ from byte %d on", i)
	}
}

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

func (w *world) crash(rnd *rand.Rand) {
	w.dev.crash(rnd)
	w.fs.crash(rnd)
	w.journal.crash(rnd)
}

// [I] Whenever the power goes out under wide random writes, what the device, the activity log and the stream
// then hold is enough: the next Record makes the stream tell what the device holds.
func TestCrashAtAnyMoment(t *testing.T) {
	const size = 48 << 20
	rnd := random(t)
	for _, mode := range []cdc.WhenBusGone{cdc.Stall, cdc.Track} {
		w := &world{
			dev: newFrail(size), fs: newFrailFS(), journal: &frailJournal{memJournal: newMemJournal()},
			replica: make([]byte, size),
		}
		w.journal.lazy = true
		forever := func(ctx context.Context, r *cdc.Recorder, own *rand.Rand) {
			for ctx.Err() == nil && wide(ctx, r, own, size) {
			}
		}
		few := func(ctx context.Context, r *cdc.Recorder, own *rand.Rand) {
			for range 20 {
				wide(ctx, r, own, size)
			}
		}
		for round := range 14 {
			switch round % 3 {
			case 0, 1:
				w.life(t, newPower(1<<40), 1+rnd.IntN(2000), rnd, mode, forever)
			case 2: // a crash follows a crash
				w.life(t, newPower(1+rnd.IntN(2000)), 0, rnd, mode, forever)
			}
			w.crash(rnd)
			if round%3 != 1 {
				w.life(t, newPower(1<<40), 0, rnd, mode, few)
				w.crash(rnd)
			}
		}
	}
}

// wide does something anywhere; false when it failed.
func wide(ctx context.Context, r *cdc.Recorder, rnd *rand.Rand, size int64) bool {
	n := 512 * (1 + rnd.Int64N(16))
	off := rnd.Int64N((size-n)/512) * 512
	switch rnd.IntN(12) {
	case 0:
		return r.Flush(ctx) == nil
	case 1:
		return r.Trim(ctx, off, n, false) == nil
	case 2:
		return r.Zero(ctx, off, n, cdc.ZeroOptions{}) == nil
	}
	return r.Write(ctx, noise(rnd, int(n)), off, rnd.IntN(10) == 0) == nil
}
