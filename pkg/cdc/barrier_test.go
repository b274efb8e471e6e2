package cdc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/events"
)

func token(epoch, barrier uint64) events.Token { return events.Token{Epoch: epoch, Barrier: barrier} }

func wantIs(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// [I] The cut contains a mutation only if it contains every mutation acknowledged, on any volume,
// before that one was issued. Writers chain numbers over two volumes in turn; at no cut may a volume
// be more than one step ahead of what the other one allows.
func TestMarksCutDependentWrites(t *testing.T) {
	const size, chains, barriers = 1 << 20, 6, 300
	rnd := random(t)
	rigs := []*rig{newRig(t, size, nil).run(t), newRig(t, size, nil).run(t)}
	ctx, end := context.WithCancel(context.Background())
	var load sync.WaitGroup
	for c := range chains {
		load.Go(func() {
			for n := uint64(1); ctx.Err() == nil; n++ {
				p := binary.BigEndian.AppendUint64(make([]byte, 0, 512), n)
				must(t, rigs[n%2].Write(context.Background(), p[:512], int64(c)*4096, false))
			}
		})
	}
	var seqs [][2]uint64
	for b := uint64(1); b <= barriers; b++ {
		var marks sync.WaitGroup
		var seq [2]uint64
		must(t, rigs[b%2].Hold(token(1, b), time.Minute))
		for range rnd.IntN(2000) { // a little time, of random length
			rnd.Uint64()
		}
		must(t, rigs[(b+1)%2].Hold(token(1, b), time.Minute))
		for i, r := range rigs {
			delay := rnd.IntN(3000)
			own := rand.New(rand.NewPCG(b, uint64(i)))
			marks.Go(func() {
				for range delay {
					own.Uint64()
				}
				m, err := r.Mark(ctx, token(1, b))
				must(t, err)
				seq[i], err = m.Stored(deadline(t))
				must(t, err)
			})
		}
		marks.Wait()
		seqs = append(seqs, seq)
	}
	end()
	load.Wait()
	checkCuts(t, rigs, seqs, size, chains)
}

func checkCuts(t *testing.T, rigs []*rig, seqs [][2]uint64, size, chains int) {
	t.Helper()
	images := [2][]byte{make([]byte, size), make([]byte, size)}
	logs := [2][]events.Event{rigs[0].journal.events(t), rigs[1].journal.events(t)}
	at := [2]uint64{}
	moved := uint64(0)
	for b, seq := range seqs {
		for v := range 2 {
			for ; at[v] < seq[v]; at[v]++ {
				if f, ok := logs[v][at[v]].(*events.Frame); ok {
					applyFrame(t, images[v], f)
				}
			}
			m, ok := logs[v][seq[v]-1].(*events.Mark)
			if !ok || m.Token != token(1, uint64(b+1)) {
				t.Fatalf("volume %d: event %d is %T, not the mark of barrier %d", v, seq[v], logs[v][seq[v]-1], b+1)
			}
		}
		for c := range chains {
			even := binary.BigEndian.Uint64(images[0][c*4096:])
			odd := binary.BigEndian.Uint64(images[1][c*4096:])
			// n is issued when n-1 is acknowledged: the newest number's predecessor must be there.
			if even != odd+1 && odd != even+1 && even+odd != 0 {
				t.Fatalf("barrier %d, chain %d: volume 0 has %d and volume 1 has %d", b+1, c, even, odd)
			}
			moved = max(moved, even)
		}
	}
	if moved < 100 {
		t.Fatalf("the load got no further than %d", moved)
	}
}

func TestHoldClosesAdmissionAndMarkOpens(t *testing.T) {
	r := newRig(t, 1<<20, nil).run(t)
	ctx := deadline(t)
	must(t, r.Write(ctx, pattern(4096, 1), 0, false))
	must(t, r.Hold(token(1, 1), time.Minute))
	// Everything that changes waits; what doesn't goes on.
	wantIs(t, "write", r.Write(soon(t), pattern(4096, 2), 4096, false), context.DeadlineExceeded)
	wantIs(t, "zero", r.Zero(soon(t), 0, 4096, cdc.ZeroOptions{}), context.DeadlineExceeded)
	wantIs(t, "trim", r.Trim(soon(t), 0, 4096, false), context.DeadlineExceeded)
	must(t, r.Flush(ctx))
	_, err := r.ReadAt(make([]byte, 4096), 0)
	must(t, err)

	waiting := make(chan error, 1)
	go func() { waiting <- r.Write(ctx, pattern(4096, 3), 8192, false) }()
	m, err := r.Mark(ctx, token(1, 1))
	must(t, err)
	must(t, <-waiting)
	seq, err := m.Stored(ctx)
	must(t, err)
	if m.Hold <= 0 {
		t.Errorf("hold lasted %v", m.Hold)
	}
	cut := make([]byte, 1<<20)
	r.journal.apply(t, cut, int(seq))
	if cut[0] != 1 || cut[4096] != 0 || cut[8192] != 0 {
		t.Errorf("the cut has %d %d %d", cut[0], cut[4096], cut[8192])
	}
	r.check(t, make([]byte, 1<<20))
	if mark := r.journal.events(t)[seq-1].(*events.Mark); mark.Token != token(1, 1) || mark.Hold != m.Hold {
		t.Errorf("mark %+v, answered hold %v", mark, m.Hold)
	}
}

// [I] Tokens: a newer hold voids an older one, and a stale token does nothing.
func TestTokens(t *testing.T) {
	r := newRig(t, 1<<20, nil).run(t)
	ctx := deadline(t)
	must(t, r.Hold(token(2, 5), time.Minute))
	must(t, r.Hold(token(2, 5), time.Minute)) // said twice
	wantIs(t, "older barrier", r.Hold(token(2, 4), time.Minute), cdc.ErrStaleToken)
	wantIs(t, "older epoch", r.Hold(token(1, 9), time.Minute), cdc.ErrStaleToken)
	must(t, r.Hold(token(3, 1), time.Minute)) // takes it over
	_, err := r.Mark(ctx, token(2, 5))
	wantIs(t, "mark of the voided hold", err, cdc.ErrNotHeld)
	r.Release(token(2, 5)) // of the voided hold: does nothing
	wantIs(t, "write", r.Write(soon(t), pattern(512, 1), 0, false), context.DeadlineExceeded)
	_, err = r.Mark(ctx, token(3, 1))
	must(t, err)
	must(t, r.Write(ctx, pattern(512, 1), 0, false))
	_, err = r.Mark(ctx, token(3, 1))
	wantIs(t, "second mark", err, cdc.ErrNotHeld)
	wantIs(t, "hold behind its mark", r.Hold(token(3, 1), time.Minute), cdc.ErrStaleToken)
	must(t, r.Hold(token(3, 2), time.Minute))
	r.Release(token(3, 2))
	must(t, r.Write(ctx, pattern(512, 2), 0, false))
	wantIs(t, "hold behind its release", r.Hold(token(3, 2), time.Minute), cdc.ErrStaleToken)
	r.drain(t)
	if n := count[*events.Mark](r.journal.events(t)); n != 1 {
		t.Errorf("%d marks", n)
	}
}

// [I] A tap that isn't told to mark within its limit opens by itself and refuses that token.
func TestHoldLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLog(t, filepath.Join(t.TempDir(), "log"), 1<<20, 64, nil)
		clean(t, l)
		r := cdc.NewRecorder(cdc.Options{Device: blank(1 << 20), Activity: l})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Record(ctx, newMemJournal(), cdc.Tenure{}) }()
		synctest.Wait()
		must(t, r.Hold(token(1, 1), 500*time.Millisecond))
		begun := time.Now()
		must(t, r.Write(ctx, pattern(512, 1), 0, false))
		if d := time.Since(begun); d != 500*time.Millisecond {
			t.Errorf("write was withheld for %v", d)
		}
		_, err := r.Mark(ctx, token(1, 1))
		wantIs(t, "mark behind the limit", err, cdc.ErrNotHeld)
		wantIs(t, "hold behind the limit", r.Hold(token(1, 1), time.Second), cdc.ErrStaleToken)
		// A takeover has its own limit, and the old one's timer doesn't open it.
		must(t, r.Hold(token(1, 2), 100*time.Millisecond))
		must(t, r.Hold(token(1, 3), time.Second))
		begun = time.Now()
		must(t, r.Write(ctx, pattern(512, 2), 0, false))
		if d := time.Since(begun); d != time.Second {
			t.Errorf("write was withheld for %v", d)
		}
		// The mark tells how long writes waited, not how long the gate was closed.
		must(t, r.Hold(token(1, 4), time.Minute))
		time.Sleep(time.Second)
		go func() { _ = r.Write(ctx, pattern(512, 3), 0, false) }()
		time.Sleep(2 * time.Second)
		m, err := r.Mark(ctx, token(1, 4))
		must(t, err)
		if m.Hold != 2*time.Second {
			t.Errorf("hold of %v, want 2s", m.Hold)
		}
		synctest.Wait()
		cancel()
		must(t, <-ended)
	})
}

func TestMarkIsRefusedWhilePassIsOpen(t *testing.T) {
	r := newRig(t, 1<<20, nil)
	block := make(chan struct{})
	r.dev.before = func(call string, _, _ int64) error {
		if call == "read" {
			<-block
		}
		return nil
	}
	must(t, errors.Join(r.dev.Device.Zero(0, 1<<20, false), writeAll(r.dev.Device, pattern(1<<20, 7))))
	r.pass(events.PassSeed)
	if ready, _ := r.Ready(); ready {
		t.Error("ready before Record")
	}
	r.run(t)
	eventually(t, "pass", func() bool { _, p := r.Ready(); return p.Pass == events.PassSeed && p.Total == 1<<20 })
	ctx := deadline(t)
	must(t, r.Hold(token(1, 1), time.Minute))
	_, err := r.Mark(ctx, token(1, 1))
	wantIs(t, "mark", err, cdc.ErrNotReady)
	// The refusal opened admission. (The pass has its first region locked.)
	must(t, r.Write(ctx, pattern(512, 1), 1<<20-512, false))
	close(block)
	eventually(t, "ready", func() bool { ready, _ := r.Ready(); return ready })
	must(t, r.Hold(token(1, 2), time.Minute))
	_, err = r.Mark(ctx, token(1, 2))
	must(t, err)
	r.check(t, make([]byte, 1<<20))
	done := -1
	for i, e := range r.journal.events(t) {
		switch e.(type) {
		case *events.PassDone:
			done = i
		case *events.Mark:
			if done < 0 {
				t.Error("the mark lies before PassDone")
			}
		}
	}
}

// soon ends soon: for calls that are expected to wait.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func writeAll(d cdc.Device, p []byte) error {
	_, err := d.WriteAt(p, 0)
	return err
}

// blank is a device in memory, for tests on a simulated clock.
type memDevice struct {
	mu sync.Mutex
	b  []byte
}

func blank(size int64) *memDevice { return &memDevice{b: make([]byte, size)} }

func (d *memDevice) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(p, d.b[off:]), nil
}

func (d *memDevice) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(d.b[off:], p), nil
}

func (d *memDevice) Zero(off, n int64, _ bool) error {
	_, err := d.WriteAt(bytes.Repeat([]byte{0}, int(n)), off)
	return err
}

func (d *memDevice) Trim(off, n int64) error { return d.Zero(off, n, true) }
func (d *memDevice) Grow(int64) error        { return syscall.ENOSPC }
func (d *memDevice) Flush() error            { return nil }
func (d *memDevice) Size() int64             { return int64(len(d.b)) }
func (d *memDevice) BlockSize() int64        { return 512 }
func (d *memDevice) Close() error            { return nil }

func (d *memDevice) Segments(off, n int64) ([]cdc.Segment, error) {
	return []cdc.Segment{{Offset: off, Length: n}}, nil
}
