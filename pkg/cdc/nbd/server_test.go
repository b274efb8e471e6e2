package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/farshore/farshore/pkg/cdc"
)

func TestRoundTrip(t *testing.T) {
	const size = 80<<20 + 12345
	v := newVolume(size)
	c := serve(t, v, Options{}).dial(t)
	if c.Size() != size || c.ReadOnly() || c.Description() != v.Description() {
		t.Fatalf("size %d, read-only %v, description %q", c.Size(), c.ReadOnly(), c.Description())
	}
	if s, p, l := c.BlockSizes(); s != 1 || p != 4096 || l != MaxRequest {
		t.Fatalf("block sizes %d, %d, %d", s, p, l)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	noise := make([]byte, 70<<20)
	chacha := rand.NewChaCha8([32]byte{byte(seed)})
	chacha.Read(noise)
	for _, n := range []int{1, 511, 4096, maxInline - 1, maxInline, maxInline + 1, 65536, readPiece, readPiece + 1, MaxRequest, MaxRequest + 1, len(noise)} {
		off := random.Int64N(size - int64(n) + 1)
		if _, err := c.WriteAt(noise[:n], off); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, n)
		if _, err := c.ReadAt(got, off); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, noise[:n]) || !bytes.Equal(v.at(off, int64(n)), noise[:n]) {
			t.Fatalf("%d bytes at %d differ", n, off)
		}
	}
	must(t, c.Flush(t.Context()))
	must(t, c.WriteFUA(t.Context(), noise[:100], 0))
	if v.happened("flush") != 1 || v.happened("fua") != 1 {
		t.Fatalf("events %v", v.events)
	}
	must(t, c.Cache(t.Context(), 0, 1<<20))
	must(t, c.Disconnect())
	if err := c.Flush(t.Context()); !errors.Is(err, ErrClosed) {
		t.Fatalf("flush after the end: %v", err)
	}
}

// Many goroutines on several connections, each with a part of the volume, against a model.
func TestConcurrentRequests(t *testing.T) {
	const workers, part = 24, 1 << 20
	v := newVolume(workers * part)
	s := serve(t, v, Options{
		Incoming: fixed{semaphore.NewWeighted(MaxIncoming)}, Outgoing: fixed{semaphore.NewWeighted(MaxOutgoing)}, // the least there can be
	})
	clients := []*Client{s.dial(t), s.dial(t), s.dial(t)}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			if err := mixed(t.Context(), clients[w%len(clients)], int64(w)*part, part, rand.New(rand.NewPCG(seed, uint64(w)))); err != nil {
				t.Errorf("worker %d: %v", w, err)
			}
		})
	}
	wg.Wait()
}

func mixed(ctx context.Context, c *Client, base, size int64, r *rand.Rand) error {
	model := make([]byte, size)
	got := make([]byte, size)
	for i := range 150 {
		off := r.Int64N(size)
		n := 1 + r.Int64N(min(size-off, []int64{4096, 65536, size}[r.IntN(3)]))
		var err error
		switch r.IntN(8) {
		case 0:
			err = c.Trim(ctx, base+off, n)
			clear(model[off : off+n])
		case 1:
			err = c.Zero(ctx, base+off, n, cdc.ZeroOptions{NoHole: r.IntN(2) == 0, Fast: r.IntN(2) == 0, FUA: r.IntN(2) == 0})
			clear(model[off : off+n])
		case 2:
			err = c.Flush(ctx)
		case 3, 4, 5:
			p := model[off : off+n]
			for j := range p {
				p[j] = byte(r.Uint32())
			}
			if r.IntN(4) == 0 {
				err = c.WriteFUA(ctx, p, base+off)
			} else {
				err = c.Write(ctx, p, base+off)
			}
		default:
			if err = c.Read(ctx, got[:n], base+off); err == nil && !bytes.Equal(got[:n], model[off:off+n]) {
				err = fmt.Errorf("step %d: %d bytes at %d differ", i, n, off)
			}
		}
		if err != nil {
			return err
		}
	}
	if err := c.Read(ctx, got, base); err != nil {
		return err
	}
	if !bytes.Equal(got, model) {
		return errors.New("the end differs")
	}
	return nil
}

func TestErrorsReachTheClient(t *testing.T) {
	v := newVolume(1 << 20)
	want := error(nil)
	v.before = func(op string, _, _ int64) error { return want }
	c := serve(t, v, Options{}).dial(t)
	small, large := make([]byte, 4096), make([]byte, 512<<10)
	for _, x := range []struct {
		err  error
		want syscall.Errno
	}{
		{syscall.ENOSPC, syscall.ENOSPC}, {syscall.EDQUOT, syscall.ENOSPC}, {syscall.EROFS, syscall.EPERM},
		{fmt.Errorf("write: %w", syscall.ENOMEM), syscall.ENOMEM}, {errors.New("odd"), syscall.EIO},
		{cdc.ErrNotFast, syscall.EIO}, {cdc.ErrStopped, syscall.EIO}, {context.Canceled, syscall.ESHUTDOWN},
	} {
		want = x.err
		ctx := t.Context()
		_, readSmall := c.ReadAt(small, 0)
		_, readLarge := c.ReadAt(large, 0)
		_, status := c.Segments(ctx, 0, 4096)
		for name, err := range map[string]error{
			"small read": readSmall, "large read": readLarge, "block status": status,
			"small write": c.Write(ctx, small, 0), "large write": c.Write(ctx, large, 0), "FUA": c.WriteFUA(ctx, small, 0),
			"trim": c.Trim(ctx, 0, 4096), "zero": c.Zero(ctx, 0, 4096, cdc.ZeroOptions{}), "flush": c.Flush(ctx),
			"cache": c.Cache(ctx, 0, 4096),
		} {
			if !errors.Is(err, x.want) {
				t.Errorf("%v in %s became %v", x.err, name, err)
			}
		}
	}
	want = nil
	v.fast = false
	if err := c.Zero(t.Context(), 0, 4096, cdc.ZeroOptions{Fast: true}); !errors.Is(err, syscall.ENOTSUP) {
		t.Errorf("fast zero where it isn't: %v", err)
	}
	must(t, c.Write(t.Context(), small, 0)) // the connection is as good as before
}

// A read that fails half way through, behind data that was sent already.
func TestReadFailsInTheMiddle(t *testing.T) {
	v := newVolume(8 << 20)
	v.hole = make([]bool, len(v.hole))
	v.before = func(op string, off, length int64) error {
		if op == "read" && off <= 3<<20 && 3<<20 < off+length {
			return syscall.EIO
		}
		return nil
	}
	c := serve(t, v, Options{}).dial(t)
	if _, err := c.ReadAt(make([]byte, 8<<20), 0); !errors.Is(err, syscall.EIO) {
		t.Fatalf("read: %v", err)
	}
	if _, err := c.ReadAt(make([]byte, 1<<20), 4<<20); err != nil {
		t.Fatal(err)
	}
}

// A small write that gets stuck (a barrier, a full budget) delays neither what comes behind it nor
// what was answered before it, up to as many as may be in flight.
func TestStuckWriteDelaysNothing(t *testing.T) {
	v := newVolume(1 << 20)
	release := make(chan struct{})
	stuck := make(chan struct{}, 100)
	v.before = func(op string, off, _ int64) error {
		if op == "write" && off < 64<<10 {
			stuck <- struct{}{}
			<-release
		}
		return nil
	}
	s := serve(t, v, Options{})
	c := s.dial(t)
	var wg sync.WaitGroup
	for i := range maxInFlight - 1 {
		wg.Go(func() {
			if err := c.Write(t.Context(), bytes.Repeat([]byte{byte(i + 1)}, 512), int64(i)*512); err != nil {
				t.Errorf("stuck write: %v", err)
			}
		})
		<-stuck
		if i%8 == 0 {
			must(t, c.Write(t.Context(), []byte("x"), 128<<10))
			must(t, c.Flush(t.Context()))
			_, err := c.ReadAt(make([]byte, 64<<10), 128<<10)
			must(t, err)
		}
	}
	// The last place in flight and the leader itself.
	for i := range 2 {
		wg.Go(func() {
			if err := c.Write(t.Context(), make([]byte, 512), int64(62<<10+i*512)); err != nil {
				t.Errorf("stuck write: %v", err)
			}
		})
		<-stuck
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Read(ctx, make([]byte, 1), 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a connection with everything in flight was read from: %v", err)
	}
	close(release)
	wg.Wait()
	for i := range maxInFlight - 1 {
		if got := v.at(int64(i)*512, 1)[0]; got != byte(i+1) {
			t.Fatalf("write %d: %d is there", i, got)
		}
	}
	must(t, c.Write(t.Context(), []byte("x"), 0))
}

// A client that doesn't take its replies keeps nobody else from being served, nor its own writes.
func TestClientThatDoesNotRead(t *testing.T) {
	v := newVolume(4 << 20)
	s := serve(t, v, Options{})
	raw := s.raw(t)
	raw.open("disk")
	for i := range 64 { // 2 MiB of replies, more than a socket holds
		raw.request(request{cmd: cmdRead, cookie: uint64(i), length: maxInline})
	}
	raw.request(request{cmd: cmdWrite, cookie: 100, length: 4}, []byte("mark")...)
	waitFor(t, func() bool { return string(v.at(0, 4)) == "mark" })
	must(t, s.dial(t).Flush(t.Context()))
	const written = 100
	seen := make(map[uint64]bool)
	for range 65 { // in any order, each whole
		e, cookie, _ := raw.simpleOf(func(cookie uint64) int {
			if cookie == written {
				return 0
			}
			return maxInline
		})
		if e != ok || seen[cookie] || cookie > 63 && cookie != written {
			t.Fatalf("error %d for %d", e, cookie)
		}
		seen[cookie] = true
	}
}

func TestSlowExportIsServedConcurrently(t *testing.T) {
	v := newVolume(1 << 20)
	var mu sync.Mutex
	running, most := 0, 0
	v.before = func(op string, _, _ int64) error {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		<-time.After(300 * time.Microsecond) // stands for a disk: faster than what the watch sees
		mu.Lock()
		running--
		mu.Unlock()
		return nil
	}
	c := serve(t, v, Options{}).dial(t)
	for _, read := range []bool{true, false} {
		most = 0
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				p := make([]byte, 4096)
				for range 20 {
					var err error
					if read {
						_, err = c.ReadAt(p, 0)
					} else {
						_, err = c.WriteAt(p, 0)
					}
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if most < 8 {
			t.Errorf("read %v: only %d of 16 requests ran at once", read, most)
		}
	}
}

func TestBlockStatus(t *testing.T) {
	v := newVolume(1 << 20)
	c := serve(t, v, Options{}).dial(t)
	must(t, c.Write(t.Context(), make([]byte, 8192), 64<<10))
	must(t, c.Write(t.Context(), make([]byte, 4096), 512<<10))
	must(t, c.Trim(t.Context(), 68<<10, 4096))
	got, err := c.Segments(t.Context(), 4096, 1<<20-8192)
	must(t, err)
	want := []cdc.Segment{
		{Offset: 4 << 10, Length: 60 << 10, Hole: true, Zero: true}, {Offset: 64 << 10, Length: 4 << 10},
		{Offset: 68 << 10, Length: 444 << 10, Hole: true, Zero: true}, {Offset: 512 << 10, Length: 4 << 10},
		{Offset: 516 << 10, Length: 504 << 10, Hole: true, Zero: true},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
	// More extents than fit in one reply.
	big := newVolume((2*maxExtents + 10) * block)
	for i := range big.hole {
		big.hole[i] = i%2 == 0
	}
	c = serve(t, big, Options{}).dial(t)
	if got, err = c.Segments(t.Context(), 0, c.Size()); err != nil || len(got) != len(big.hole) {
		t.Fatalf("%d extents of %d, %v", len(got), len(big.hole), err)
	}
}

func TestShutdownFinishesWhatIsInFlight(t *testing.T) {
	v := newVolume(1 << 20)
	began, release := make(chan struct{}), make(chan struct{})
	v.before = func(op string, _, _ int64) error {
		if op == "write" {
			close(began)
			<-release
		}
		return nil
	}
	s := serve(t, v, Options{})
	c, idle := s.dial(t), s.dial(t)
	written := make(chan error, 1)
	go func() { written <- c.WriteFUA(context.Background(), []byte("last"), 0) }()
	<-began
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	<-idle.done // closed at once, nothing was in flight
	if _, err := Dial(t.Context(), "unix", s.path, "disk"); err == nil {
		t.Error("a connection was accepted at the end")
	}
	close(release)
	must(t, <-written)
	must(t, <-stopped)
	if string(v.at(0, 4)) != "last" {
		t.Fatal("the write was lost")
	}
}

// A request that waits for ever ends with its context when the grace is over.
func TestShutdownHasALimit(t *testing.T) {
	v := newVolume(1 << 20)
	began := make(chan struct{})
	s := serve(t, waiting{v, began}, Options{Grace: 20 * time.Millisecond})
	c := s.dial(t)
	go c.Write(context.Background(), make([]byte, 10), 0)
	<-began
	must(t, s.stop())
}

// A client that is gone takes its waiting requests along.
func TestLostClientCancels(t *testing.T) {
	began := make(chan struct{})
	s := serve(t, waiting{newVolume(1 << 20), began}, Options{})
	c := s.dial(t)
	go c.Write(context.Background(), make([]byte, 10), 0)
	<-began
	c.Close()
	waitFor(t, func() bool { return s.metrics.connections.Load() == 0 })
}

type waiting struct {
	*volume
	began chan struct{}
}

func (w waiting) Write(ctx context.Context, _ []byte, _ int64, _ bool) error {
	close(w.began)
	<-ctx.Done()
	return ctx.Err()
}

func waitFor(t testing.TB, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it doesn't happen")
		}
	}
}
