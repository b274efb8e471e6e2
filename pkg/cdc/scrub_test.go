package cdc_test

import (
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/events"
)

// checkHashes replays the journal and compares every hash with what the replica has at its position. It returns
// how many there were.
func checkHashes(t *testing.T, j *memJournal, image []byte) (n int) {
	t.Helper()
	for i, e := range j.events(t) {
		switch e := e.(type) {
		case *events.Frame:
			applyFrame(t, image, e)
		case *events.RegionHash:
			n++
			if e.Hash != sha256.Sum256(image[e.Offset:e.Offset+e.Length]) {
				t.Fatalf("event %d: the replica differs from the hash of %d bytes at %d", i, e.Length, e.Offset)
			}
		}
	}
	return n
}

// [I] Every hash of a scrub is that of what the replica holds at that position, whatever happens beside it.
func TestScrubBesideEverything(t *testing.T) {
	const size = 12 << 20
	rnd := random(t)
	r := newRig(t, size, func(o *cdc.Options) {
		track(o)
		o.Budget, o.Patience = cdc.NewBudget(512<<10), 4*time.Millisecond
		o.ScrubBytesPerSecond = 1 << 30
	})
	faults := rand.New(rand.NewPCG(rnd.Uint64(), 1))
	var mu sync.Mutex
	var healthy atomic.Bool
	r.dev.before = func(string, int64, int64) error {
		mu.Lock()
		defer mu.Unlock()
		if !healthy.Load() && faults.IntN(300) == 0 {
			return syscall.EIO
		}
		return nil
	}
	r.run(t)
	var load sync.WaitGroup
	for range 4 {
		own := rand.New(rand.NewPCG(rnd.Uint64(), 1))
		load.Go(func() {
			for range 400 {
				if err := mutate(r.Recorder, own, size); err != nil {
					wantIs(t, "mutation", err, syscall.EIO)
				}
			}
		})
	}
	for range 4 {
		r.journal.set(func() { r.journal.stuck = true })
		time.Sleep(time.Duration(rnd.IntN(20)) * time.Millisecond)
		r.journal.set(func() { r.journal.stuck = false })
		time.Sleep(time.Duration(rnd.IntN(20)) * time.Millisecond)
	}
	number := r.Scrub()
	if again := r.Scrub(); again != number {
		t.Errorf("scrub %d was asked for while %d ran", again, number)
	}
	load.Wait()
	healthy.Store(true)
	r.awaitReady(t)
	var s cdc.Scrubbed
	eventually(t, "scrubbed", func() bool { s, _ = r.Scrubbed(number); return s.Seq != 0 })
	if s.Done != size || s.Total != size || s.Journal != cdc.Journal(r.journal) {
		t.Errorf("%+v", s)
	}
	if done, ok := r.journal.events(t)[s.Seq-1].(*events.PassDone); !ok || done.Pass != events.PassScrub {
		t.Errorf("the scrub's end is %+v", done)
	}
	if _, ok := r.Scrubbed(number + 1); ok {
		t.Error("a scrub that nobody asked for is known")
	}
	must(t, r.stop())
	if n := checkHashes(t, r.journal, make([]byte, size)); n < size/(256<<10) {
		t.Errorf("%d hashes", n)
	}
}

// The scrub in the background keeps its rate and begins again; one that is asked for is as fast as a pass.
func TestScrubRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLog(t, t.TempDir()+"/log", 4<<20, 64, nil)
		clean(t, l)
		j := newMemJournal()
		r := cdc.NewRecorder(cdc.Options{Device: blank(4 << 20), Activity: l, ScrubBytesPerSecond: 1 << 20, PassBytesPerSecond: 4 << 20})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Record(ctx, j, cdc.Tenure{}) }()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := count[*events.RegionHash](j.events(t)); n < 38 || n > 44 {
			t.Errorf("%d hashes in 10 s, want 40", n)
		}
		if n := count[*events.PassDone](j.events(t)); n != 1+2 {
			t.Errorf("%d times done", n)
		}
		if _, p := r.Ready(); p.Pass != 0 {
			t.Errorf("the scrub in the background is told as %+v", p)
		}
		number := r.Scrub()
		time.Sleep(500 * time.Millisecond)
		if _, p := r.Ready(); p.Pass != events.PassScrub || p.Done < 1<<20 || p.Done > 3<<20 {
			t.Errorf("in the middle of a scrub: %+v", p)
		}
		time.Sleep(time.Second)
		if s, _ := r.Scrubbed(number); s.Seq == 0 {
			t.Errorf("scrub: %+v", s)
		}
		cancel()
		must(t, <-ended)
	})
}
