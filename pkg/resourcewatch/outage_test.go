package resourcewatch_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/internal/kube"
	"github.com/farshore/farshore/internal/kube/kubetest"
	"github.com/farshore/farshore/pkg/resourcewatch"
)

// churn makes, changes and deletes n ConfigMaps until it is told to end, and returns the number of changes.
func (s *site) churn(ctx context.Context, n int) (changes int) {
	var mu sync.Mutex
	var workers sync.WaitGroup
	const parallel = 4
	for c := range parallel {
		workers.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(c), 1))
			done := 0
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("c%d", c+parallel*rnd.IntN(n/parallel))
				var err error
				if rnd.IntN(3) == 0 {
					err = s.client.CoreV1().ConfigMaps(s.namespace).Delete(context.Background(), name, deleteNow)
				} else {
					_, err = putMap(s.client, s.namespace, name, map[string]string{"i": fmt.Sprint(i)})
				}
				if err == nil {
					done++
				}
			}
			mu.Lock()
			changes += done
			mu.Unlock()
		})
	}
	workers.Wait()
	return changes
}

// A watcher that is killed again and again while 1,000 objects come, change and go, and whose stream is taken over by newer writers, converges:
// what a reader knows in the end is what the API server has, and nothing was sent twice for one revision but what a kill kept from
// being noted.
func TestKilledWatcherConverges(t *testing.T) {
	s := newSite(t, kubetest.Shared(t))
	for i := range 1000 {
		s.put(fmt.Sprintf("c%d", i), map[string]string{"i": "0"})
	}
	ctx, end := context.WithCancel(context.Background())
	var load sync.WaitGroup
	load.Go(func() { t.Logf("%d changes", s.churn(ctx, 1000)) })
	defer load.Wait()
	defer end()

	grown := func(by int) {
		n := len(s.stream.events())
		eventually(t, "the stream grows", func() bool { return len(s.stream.events()) >= n+by })
	}
	for range 3 {
		w := s.watch()
		grown(150) // also within the first sync
		w.kill()
		w = s.watch()
		s.ready(w)
		grown(100)
		w.kill()
	}
	w := s.ready(s.watch())
	for range 3 { // the process lives, and its stream gets a new writer
		grown(100)
		w.endOnly()
		if w.err != nil {
			t.Fatalf("record: %v", w.err)
		}
		w.record()
		s.ready(w)
	}
	end()
	load.Wait()
	s.converges(configMaps)
	if _, seq := labelled(t, w, 1); len(differences(of(replay(t, s.stream.events()[:seq]), configMaps), s.exists(configMaps))) != 0 {
		t.Error("the cut isn't what the API server has")
	}
	w.kill()
	before := len(s.stream.events())
	s.ready(s.watch()).kill()
	if sent := objects(s.stream.events()[before:]); len(sent) != 0 {
		t.Errorf("%d objects were sent although nothing changed", len(sent))
	}
}

// A new generation has a memory of its own, so everything is sent into it.
func TestNewGenerationGetsEverything(t *testing.T) {
	s := newSite(t, kubetest.Shared(t))
	for i := range 20 {
		s.put(fmt.Sprintf("c%d", i), nil)
	}
	w := s.ready(s.watch())
	s.converges(configMaps)
	old := s.stream
	old.fence()
	s.put("c7", map[string]string{"changed": "behind the fence"})
	eventually(t, "the tenure ends", func() bool { ok, _ := w.Ready(); return !ok })
	w.endOnly()
	if w.err == nil {
		t.Error("record returns nil although its stream was taken over")
	}
	s.stream = newStream()
	s.memory = newMemory(t, s.stream)
	w.record()
	s.ready(w)
	s.converges(append(kinds, configMaps)...)
}

// Changes that find no room while the stream takes nothing are dropped; once it does, what differs is sent.
func TestStreamThatTakesNothing(t *testing.T) {
	s := newSite(t, kubetest.Shared(t))
	s.tune = func(o *resourcewatch.Options) { o.QueueBytes = 32 << 10 }
	for i := range 20 {
		s.put(fmt.Sprintf("c%d", i), nil)
	}
	w := s.ready(s.watch())
	s.converges(configMaps)
	s.stream.pause(true)
	before := len(s.stream.events())
	const changes = 400
	for i := range changes {
		s.put(fmt.Sprintf("c%d", i%15), map[string]string{"i": fmt.Sprint(i), "fill": strings.Repeat("x", 500)})
	}
	for i := 15; i < 20; i++ {
		s.remove(fmt.Sprintf("c%d", i))
	}
	if _, since := w.Debt(); since.IsZero() {
		t.Error("nothing is said to wait")
	}
	must(t, w.Hold(token(1), time.Minute))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	if _, err := w.Mark(ctx, token(1)); err == nil {
		t.Error("a mark is appended although the stream takes nothing")
	}
	cancel()
	s.stream.pause(false)
	s.converges(configMaps)
	if n := len(objects(s.stream.events()[before:])); n >= changes {
		t.Errorf("%d events: nothing was dropped", n)
	}
	if _, seq := labelled(t, w, 2); len(differences(of(replay(t, s.stream.events()[:seq]), configMaps), s.exists(configMaps))) != 0 {
		t.Error("the cut isn't what the API server has")
	}
}

// An API server that is killed, restarts and has forgotten old revisions is followed again, deletions included.
func TestServerRestartsAndCompacts(t *testing.T) {
	dir := t.TempDir()
	c := kubetest.New(t, kube.Options{Dir: dir})[0]
	s := newSite(t, c)
	for i := range 50 {
		s.put(fmt.Sprintf("c%d", i), nil)
	}
	w := s.ready(s.watch())
	s.converges(configMaps)
	for round := range 2 {
		before := len(s.stream.events())
		c.Kill()
		must(t, w.Hold(token(uint64(2*round+1)), time.Minute))
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		if _, err := w.Revision(ctx, token(uint64(2*round+1))); err == nil {
			t.Error("a revision is read although there is no API server")
		}
		cancel()
		w.Release(token(uint64(2*round + 1)))
		must(t, c.Restart(t.Context()))
		s.put("c1", map[string]string{"round": fmt.Sprint(round)})
		s.remove(fmt.Sprintf("c%d", 10+round))
		compact(t, dir, s.put("last", map[string]string{"round": fmt.Sprint(round)}).ResourceVersion)
		s.converges(configMaps)
		sent := objects(s.stream.events()[before:])
		if len(sent) != 3 {
			for _, o := range sent {
				t.Logf("%v %v %s", o.Verb, o.Key, o.Revision)
			}
			t.Errorf("round %d: %d events of objects, want 3", round, len(sent))
		}
		eventually(t, "the server is whole again", func() bool { return w.Status().Synced && len(w.Status().Failing) == 0 }, func() any { return w.Status() })
		if _, seq := labelled(t, w, uint64(2*round+2)); len(differences(of(replay(t, s.stream.events()[:seq]), configMaps), s.exists(configMaps))) != 0 {
			t.Errorf("round %d: the cut isn't what the API server has", round)
		}
	}
	for k := range replay(t, s.stream.events()) {
		if k.Resource == "namespaces" && k.Name == s.namespace {
			return
		}
	}
	t.Error("the namespace got lost over the restarts")
}

// compact makes a cluster's storage forget every revision before the one given.
func compact(t testing.TB, dir, revision string) {
	t.Helper()
	url, files := storage(t, dir)
	cert, err := tls.LoadX509KeyPair(files["certfile"], files["keyfile"])
	must(t, err)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, // it is the test's own, on loopback
	}}}
	defer client.CloseIdleConnections()
	answer, err := client.Post(url+"/v3/kv/compaction", "application/json", bytes.NewReader(fmt.Appendf(nil, `{"revision":%q,"physical":true}`, revision)))
	must(t, err)
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(answer.Body)
		t.Fatalf("compact: %s: %s", answer.Status, body)
	}
}

var etcdFlag = regexp.MustCompile(`^--etcd-(servers|certfile|keyfile)=(.*)$`)

// storage finds the address of a cluster's etcd, and what is needed to be let in, in the arguments of its API server.
func storage(t testing.TB, dir string) (url string, files map[string]string) {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, p := range processes {
		line, err := os.ReadFile(p)
		if err != nil || !bytes.Contains(line, []byte(dir)) || !bytes.Contains(line, []byte("--etcd-servers=")) {
			continue
		}
		files = make(map[string]string)
		for _, arg := range strings.Split(string(line), "\x00") {
			if m := etcdFlag.FindStringSubmatch(arg); m != nil {
				files[m[1]] = m[2]
			}
		}
		return files["servers"], files
	}
	t.Fatal("no API server runs in " + dir)
	return "", nil
}
