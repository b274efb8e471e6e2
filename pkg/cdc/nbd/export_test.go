package nbd

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
)

// volume is an export in memory. Blocks that were never written, or were given up, are holes.
type volume struct {
	mu     sync.RWMutex
	data   []byte
	hole   []bool // by block
	events []string

	// before is called, without the lock, before every call and may fail it.
	before func(op string, off, length int64) error
	fast   bool
}

const block = 4096

func newVolume(size int64) *volume {
	v := &volume{data: make([]byte, size), hole: make([]bool, (size+block-1)/block), fast: true}
	for i := range v.hole {
		v.hole[i] = true
	}
	return v
}

func (v *volume) enter(op string, off, length int64) error {
	if v.before != nil {
		if err := v.before(op, off, length); err != nil {
			return err
		}
	}
	if off < 0 || length < 0 || off+length > int64(len(v.data)) {
		panic("the server let a request out of the volume pass")
	}
	return nil
}

func (v *volume) note(op string) {
	v.events = append(v.events, op)
}

func (v *volume) Size() int64         { return int64(len(v.data)) }
func (v *volume) BlockSize() int64    { return block }
func (v *volume) Description() string { return "a volume in memory" }

func (v *volume) ReadAt(p []byte, off int64) (int, error) {
	if err := v.enter("read", off, int64(len(p))); err != nil {
		return 0, err
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	return copy(p, v.data[off:]), nil
}

func (v *volume) Write(_ context.Context, p []byte, off int64, fua bool) error {
	if err := v.enter("write", off, int64(len(p))); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if fua {
		v.note("fua")
	}
	copy(v.data[off:], p)
	for i := off / block; i*block < off+int64(len(p)); i++ {
		v.hole[i] = false
	}
	return nil
}

func (v *volume) Zero(_ context.Context, off, length int64, o cdc.ZeroOptions) error {
	if err := v.enter("zero", off, length); err != nil {
		return err
	}
	if o.Fast && !v.fast {
		return cdc.ErrNotFast
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if o.NoHole {
		v.note("nohole")
	}
	v.clear(off, length, !o.NoHole)
	return nil
}

func (v *volume) clear(off, length int64, hole bool) {
	clear(v.data[off : off+length])
	for i := off / block; i*block < off+length; i++ {
		whole := i*block >= off && min((i+1)*block, int64(len(v.data))) <= off+length
		v.hole[i] = hole && (v.hole[i] || whole)
	}
}

func (v *volume) Trim(_ context.Context, off, length int64, fua bool) error {
	if err := v.enter("trim", off, length); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.note("trim")
	v.clear(off, length, true)
	return nil
}

func (v *volume) Flush(context.Context) error {
	if err := v.enter("flush", 0, 0); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.note("flush")
	return nil
}

func (v *volume) Segments(off, length int64) ([]cdc.Segment, error) {
	if err := v.enter("segments", off, length); err != nil {
		return nil, err
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	var s []cdc.Segment
	for end := off + length; off < end; {
		n := min((off/block+1)*block, end) - off
		h := v.hole[off/block]
		s = append(s, cdc.Segment{Offset: off, Length: n, Hole: h, Zero: h})
		off += n
	}
	return s, nil
}

func (v *volume) happened(op string) int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	n := 0
	for _, e := range v.events {
		if e == op {
			n++
		}
	}
	return n
}

// served is a running server.
type served struct {
	*Server
	path string
	stop func() error // ends it and returns what Serve returned
}

// serve serves v as "disk" on a unix socket until the test ends.
func serve(t testing.TB, v Export, o Options) *served {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	s := NewServer(o)
	s.AddExport("disk", v, false)
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return &served{Server: s, path: path, stop: run(t, s, l)}
}

// run has s serve l and returns a function that stops it.
func run(t testing.TB, s *Server, l net.Listener) func() error {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	stop := sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			return errors.New("the server doesn't end")
		}
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return stop
}

func (s *served) dial(t testing.TB) *Client {
	t.Helper()
	c, err := Dial(t.Context(), "unix", s.path, "disk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// at returns a copy of a range.
func (v *volume) at(off, length int64) []byte {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return append([]byte(nil), v.data[off:off+length]...)
}
