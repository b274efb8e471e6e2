package nbd

import (
	"bytes"
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/cdc/nbd"
)

const size = 64 << 20 // bytes of the volumes here

// volume is an export on a file, served as "disk".
type volume struct {
	uri    string // as the tools want it
	socket string
	export nbd.Export
	path   string // of the backing file
	// settle compares the journal's view with the device's, where there is a journal.
	settle func()
}

// bothKinds runs a test against a plain device and against a recorded one.
func bothKinds(t *testing.T, test func(t *testing.T, v *volume)) {
	t.Run("direct", func(t *testing.T) {
		v := direct(t)
		v.serve(t)
		test(t, v)
	})
	t.Run("recorded", func(t *testing.T) {
		v := recorded(t)
		v.serve(t)
		test(t, v)
		v.settle()
	})
}

// direct is a volume without recording.
func direct(t testing.TB) *volume {
	t.Helper()
	v := &volume{path: filepath.Join(t.TempDir(), "volume.img"), settle: func() {}}
	v.export = cdc.Direct(v.open(t))
	return v
}

// open opens the backing device until the test's end.
func (v *volume) open(t testing.TB) cdc.Device {
	t.Helper()
	d, err := cdc.OpenFile(v.path, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// serve serves the volume on a unix socket until the test's end.
func (v *volume) serve(t testing.TB) {
	t.Helper()
	v.socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", v.socket)
	if err != nil {
		t.Fatal(err)
	}
	v.uri = "nbd+unix:///disk?socket=" + v.socket
	server := nbd.NewServer(nbd.Options{})
	server.AddExport("disk", v.export, false)
	run(t, server, l)
}

// run runs a server until the test's end.
func run(t testing.TB, s *nbd.Server, l net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(ctx, l); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// serveTLS serves the volume on a loopback port, for clients with a certificate.
func (v *volume) serveTLS(t testing.TB, config *tls.Config) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := nbd.NewServer(nbd.Options{TLS: config})
	server.AddExport("disk", v.export, false)
	run(t, server, l)
	return l.Addr().String()
}

// content reads the backing file.
func (v *volume) content(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(v.path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// image makes a file of the volume's size with random data and holes.
func image(t testing.TB) (path string, content []byte) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var key [32]byte
	for i := range key {
		key[i] = byte(r.Uint32())
	}
	noise := rand.NewChaCha8(key)
	path = filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	content = make([]byte, size)
	for off := int64(0); off < size; {
		n := min(512*(1+r.Int64N(4096)), size-off)
		if r.IntN(2) == 0 {
			noise.Read(content[off : off+n])
			if _, err := f.WriteAt(content[off:off+n], off); err != nil {
				t.Fatal(err)
			}
		}
		off += n
	}
	return path, content
}

func equal(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d bytes, want %d", what, len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s: the first difference is at byte %d: %#x, want %#x", what, i, got[i], want[i])
		}
	}
}

// allocated is how many bytes of a file take space.
func allocated(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return blocks(info) * 512
}

func dial(t testing.TB, v *volume) *nbd.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := nbd.Dial(ctx, "unix", v.socket, "disk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
