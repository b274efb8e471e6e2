package journal_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/bus"
	"github.com/farshore/farshore/pkg/journal/journaltest"
)

// lossy is a NATS proxy that loses what it is told to: the protocol is read line by line and message by
// message, so one message can disappear while the connection lives on.
type lossy struct {
	listener net.Listener
	server   string
	publish  atomic.Int64 // the publish with this number, counted to 0, is lost
	deliver  atomic.Int64 // the same for messages to the client
	lost     atomic.Int64
	mu       sync.Mutex
	conns    []net.Conn
}

func newLossy(t *testing.T, server string) *lossy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &lossy{listener: listener, server: strings.TrimPrefix(server, "nats://")}
	t.Cleanup(func() { listener.Close(); p.cut() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // the test's end
			}
			server, err := net.Dial("tcp", p.server)
			if err != nil {
				client.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, client, server)
			p.mu.Unlock()
			go p.pump(server, client, &p.publish)
			go p.pump(client, server, &p.deliver)
		}
	}()
	return p
}

// cut breaks every connection; what is under way is lost.
func (p *lossy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

func (p *lossy) pump(to, from net.Conn, counter *atomic.Int64) {
	defer to.Close()
	defer from.Close()
	in := bufio.NewReaderSize(from, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		verb, _, _ := bytes.Cut(line, []byte(" "))
		size := -1
		switch string(verb) {
		case "PUB", "HPUB", "MSG", "HMSG":
			fields := bytes.Fields(line)
			if _, err := fmt.Sscan(string(fields[len(fields)-1]), &size); err != nil {
				return
			}
		}
		if size >= 0 {
			line = append(line, make([]byte, size+2)...)
			if _, err := io.ReadFull(in, line[len(line)-size-2:]); err != nil {
				return
			}
			counted := bytes.Contains(line, []byte("Nats-Expected-Last-Sequence")) || bytes.Contains(line, []byte(`"seq":`))
			if counted && counter.Add(-1) == 0 {
				p.lost.Add(1)
				continue
			}
		}
		if _, err := to.Write(line); err != nil {
			return
		}
	}
}

// A message that is lost on its way, an acknowledgement that is, and connections that break with a
// window of messages under way: everything is stored exactly once and in order.
func TestNothingIsLostOrRepeatedOnALossyLine(t *testing.T) {
	t.Parallel()
	server, err := bus.Start(bus.Options{StoreDir: t.TempDir(), Domain: "primary", Port: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Shutdown(); server.Wait() })
	p := newLossy(t, server.ClientURL())
	direct := journaltest.Connect(t, server.ClientURL(), "primary", "dr")
	ensure(t, direct, journal.StreamOptions{})
	s := journaltest.Connect(t, "nats://"+p.listener.Addr().String(), "primary", "dr")
	x := start(t, s, "a")
	const total = 12000
	var wg sync.WaitGroup
	wg.Go(func() { appendAll(t, x, 0, total) })
	faults := []func(){
		func() { p.publish.Store(7) },
		func() { p.deliver.Store(7) },
		p.cut,
	}
	for n := range uint64(30) {
		eventually(t, "the writer goes on", func() bool { return x.Stored() > 300*(n+1) })
		faults[n%3]()
	}
	wg.Wait()
	wait(t, x, total+1)
	// The last acknowledgement: nothing comes behind it that would tell the same.
	p.deliver.Store(1)
	appendAll(t, x, total, total+1)
	wait(t, x, total+2)
	if got := read(t, direct, id.Name(), total+2); !slices.Equal(got, count(total+1)) {
		t.Fatalf("%d numbers are stored, not 0 to %d in order", len(got), total)
	}
	if p.lost.Load() < 10 {
		t.Errorf("only %d messages were lost on the way", p.lost.Load())
	}
}
