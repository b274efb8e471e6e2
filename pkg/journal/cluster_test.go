package journal_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/bus"
	"github.com/farshore/farshore/pkg/journal/journaltest"
)

// cluster is three servers of one site, each with a store that outlives a restart.
type cluster struct {
	t       *testing.T
	configs []string
	servers []*bus.Server
	clients []string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	ports := make([]int, 6)
	for i := range ports {
		ports[i] = journaltest.FreePort(t)
	}
	var routes []string
	for _, p := range ports[3:] {
		routes = append(routes, fmt.Sprintf(`"nats://127.0.0.1:%d"`, p))
	}
	c := &cluster{t: t, servers: make([]*bus.Server, 3)}
	dir := t.TempDir()
	for i := range 3 {
		path := filepath.Join(dir, fmt.Sprintf("n%d.conf", i))
		write(t, path, fmt.Sprintf(`server_name: n%d
listen: "127.0.0.1:%d"
max_payload: 2MB
jetstream { store_dir: %q, domain: primary, max_file: 10GB, max_mem: 1GB }
cluster { name: c, listen: "127.0.0.1:%d", routes: [%s] }
`, i, ports[i], filepath.Join(dir, fmt.Sprintf("store%d", i)), ports[3+i], strings.Join(routes, ",")))
		c.configs = append(c.configs, path)
		c.clients = append(c.clients, fmt.Sprintf("nats://127.0.0.1:%d", ports[i]))
	}
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() { c.start(i) })
	}
	wg.Wait()
	t.Cleanup(func() {
		for i := range c.servers {
			c.stop(i)
		}
	})
	return c
}

func (c *cluster) start(i int) {
	c.t.Helper()
	s, err := bus.Start(bus.Options{ConfigFile: c.configs[i]})
	if err != nil {
		c.t.Error(err)
		return
	}
	c.servers[i] = s
}

func (c *cluster) stop(i int) {
	if s := c.servers[i]; s != nil {
		s.Shutdown()
		s.Wait()
		c.servers[i] = nil
	}
}

// site returns a connection that prefers no server.
func (c *cluster) site() *journal.Site {
	return journaltest.Connect(c.t, strings.Join(c.clients, ","), "primary", "dr")
}

// replicated returns a site that has the stream on all three servers.
func (c *cluster) replicated() *journal.Site {
	s := c.site()
	eventually(c.t, "the stream is made", func() bool {
		return s.EnsureStream(c.t.Context(), id, journal.StreamOptions{UID: "uid", Replicas: 3}) == nil
	})
	return s
}

// leader returns the index of the server that leads the stream.
func (c *cluster) leader(s *journal.Site) int {
	leader := -1
	eventually(c.t, "the stream has a leader", func() bool {
		stream, err := s.JetStream().Stream(c.t.Context(), id.Name())
		if err != nil || stream.CachedInfo().Cluster == nil {
			return false
		}
		_, err = fmt.Sscanf(stream.CachedInfo().Cluster.Leader, "n%d", &leader)
		return err == nil
	})
	return leader
}

// stepDown makes another server lead the stream.
func (c *cluster) stepDown(s *journal.Site) {
	_, err := s.Conn().Request("$JS.API.STREAM.LEADER.STEPDOWN."+id.Name(), nil, 5*time.Second)
	if err != nil {
		c.t.Log("step down:", err)
	}
}

// current waits until every server has what the leader has.
func (c *cluster) current(s *journal.Site) {
	c.t.Helper()
	eventually(c.t, "every replica is current", func() bool {
		stream, err := s.JetStream().Stream(c.t.Context(), id.Name())
		if err != nil || stream.CachedInfo().Cluster == nil || len(stream.CachedInfo().Cluster.Replicas) != 2 {
			return false
		}
		for _, r := range stream.CachedInfo().Cluster.Replicas {
			if !r.Current || r.Offline || r.Lag > 0 {
				return false
			}
		}
		return true
	})
}

// Whoever leads the stream, and however it came to have the messages, the writer goes on behind the last one.
func TestNothingIsLostOverLeaderChanges(t *testing.T) {
	if testing.Short() {
		t.Skip("not run with -short: it waits for a dozen elections")
	}
	// Not beside others: a dozen elections of three servers need the time that a server is given to start.
	c := newCluster(t)
	s := c.replicated()
	x := start(t, s, "a")
	const total = 20000
	var wg sync.WaitGroup
	wg.Go(func() { appendAll(t, x, 0, total) })
	reached := func(n uint64) func() bool { return func() bool { return x.Stored() > n } }
	for n := range uint64(2) {
		eventually(t, "the writer goes on", reached(1000*(n+1)))
		c.stepDown(s)
	}
	eventually(t, "the writer goes on", reached(5000))
	down := c.leader(s)
	c.stop(down)
	wg.Wait()
	wait(t, x, total+1)
	// A server that shuts down compacts its log, so the third one can't catch up from the log.
	n := total
	for i := range 3 {
		if i != down {
			c.stop(i)
			c.start(i)
			appendAll(t, x, n, n+1)
			n++
			wait(t, x, uint64(n)+1)
		}
	}
	c.start(down)
	c.current(s)
	appendAll(t, x, n, n+100)
	n += 100
	wait(t, x, uint64(n)+1)
	// Every replica in turn must hold all of it.
	for range 20 {
		seen := c.leader(s)
		t.Log("leader", seen)
		if got := read(t, s, id.Name(), uint64(n)+1); !slices.Equal(got, count(n)) {
			t.Fatalf("led by n%d, the stream holds %d numbers, not 0 to %d in order", seen, len(got), n-1)
		}
		if seen == down {
			break
		}
		c.stepDown(s)
		eventually(t, "another server leads", func() bool { return c.leader(s) != seen })
	}
	if err := x.end(t); err != nil {
		t.Fatal(err)
	}
	// Nor does a takeover take an election for a loss.
	c.stepDown(s)
	y := start(t, s, "b", func(o *journal.WriterOptions) { o.Acked, o.Created = uint64(n)+1, x.Created() })
	if y.Previous() != uint64(n)+1 {
		t.Errorf("taken over behind %d, not %d", y.Previous(), n+1)
	}
}

func TestTakeoverOfAReplicatedStream(t *testing.T) {
	t.Parallel()
	s := newCluster(t).replicated()
	testTakeover(t, s)
	testLateMessages(t, s)
	// The tenure's subject is no change of an operator's.
	if err := s.EnsureStream(t.Context(), id, journal.StreamOptions{UID: "uid", Replicas: 3}); err != nil {
		t.Error(err)
	}
}
