package nbd

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/farshore/farshore/pkg/cdc"
)

func noiseOf(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

// A piece of a large write that takes long delays neither other requests nor the pieces behind it, and the reply
// comes when all of them are stored.
func TestLargeWriteLeftBehind(t *testing.T) {
	for name, at := range map[string]int64{"first": 0, "middle": 3 * writePiece, "last": 7 * writePiece} {
		t.Run(name, func(t *testing.T) {
			v := newVolume(8 * writePiece)
			stuck, free := make(chan struct{}), make(chan struct{})
			v.before = func(op string, off, _ int64) error {
				if op == "write" && off == at {
					close(stuck)
					<-free
				}
				return nil
			}
			r := serve(t, v, Options{}).raw(t)
			r.open("disk")
			noise := noiseOf(8 * writePiece)
			go r.request(request{cmd: cmdWrite, cookie: 1, length: uint32(len(noise))}, noise...)
			<-stuck
			waitFor(t, func() bool { // the pieces behind it, and before it
				for off := range int64(len(noise)) / writePiece {
					if off*writePiece != at && !bytes.Equal(v.at(off*writePiece, writePiece), noise[off*writePiece:][:writePiece]) {
						return false
					}
				}
				return true
			})
			r.request(request{cmd: cmdRead, cookie: 2, length: 512})
			if e, cookie, _ := r.simple(512); e != ok || cookie != 2 {
				t.Fatalf("reply %d to request %d came before its pieces were stored", e, cookie)
			}
			close(free)
			if e, cookie, _ := r.simple(0); e != ok || cookie != 1 {
				t.Fatalf("reply %d to request %d", e, cookie)
			}
			if !bytes.Equal(v.at(0, int64(len(noise))), noise) {
				t.Error("the volume differs")
			}
		})
	}
}

// A piece that fails fails the write; what follows on the connection is understood.
func TestLargeWriteFails(t *testing.T) {
	v := newVolume(4 << 20)
	v.before = func(op string, off, _ int64) error {
		if op == "write" && off == 2*writePiece {
			return syscall.ENOSPC
		}
		return nil
	}
	c := serve(t, v, Options{}).dial(t)
	noise := noiseOf(3 << 20)
	for name, write := range map[string]func() error{
		"plain":   func() error { return c.Write(t.Context(), noise, 0) },
		"durable": func() error { return c.WriteFUA(t.Context(), noise[2*writePiece:], 2*writePiece) },
	} {
		if err := write(); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v", name, err)
		}
		must(t, c.Write(t.Context(), noise[:100], 3<<20))
	}
	if v.happened("flush") != 0 {
		t.Error("a write that failed was flushed")
	}
	must(t, c.WriteFUA(t.Context(), noise[:1<<20], 1<<20))
	if v.happened("flush") != 1 {
		t.Errorf("a durable large write made %d flushes", v.happened("flush"))
	}
}

// Pieces of a slow export are stored concurrently.
func TestLargeWriteToSlowExport(t *testing.T) {
	v := newVolume(4 * writePiece)
	s := NewServer(Options{})
	s.AddExport("disk", v, false)
	near, far := net.Pipe()
	conn := newConn(&service{Server: s, plain: true, watch: newWatch(), conns: map[*conn]struct{}{}}, far)
	conn.pieces.slow.Store(true)
	go conn.serve(t.Context())
	c, err := newClient(t.Context(), near, "disk", nil)
	must(t, err)
	all := make(chan struct{}, 4)
	met := make(chan struct{})
	v.before = func(op string, _, _ int64) error {
		if all <- struct{}{}; len(all) == cap(all) {
			close(met)
		}
		<-met
		return nil
	}
	noise := noiseOf(4 * writePiece)
	must(t, c.Write(t.Context(), noise, 0))
	if !bytes.Equal(v.at(0, int64(len(noise))), noise) {
		t.Error("the volume differs")
	}
}

// onlyRaw is an export that can't be read but by its descriptor.
type onlyRaw struct{ *cdc.Passthrough }

func (onlyRaw) ReadAt([]byte, int64) (int, error) { return 0, syscall.EIO }

// What is in the page cache is sent from there, with structured replies and simple ones.
func TestReadsFromThePageCache(t *testing.T) {
	noise := noiseOf(5 << 20)
	path := filepath.Join(t.TempDir(), "volume")
	must(t, os.WriteFile(path, noise, 0o600))
	d, err := cdc.OpenFile(path, 0)
	must(t, err)
	defer d.Close()
	s := serve(t, onlyRaw{cdc.Direct(d)}, Options{})
	c := s.dial(t)
	if there := (&conn{file: cdc.Direct(d).Raw()}); !there.resident(0, int64(len(noise))) {
		t.Skip("not run: this system doesn't tell what is in its page cache")
	}
	for _, off := range []int{0, 511, 1<<20 + 13, 4 << 20} {
		for _, n := range []int{maxInline + 1, 100_000, 1 << 20, len(noise) - off} {
			n = min(n, len(noise)-off)
			got := make([]byte, n)
			must(t, c.Read(t.Context(), got, int64(off)))
			if !bytes.Equal(got, noise[off:off+n]) {
				t.Fatalf("%d bytes at %d differ", n, off)
			}
		}
	}
	r := s.raw(t)
	r.open("disk")
	r.request(request{cmd: cmdRead, cookie: 7, offset: 77, length: 3 << 20})
	if e, _, got := r.simple(3 << 20); e != ok || !bytes.Equal(got, noise[77:77+3<<20]) {
		t.Errorf("a simple reply, error %d, differs", e)
	}
}

// failing fails reads behind some bytes.
type failing struct {
	*volume
	from int64
}

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		return 0, syscall.EIO
	}
	return f.volume.ReadAt(p, off)
}

// A large simple reply that fails is an error while nothing of it was sent, and the end of the connection else.
func TestLargeSimpleReplyFails(t *testing.T) {
	s := serve(t, failing{newVolume(4 << 20), 2 << 20}, Options{})
	r := s.raw(t)
	r.open("disk")
	r.request(request{cmd: cmdRead, offset: 2 << 20, length: 2 << 20})
	if e, _, _ := r.simple(2 << 20); e != eIO {
		t.Errorf("error %d", e)
	}
	r.request(request{cmd: cmdRead, length: 4 << 20})
	r.take(simpleReplySize + 2<<20)
	r.closed()
}

// A client that connects sees the size of that time, and nothing behind it later on.
func TestExportGrows(t *testing.T) {
	v := newVolume(2 << 20)
	g := &grown{volume: v, size: 1 << 20}
	s := serve(t, g, Options{})
	before := s.dial(t)
	g.size = 2 << 20
	after := s.dial(t)
	if before.Size() != 1<<20 || after.Size() != 2<<20 {
		t.Fatalf("sizes %d and %d", before.Size(), after.Size())
	}
	p := make([]byte, 4096)
	must(t, after.Write(t.Context(), p, 2<<20-4096))
	r := s.raw(t)
	r.open("disk")
	g.size = 3 << 20
	r.request(request{cmd: cmdRead, offset: 2 << 20, length: 4096})
	if e, _, _ := r.simple(0); e != eInval {
		t.Errorf("a read behind the size that was told: error %d", e)
	}
}

type grown struct {
	*volume
	size int64
}

func (g *grown) Size() int64 { return g.size }
