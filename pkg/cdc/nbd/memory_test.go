package nbd

import (
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sync/semaphore"
)

func TestBuffersArePageAligned(t *testing.T) {
	m := newMemory(nil, nil)
	for _, n := range []int{1, 4096, 4097, 65536, 100_000, MaxOutgoing} {
		for range 3 {
			b := m.get(n)
			if len(b.b) < n || uintptr(unsafe.Pointer(&b.b[0]))%page != 0 {
				t.Errorf("%d bytes: %d at %p", n, len(b.b), &b.b[0])
			}
		}
	}
}

// Writes that fill the limit and stop half way keep small requests of other connections from
// nothing, and a large one waits until there is room again.
func TestMemoryLimit(t *testing.T) {
	v := newVolume(MaxRequest)
	limit := fixed{semaphore.NewWeighted(2 * MaxIncoming)}
	s := serve(t, v, Options{Incoming: limit})
	half := make([]byte, MaxIncoming/2)
	var stalled []*rawClient
	for range 2 {
		r := s.raw(t)
		r.open("disk")
		r.request(request{cmd: cmdWrite, flags: cmdFlagFUA, length: MaxIncoming}, half...) // one that is kept whole
		stalled = append(stalled, r)
	}
	waitFor(t, func() bool {
		if limit.TryAcquire(1) {
			limit.Release(1)
			return false
		}
		return true
	})
	late := s.dial(t)
	done := make(chan error, 1)
	go func() {
		_, err := late.WriteAt(make([]byte, 1<<20), 0)
		done <- err
	}()
	c := s.dial(t)
	for range 10 {
		must(t, c.Write(t.Context(), make([]byte, 4096), 0))
		must(t, c.Read(t.Context(), make([]byte, 4096), 0))
		must(t, c.Read(t.Context(), make([]byte, MaxRequest), 0))
	}
	select {
	case err := <-done:
		t.Fatalf("a write got memory beyond the limit: %v", err)
	default:
	}
	for _, r := range stalled {
		r.put(half)
		if e, _, _ := r.simple(0); e != ok {
			t.Errorf("error %d", e)
		}
	}
	must(t, <-done)
}

// Connections that do nothing hold no buffers.
func TestIdleConnectionsAreSmall(t *testing.T) {
	const connections = 300
	s := serve(t, newVolume(1<<20), Options{})
	heap := func() uint64 {
		var m runtime.MemStats
		for range 3 { // pools are emptied by the second collection
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for range connections {
		r := s.raw(t)
		r.open("disk")
		r.request(request{cmd: cmdWrite, length: 4096}, make([]byte, 4096)...)
		if e, _, _ := r.simple(0); e != ok {
			t.Fatalf("error %d", e)
		}
	}
	if each := int64(heap()-before) / connections; each > 32<<10 {
		t.Errorf("an idle connection holds %d bytes", each)
	}
}
