package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/barrier"
	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/cdc/nbd"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/bus"
	"github.com/farshore/farshore/pkg/journal/journaltest"
)

const volumeSize = 4 << 20

// shore is a primary site with a group of two volumes, one of them ours.
type shore struct {
	dir      string
	port     int
	document string
	uid      string
	size     int64
}

func newShore(t *testing.T) *shore {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := &shore{dir: t.TempDir(), port: l.Addr().(*net.TCPAddr).Port, uid: "u1", size: volumeSize}
	must(t, l.Close())
	s.document = filepath.Join(s.dir, "group.yaml")
	s.writeDocument(t, "")
	return s
}

// writeDocument writes the group's document, with more volumes.
func (s *shore) writeDocument(t *testing.T, more string) {
	t.Helper()
	must(t, os.WriteFile(s.document, fmt.Appendf(nil, `
apiVersion: farshore.dev/v1alpha1
kind: ProtectionGroup
metadata: {name: shop}
spec:
  sites:
    primary: {url: "nats://127.0.0.1:%d"}
  capture: {scrubRate: 0}
  volumes:
  - {name: orders, uid: %s, capturer: a, path: %q, size: %d, listen: "unix:%s"}
  - {name: ledger, uid: u2, capturer: b, path: /nowhere, listen: "unix:/nowhere.sock"}
%s`, s.port, s.uid, s.image(), s.size, s.socket(), more), 0o600))
}

func (s *shore) image() string  { return filepath.Join(s.dir, "orders.img") }
func (s *shore) socket() string { return filepath.Join(s.dir, "nbd.sock") }

func (s *shore) startBus(t *testing.T) *journal.Site {
	t.Helper()
	server, err := bus.Start(bus.Options{StoreDir: filepath.Join(s.dir, "bus"), Domain: "primary", Port: s.port})
	must(t, err)
	t.Cleanup(func() { server.Shutdown(); server.Wait() })
	return journaltest.Connect(t, server.ClientURL(), "primary", "dr")
}

// process is the command, run inside the test.
type process struct {
	end  func() error // as SIGTERM; returns what the command did
	wait func() error // the same, of one that ends by itself
	log  *buffer
}

func (s *shore) start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{log: &buffer{}}
	cmd := command()
	daemon.Prepare(cmd)
	cmd.SetArgs(append([]string{"--group", s.document, "--name", "a", "--state", filepath.Join(s.dir, "state")}, args...))
	cmd.SetErr(p.log)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- cmd.ExecuteContext(ctx) }()
	p.wait = sync.OnceValue(func() error { return <-done })
	p.end = func() error { cancel(); return p.wait() }
	t.Cleanup(func() {
		_ = p.end()
		if t.Failed() {
			t.Logf("log of the capturer:\n%s", p.log)
		}
	})
	return p
}

func (p *process) await(t *testing.T, line string) {
	t.Helper()
	eventually(t, line, func() bool { return strings.Contains(p.log.String(), line) })
}

func (s *shore) dial(t *testing.T) *nbd.Client {
	t.Helper()
	c, err := nbd.Dial(deadline(t), "unix", s.socket(), "orders")
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Writes arrive in the journal, an end by signal leaves nothing behind, and a second start passes the volume
// again and takes the stream over.
func TestCapturerRecordsAndDrains(t *testing.T) {
	s := newShore(t)
	site := s.startBus(t)
	for start := uint64(1); start <= 2; start++ {
		p := s.start(t)
		p.await(t, "msg=recording")
		client := s.dial(t)
		rnd := rand.New(rand.NewPCG(start, 1))
		for i := range 200 {
			data := bytes.Repeat([]byte{byte(rnd.Uint32())}, 4096*(1+rnd.IntN(8)))
			_, err := client.WriteAt(data, rnd.Int64N((volumeSize-int64(len(data)))/512)*512)
			must(t, err)
			if i%50 == 0 {
				must(t, client.Flush(deadline(t)))
				must(t, client.Trim(deadline(t), rnd.Int64N(100)*4096, 8192))
			}
		}
		must(t, client.Disconnect())
		must(t, p.end()) // at once: the rest of the writes is in the pipeline
		image, last := replay(t, site)
		device, err := os.ReadFile(s.image())
		must(t, err)
		if !bytes.Equal(image, device) {
			t.Fatalf("start %d: the journal doesn't give what the device holds", start)
		}
		if last.Header.Epoch != start {
			t.Errorf("start %d wrote with epoch %d", start, last.Header.Epoch)
		}
	}
}

var orders = journal.StreamID{Group: "shop", Part: "orders", Generation: 1}

// replay applies the whole stream to a blank volume.
func replay(t *testing.T, site *journal.Site) ([]byte, journal.Message) {
	t.Helper()
	tail, err := site.Tail(deadline(t), orders.Name())
	must(t, err)
	reader, err := site.OpenReader(deadline(t), orders.Name(), 1)
	must(t, err)
	defer reader.Close()
	image := make([]byte, volumeSize)
	for {
		m, err := reader.Next(deadline(t))
		must(t, err)
		if f, ok := m.Event.(*events.Frame); ok {
			content, err := f.Content(nil)
			must(t, err)
			for _, op := range f.Ops {
				to := image[op.Offset : op.Offset+op.Length]
				clear(to)
				if op.Kind == events.OpWrite {
					content = content[copy(to, content):]
				}
			}
		}
		if m.Seq == tail.Last {
			return image, m
		}
	}
}

// The volume votes on barriers once its pass is done. What an earlier process left tells which pass that is.
func TestCapturerVotes(t *testing.T) {
	s := newShore(t)
	site := s.startBus(t)
	coordinator, err := barrier.NewCoordinator(barrier.Options{
		Site: site, Group: "shop", Volumes: []barrier.Volume{{Name: "orders", UID: "u1"}}, Interval: -1,
	})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- coordinator.Run(ctx) }()
	defer func() { cancel(); must(t, <-ended) }()
	for _, kind := range []events.PassKind{events.PassSeed, events.PassResync} {
		p := s.start(t)
		p.await(t, `msg="pass done"`)
		var commit *events.Commit
		eventually(t, "commit", func() bool {
			c, err := barrier.RequestMark(deadline(t), site.Conn(), "shop", "before-upgrade", 5*time.Second)
			commit = c
			return err == nil
		})
		m := read(t, site, commit.Vector[0].Position.Seq)
		if mark, ok := m.Event.(*events.Mark); !ok || mark.Token != commit.Token {
			t.Errorf("the vector names %+v", m.Event)
		}
		eventually(t, "a heartbeat behind the pass", func() bool {
			tail, err := site.Tail(deadline(t), orders.Name())
			must(t, err)
			beat, ok := read(t, site, tail.Last).Event.(*events.Heartbeat)
			return ok && beat.Progress.Pass == 0
		})
		must(t, p.end())
		if n := strings.Count(p.log.String(), "kind="+map[events.PassKind]string{events.PassSeed: "seed", events.PassResync: "resync"}[kind]); n != 2 {
			t.Errorf("%d lines tell of pass %d", n, kind)
		}
	}
}

func read(t *testing.T, site *journal.Site, seq uint64) journal.Message {
	t.Helper()
	reader, err := site.OpenReader(deadline(t), orders.Name(), seq)
	must(t, err)
	defer reader.Close()
	m, err := reader.Next(deadline(t))
	must(t, err)
	return m
}

// [I] A capturer whose stream was taken over ends with exit code 3, and nothing that it is told then is
// acknowledged.
func TestFencedCapturer(t *testing.T) {
	s := newShore(t)
	site := s.startBus(t)
	p := s.start(t)
	p.await(t, "msg=recording")
	client := s.dial(t)
	_, err := client.WriteAt(make([]byte, 4096), 0)
	must(t, err)
	_, err = site.OpenWriter(deadline(t), orders, journal.WriterOptions{
		Writer: "somebody else", Open: func(uint64) *events.Epoch {
			return &events.Epoch{Writer: "somebody else", UID: "u1", Size: volumeSize, BlockSize: 512}
		},
	})
	must(t, err)
	var refused error
	eventually(t, "writes are refused", func() bool {
		_, refused = client.WriteAt(make([]byte, 4096), 0)
		return refused != nil
	})
	var answer *nbd.RequestError
	if errors.As(refused, &answer) && !errors.Is(refused, syscall.EIO) && !errors.Is(refused, syscall.ESHUTDOWN) {
		t.Errorf("answered %v", refused)
	}
	if err := p.wait(); daemon.ExitCode(err) != daemon.ExitFenced || !errors.Is(err, journal.ErrFenced) {
		t.Errorf("ended with %v", err)
	}
}

// The journal may come later than the capturer.
func TestCapturerWaitsForTheJournal(t *testing.T) {
	s := newShore(t)
	p := s.start(t)
	p.await(t, "trying again")
	if d, err := cdc.OpenFile(s.image(), volumeSize); !errors.Is(err, cdc.ErrLocked) {
		t.Errorf("the device isn't locked before the journal is there: %v", err)
		if err == nil {
			_ = d.Close()
		}
	}
	s.startBus(t)
	p.await(t, "msg=ready")
	must(t, p.end())
}

// An end by signal while it waits is no failure.
func TestEndWhileWaiting(t *testing.T) {
	p := newShore(t).start(t)
	p.await(t, "trying again")
	must(t, p.end())
}

func TestExitCodes(t *testing.T) {
	s := newShore(t)
	for what, args := range map[string][]string{
		"no name":      {"--name", ""},
		"unknown name": {"--name", "c"},
		"no document":  {"--group", s.dir + "/none"},
	} {
		if err := s.start(t, args...).wait(); daemon.ExitCode(err) != daemon.ExitUsage {
			t.Errorf("%s: %v", what, err)
		}
	}
	d, err := cdc.OpenFile(s.image(), volumeSize)
	must(t, err)
	defer d.Close()
	if err := s.start(t).wait(); daemon.ExitCode(err) != daemon.ExitFailure || !errors.Is(err, cdc.ErrLocked) {
		t.Errorf("locked device: %v", err)
	}
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until ok. What ok asks for often opens a reader, and a server that has made about a thousand of them within
// seconds lets the next one wait for half a minute: it is not asked more than 20 times a second.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ctx := deadline(t); !ok(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
