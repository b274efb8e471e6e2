package activity

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// opened returns a log in a real directory whose regions are all clean.
func opened(t testing.TB, o Options) *Log {
	t.Helper()
	o.Log = quiet
	l, err := Open(o)
	must(t, err)
	if _, fresh := l.Fresh(); !fresh || l.StaleBytes() != o.Size {
		t.Fatalf("%d bytes of a new log are stale", l.StaleBytes())
	}
	must(t, l.Adopt(streams[0]))
	for {
		off, n, ok := l.NextStale(0)
		if !ok {
			break
		}
		l.Resent(off, n, 1)
	}
	l.Stored(1, 1)
	l.Flushed(l.FlushBegun())
	l.tickNow(idleTicks)
	l.tidy(t.Context())
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func somewhere(t testing.TB, size int64) Options {
	return Options{Path: filepath.Join(t.TempDir(), "state", "v.log"), UID: "u", Size: size}
}

func write(t testing.TB, l *Log, off, length int64, place uint64) {
	t.Helper()
	must(t, l.Begin(t.Context(), off, length))
	l.End(off, length, place)
}

func TestReopen(t *testing.T) {
	o := somewhere(t, 10<<30+4096)
	l := opened(t, o)
	must(t, l.SetSeeded())
	write(t, l, 8<<20, 4096, 2)
	write(t, l, 10<<30, 4096, 3) // the last one is short
	if _, err := Open(o); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	l.Stored(2, 70)
	must(t, l.Close())
	must(t, l.Close())
	if err := l.Begin(t.Context(), 0, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed log answers %v", err)
	}
	l, err := Open(o)
	must(t, err)
	if n := l.StaleBytes(); n != RegionSize+4096 { // nobody has flushed
		t.Errorf("%d bytes are stale", n)
	}
	if off, n, ok := l.NextStale(12 << 20); off != 10<<30 || n != 4096 || !ok {
		t.Errorf("the last one is %d bytes at %d, %v", n, off, ok)
	}
	if s, acked := l.Tenure(); s != streams[0] || acked != 70 || !l.Seeded() {
		t.Errorf("%+v, %d, %v", s, acked, l.Seeded())
	}
	if reason, fresh := l.Fresh(); fresh {
		t.Error(reason)
	}
	must(t, l.Close())
}

// A log that doesn't fit its volume begins anew, with everything stale.
func TestFresh(t *testing.T) {
	const size = 64 << 20
	for name, c := range map[string]struct {
		change func(t *testing.T, o *Options)
		reason string // empty: it is used
	}{
		"as it was":     {func(*testing.T, *Options) {}, ""},
		"missing":       {func(t *testing.T, o *Options) { must(t, os.Remove(o.Path)) }, "there is no"},
		"foreign":       {func(_ *testing.T, o *Options) { o.UID = "other" }, "another volume's"},
		"smaller":       {func(_ *testing.T, o *Options) { o.Size -= 4096 }, "has 67104768 now"},
		"larger":        {func(_ *testing.T, o *Options) { o.Size += 4096 }, ""},
		"changed":       {func(_ *testing.T, o *Options) { o.Modified = modified(18) }, "older than its device"},
		"can't tell":    {func(_ *testing.T, o *Options) { o.Modified = modified(0) }, "can't be told"},
		"isn't checked": {func(_ *testing.T, o *Options) { o.Modified = nil }, ""},
		"empty":         {func(t *testing.T, o *Options) { must(t, os.WriteFile(o.Path, nil, 0o600)) }, "damaged"},
		"cut short":     {func(t *testing.T, o *Options) { must(t, os.Truncate(o.Path, 100*sectorSize)) }, "damaged"},
		"newer": {func(t *testing.T, o *Options) {
			p, err := os.ReadFile(o.Path)
			must(t, err)
			p[sectorHeader+1+len(magic)]++
			binary.LittleEndian.PutUint32(p, crc32.Checksum(p[4:sectorSize], castagnoli))
			must(t, os.WriteFile(o.Path, p, 0o600))
		}, "another version"},
	} {
		t.Run(name, func(t *testing.T) {
			o := somewhere(t, size)
			o.Modified, o.Log = modified(17), quiet
			must(t, opened(t, o).Close())
			was := o.Size
			c.change(t, &o)
			l, err := Open(o)
			must(t, err)
			defer l.Close()
			reason, fresh := l.Fresh()
			if fresh != (c.reason != "") || !strings.Contains(reason, c.reason) {
				t.Errorf("fresh is %v: %q", fresh, reason)
			}
			if want := max(0, o.Size-was); !fresh && l.StaleBytes() != want || fresh && l.StaleBytes() != o.Size {
				t.Errorf("%d bytes are stale", l.StaleBytes())
			}
			if s, acked := l.Tenure(); fresh && (s != Stream{} || acked != 0) {
				t.Errorf("it knows %+v, %d", s, acked)
			}
		})
	}
}

func modified(s int64) func() (time.Time, error) {
	return func() (time.Time, error) {
		if s == 0 {
			return time.Time{}, errors.New("no idea")
		}
		return time.Unix(s, 5), nil
	}
}

// A device that is changed while its log is open is nothing special; nor is one behind a log that crashed.
func TestModifiedWhileOpen(t *testing.T) {
	o := somewhere(t, 64<<20)
	o.Modified = modified(17)
	l := opened(t, o)
	must(t, l.Begin(t.Context(), 0, 1)) // doesn't end
	must(t, l.Close())
	o.Modified = modified(18)
	l, err := Open(o)
	must(t, err)
	defer l.Close()
	if reason, fresh := l.Fresh(); fresh || l.StaleBytes() != RegionSize {
		t.Errorf("%d bytes are stale: %s", l.StaleBytes(), reason)
	}
}

// [I] A file that is damaged anywhere begins anew with every region stale, or lists what it did.
func TestDamage(t *testing.T) {
	d := newDisk(nil)
	m := newModel(t, d, 12, 4)
	must(t, boolErr(m.open()))
	script(m)
	content := d.files[logPath].read(func(int) bool { return true })
	fresh := 0
	for at := range content {
		for _, flip := range []byte{1, 0x80} {
			bad := append([]byte(nil), content...)
			bad[at] ^= flip
			o := m.o
			o.FS = newDisk(map[string][]byte{logPath: bad})
			l, err := Open(o)
			must(t, err)
			if _, anew := l.Fresh(); anew {
				fresh++
				if l.StaleBytes() != o.Size {
					t.Fatalf("byte %d: %d bytes are stale", at, l.StaleBytes())
				}
			} else {
				t.Fatalf("byte %d is wrong, and the log is used", at)
			}
			must(t, l.release())
		}
	}
	t.Logf("%d damages found", fresh)
}

// [I] A sector that was durable and is not there is damage, where anything that was written later shows it.
func TestLostSector(t *testing.T) {
	m := newModel(t, newDisk(nil), 64, 64)
	m.o.small = false
	must(t, boolErr(m.open() && m.adopt(streams[0])))
	m.clean()
	for r := range uint32(5) {
		must(t, boolErr(m.write(r, 1)))
	}
	content := m.d.files[logPath].read(func(int) bool { return true })
	last := m.l.store.at - 1
	for at := range last + 1 {
		bad := append([]byte(nil), content...)
		clear(bad[at*sectorSize : (at+1)*sectorSize])
		if _, err := parse(bad); (err == nil) != (at == last) {
			t.Errorf("sector %d of %d is lost: %v", at, last, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	d := newDisk(nil)
	m := newModel(f, d, 12, 4)
	must(f, boolErr(m.open()))
	script(m)
	f.Add(d.files[logPath].read(func(int) bool { return true }))
	f.Fuzz(func(_ *testing.T, data []byte) {
		for at := 0; at+sectorSize <= len(data); at += sectorSize { // or nothing gets past the checksums
			binary.LittleEndian.PutUint32(data[at:], crc32.Checksum(data[at+4:at+sectorSize], castagnoli))
		}
		_, _ = parse(data)
	})
}

// Who waits for room gets it when something is stored, when a mutation is not going to be, and when ctx ends.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(nil)
		m := newModel(t, d, 64, 4)
		flushes := 0
		m.o.Flush = func() error { flushes++; return nil }
		must(t, boolErr(m.open() && m.adopt(streams[0])))
		m.clean()
		l := m.l
		flushes = 0
		fill := func(place uint64) {
			for r := range int64(4) {
				write(t, l, r*RegionSize, 512, place)
			}
		}
		begin := func(ctx context.Context, off, n int64) chan error {
			done := make(chan error, 1)
			go func() { done <- l.Begin(ctx, off*RegionSize, n*RegionSize) }()
			synctest.Wait()
			return done
		}
		place := m.place + 1
		fill(place)
		must(t, l.Begin(t.Context(), 0, 4*RegionSize)) // those that are hot need no room
		l.End(0, 4*RegionSize, place)
		ctx, cancel := context.WithCancel(t.Context())
		large, small := begin(ctx, 10, 3), begin(t.Context(), 20, 1)
		if l.Waiting() != 2 || flushes != 0 {
			t.Fatalf("%d wait, and %d flushes were made", l.Waiting(), flushes)
		}
		cancel()
		if err := <-large; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		l.Stored(place, place)
		must(t, <-small)
		if flushes != 1 {
			t.Errorf("%d flushes for one region", flushes)
		}
		l.End(20*RegionSize, RegionSize, place)
		fill(place + 1)
		small = begin(t.Context(), 30, 1)
		l.Dropped()
		must(t, <-small)
		if n := l.StaleBytes(); n < 3*RegionSize {
			t.Errorf("%d bytes are stale", n)
		}
		if err := l.Begin(t.Context(), 0, 5*RegionSize); err == nil {
			t.Error("a range that can't fit was begun")
		}
		l.End(30*RegionSize, RegionSize, place+1)
		l.Stored(place+1, place+1)
		for r := range int64(4) {
			write(t, l, (40+r)*RegionSize, 512, place+2)
		}
		small = begin(t.Context(), 50, 1)
		closed := make(chan error, 1)
		go func() { closed <- l.Close() }()
		if err := <-small; !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		must(t, <-closed)
	})
}

// slowly is a file system whose files take their time to become durable.
type slowly struct{ OS }

type slowFile struct{ File }

func (slowly) Create(name string) (File, error) {
	f, err := OS{}.Create(name)
	return slowFile{f}, err
}

func (f slowFile) Sync() error {
	time.Sleep(time.Millisecond)
	return f.File.Sync()
}

// A sequential writer waits for few commits, and what was listed for it in vain is cleared.
func TestSequential(t *testing.T) {
	m := newModel(t, newDisk(nil), 128, 64)
	m.o.small = false
	must(t, boolErr(m.open() && m.adopt(streams[0])))
	m.clean()
	before, old := m.l.counters().commits, m.place*m.step
	for r := range uint32(40) {
		must(t, boolErr(m.write(r, 1)))
	}
	if n := m.l.counters().commits - before; n > 10 {
		t.Errorf("%d commits for 40 regions", n)
	}
	m.store(m.place)
	m.idle()
	if n := m.l.hotNow(); n != 0 {
		t.Errorf("%d regions are hot", n)
	}
	l := m.crashed()
	if !l.Lost(old) || l.staleNow()[40] || !l.staleNow()[39] {
		t.Errorf("stale are %v", l.staleNow())
	}
}

// Many who begin at a time share few commits, and clearing shares few flushes.
func TestSharing(t *testing.T) {
	const size, hot = 1 << 40, 64
	o := somewhere(t, size)
	var flushes atomic.Int64
	o.FS, o.Hot, o.Flush = slowly{}, hot, func() error { flushes.Add(1); return nil }
	l := opened(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { _ = l.Run(ctx) })
	before, flushed := l.counters().commits, flushes.Load()
	var place atomic.Uint64
	place.Store(1)
	var load sync.WaitGroup
	const writers, each = 16, 250
	for w := range uint64(writers) {
		load.Go(func() {
			rnd := rand.New(rand.NewPCG(7, w))
			for range each {
				off := rnd.Int64N(size/RegionSize-1)*RegionSize + RegionSize - 512
				if err := l.Begin(ctx, off, 1024); err != nil { // two regions
					t.Error(err)
					return
				}
				p := place.Add(1)
				l.End(off, 1024, p)
				l.Stored(p, p) // perhaps before one with a lower number has ended
				if l.hotNow() > hot {
					t.Error("more regions are hot than may be")
				}
			}
		})
	}
	load.Wait()
	cancel()
	run.Wait()
	c := l.counters()
	commits, flushesMade := c.commits-before, flushes.Load()-flushed
	t.Logf("%d regions: %d commits, %d flushes", 2*writers*each, commits, flushesMade)
	if commits > writers*each/2 || flushesMade > 2*writers*each/2 {
		t.Errorf("%d commits and %d flushes for %d regions", commits, flushesMade, 2*writers*each)
	}
	info, err := os.Stat(o.Path)
	must(t, err)
	if info.Size() > 4<<20 {
		t.Errorf("the file has %d bytes", info.Size())
	}
}

func (l *Log) counters() counters {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// What is forgotten isn't covered any more, and Lost says so.
func TestForgotten(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	d := newDisk(nil)
	m := newModel(t, d, 32, 4)
	m.o.Now = func() time.Time { return now }
	must(t, boolErr(m.open() && m.adopt(streams[0])))
	m.clean()
	old := m.place * m.step
	must(t, boolErr(m.write(3, 1)))
	m.store(m.place)
	now = now.Add(DefaultKeep / 2)
	m.idle()
	now = now.Add(DefaultKeep/2 + 2*time.Second)
	m.l.mu.Lock()
	m.l.recent.expire(m.l.keepSince())
	m.l.mu.Unlock()
	must(t, boolErr(m.write(9, 1)))
	for range 2 {
		if !m.l.Lost(old) || len(m.l.staleNow()) == 32 || !m.l.staleNow()[3] {
			t.Errorf("%d regions are stale", len(m.l.staleNow()))
		}
		must(t, m.l.release()) // a crash
		m.open()
	}
	if m.l.Lost(old-1) || len(m.l.staleNow()) != 32 {
		t.Errorf("%d regions are stale", len(m.l.staleNow()))
	}
}

// crashed returns the log as it is after a crash that loses nothing of what was written.
func (m *model) crashed() *Log {
	o := m.o
	o.FS = newDisk(map[string][]byte{logPath: m.d.files[logPath].read(func(int) bool { return true })})
	l, err := Open(o)
	must(m.t, err)
	return l
}

// What is stale in memory only is known with its sequence all the same when it has been sent.
func TestLostTwice(t *testing.T) {
	m := newModel(t, newDisk(nil), 64, 64)
	m.o.small = false // so that it is in one file
	must(t, boolErr(m.open() && m.adopt(streams[0])))
	m.clean()
	must(t, boolErr(m.write(3, 1)))
	m.store(m.place)
	m.flush()
	m.idle()
	old := m.place
	if !m.l.Lost(old*m.step - 1) {
		t.Fatal("not covered")
	}
	m.owe(3)
	if !m.pass(1) {
		t.Fatal("nothing is stale")
	}
	m.store(m.place)
	m.flush()
	m.idle()
	l := m.crashed()
	if !l.Lost(old*m.step) || len(l.staleNow()) != 1 || !l.staleNow()[3] {
		t.Errorf("stale are %v", l.staleNow())
	}
}

// The sequences of one stream mean nothing in the next one.
func TestAnotherStream(t *testing.T) {
	m := newModel(t, newDisk(nil), 64, 64)
	m.o.small = false // so that it is in one file
	must(t, boolErr(m.open() && m.adopt(streams[0])))
	m.clean()
	must(t, boolErr(m.write(3, 1)))
	m.store(m.place)
	m.flush()
	m.l.mu.Lock()
	m.l.evict(1) // it isn't written yet
	m.l.mu.Unlock()
	must(t, boolErr(m.adopt(streams[2])))
	for _, l := range []*Log{m.l, m.crashed()} {
		if s, acked := l.Tenure(); s != streams[2] || acked != 0 {
			t.Errorf("%+v, %d", s, acked)
		}
		if !l.Lost(0) || len(l.staleNow()) > 0 {
			t.Errorf("stale are %v", l.staleNow())
		}
	}
}

// What could not be written is written when that is possible again, though nobody asks any more.
func TestRetried(t *testing.T) {
	d := newDisk(nil)
	m := newModel(t, d, 64, 4)
	must(t, boolErr(m.open() && m.adopt(streams[0])))
	m.clean()
	m.l.AllStale()
	for n := range 9 {
		d.fail[d.steps+1+n] = errors.New("the disk is broken")
	}
	if m.adopt(streams[1]) {
		t.Fatal("it was written")
	}
	m.tidy()
	clear(d.fail)
	m.tidy()
	l := m.crashed()
	if s, _ := l.Tenure(); s != streams[1] || len(l.staleNow()) != 64 {
		t.Errorf("%+v, and %d regions are stale", s, len(l.staleNow()))
	}
}

func TestRecents(t *testing.T) {
	var r recents
	const n = 3*maxRecent + 5
	for i := range uint64(n) {
		r.add(cover{region: uint32(i % 1000), seq: i + 1})
	}
	if r.reach != 0 || len(r.list) > maxRecent {
		t.Errorf("%d are kept of 1000 regions, and reach to %d", len(r.list), r.reach)
	}
	for i := range uint64(n) {
		r.add(cover{region: uint32(i), seq: n + i + 1})
	}
	if len(r.list) > maxRecent || len(r.list) < maxRecent/2 {
		t.Errorf("%d are kept", len(r.list))
	}
	if first := r.list[0].seq; r.reach != first-1 {
		t.Errorf("the first has %d, and they reach to %d", first, r.reach)
	}
}

func TestPlaces(t *testing.T) {
	p := newPlaces()
	for i := range uint64(10_000) {
		p.add(2*i+2, 10*(i+1))
		p.add(2*i+2, 10*(i+1)+5) // says nothing new
	}
	if len(p.list) > maxPlaces {
		t.Errorf("%d pairs", len(p.list))
	}
	last := uint64(0)
	for place := uint64(0); place <= 20_000; place++ {
		seq := p.cover(place)
		if exact := (place + 1) / 2 * 10; seq < exact || seq < last {
			t.Fatalf("place %d is covered by %d, and is at %d", place, seq, exact)
		}
		last = seq
	}
	if seq := p.cover(20_000 - 20); seq != 10*(10_000-10) {
		t.Errorf("a new place is covered by %d", seq)
	}
	if seq := p.cover(0); seq != 0 {
		t.Errorf("place 0 is covered by %d", seq)
	}
}

// Run clears what isn't used, and little is held for a volume that is idle.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(nil)
		m := newModel(t, d, 2560, 1024)
		must(t, boolErr(m.open() && m.adopt(streams[0])))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- m.l.Run(ctx) }()
		m.clean()
		for r := uint32(0); r < 2000; r += 2 {
			must(t, boolErr(m.write(r, 1)))
		}
		m.store(m.place)
		time.Sleep(3 * idleTicks * time.Second)
		if n := m.l.hotNow(); n != 0 {
			t.Errorf("%d regions are hot", n)
		}
		cancel()
		must(t, <-ended)
		steps := d.steps
		time.Sleep(time.Hour)
		if d.steps != steps {
			t.Error("something is written that nobody asked for")
		}
		o := m.o
		o.FS = newDisk(map[string][]byte{logPath: d.files[logPath].read(func(int) bool { return true })})
		l, err := Open(o)
		must(t, err)
		if l.StaleBytes() != 0 {
			t.Errorf("%d bytes are stale", l.StaleBytes())
		}
	})
}

func TestBitmap(t *testing.T) {
	var b bitmap
	b.grow(130)
	b.setAll(130)
	for _, r := range []uint32{0, 63, 64, 129} {
		if !b.has(r) {
			t.Errorf("%d isn't there", r)
		}
		b.unset(r)
		b.unset(r)
	}
	if b.n != 126 {
		t.Errorf("%d are there", b.n)
	}
	if r, ok := b.next(62); r != 62 || !ok {
		t.Error(r, ok)
	}
	if r, ok := b.next(63); r != 65 || !ok {
		t.Error(r, ok)
	}
	if r, ok := b.next(129); ok {
		t.Error(r)
	}
}
