package nbd

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/cdc/nbd"
)

// nbdkit runs until the test's end and returns its socket.
func nbdkit(t testing.TB, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	socket, listening := filepath.Join(dir, "s"), filepath.Join(dir, "pid")
	// The socket's file is there before nbdkit listens; the file with its process id is not.
	cmd := exec.Command("nbdkit", append([]string{"-f", "-U", socket, "-P", listening}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stderr = &said
	check(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is told to end, and says so by its state
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		<-ended
	})
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(listening); err == nil {
			return socket
		}
		select {
		case <-ended:
			t.Fatalf("nbdkit ended: %s", said.String())
		default:
		}
		if time.Now().After(limit) {
			t.Fatal("nbdkit doesn't come up")
		}
	}
}

// Our client against a server that isn't ours, with structured replies and without.
func TestClientWithNbdkit(t *testing.T) {
	require(t, "nbdkit")
	for name, flags := range map[string][]string{"structured": nil, "simple": {"--no-sr"}} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk")
			check(t, os.WriteFile(path, nil, 0o600))
			check(t, os.Truncate(path, size))
			c, err := nbd.Dial(t.Context(), "unix", nbdkit(t, append(flags, "file", path)...), "")
			check(t, err)
			defer c.Close()
			exercise(t.Context(), t, c)
		})
	}
}

// Refusals, early replies and replies out of order.
func TestClientWithNbdkitFilters(t *testing.T) {
	require(t, "nbdkit")
	t.Run("structured", func(t *testing.T) { refusals(t) })
	t.Run("simple", func(t *testing.T) { refusals(t, "--no-sr") })
}

func refusals(t *testing.T, flags ...string) {
	socket := nbdkit(t, append(flags, "--filter=error", "--filter=delay", "memory", "64M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%", "delay-read=20ms")...)
	c, err := nbd.Dial(t.Context(), "unix", socket, "")
	check(t, err)
	defer c.Close()
	if err := c.Write(t.Context(), make([]byte, 4096), 0); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write: %v", err)
	}
	read := make(chan error, 1)
	go func() { read <- c.Read(t.Context(), make([]byte, 4096), 0) }()
	check(t, c.Flush(t.Context()))
	// Given up while in flight, and the connection goes on.
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := c.Read(ctx, make([]byte, 4096), 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("read: %v", err)
	}
	check(t, <-read)
	check(t, c.Read(t.Context(), make([]byte, 1<<20), 0))
	check(t, c.Disconnect())
}

// exercise writes a volume from many goroutines and reads it back.
func exercise(ctx context.Context, t *testing.T, c *nbd.Client) {
	_, content := image(t)
	const workers = 16
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			part := int64(size / workers)
			for off, end := int64(w)*part, int64(w+1)*part; off < end; {
				n := min(end-off, int64(1+(off*7)%(300<<10)))
				if err := c.Write(ctx, content[off:off+n], off); err != nil {
					t.Errorf("write %d bytes at %d: %v", n, off, err)
					return
				}
				off += n
			}
		})
	}
	wg.Wait()
	check(t, c.Flush(ctx))
	got := make([]byte, size)
	check(t, c.Read(ctx, got, 0)) // split by the client
	equal(t, "export", got, content)
	check(t, c.Trim(ctx, 1<<20, 1<<20))
	check(t, c.Zero(ctx, 4<<20, 1<<20, cdc.ZeroOptions{}))
	check(t, c.WriteFUA(ctx, content[:100], 0))
	segments, err := c.Segments(ctx, 0, size)
	check(t, err)
	at := int64(0)
	for _, s := range segments {
		if s.Offset != at {
			t.Fatalf("a gap before %+v", s)
		}
		at += s.Length
	}
	if at != size {
		t.Fatalf("%d bytes described", at)
	}
	check(t, c.Disconnect())
}
