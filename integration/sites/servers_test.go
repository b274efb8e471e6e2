package sites

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/bus"
)

// pair is both sites' servers, started on exactly the files in deploy/nats.
type pair struct {
	dir       string
	ca        *authority
	client    identity                     // certificate of the processes
	users     map[string]user              // by role
	variables map[string]map[string]string // by site
	servers   map[string]*bus.Server       // by site
}

// startPair makes certificates and keys and starts both servers.
func startPair(t *testing.T) *pair {
	t.Helper()
	p := preparePair(t)
	p.start(t, "primary")
	p.start(t, "dr")
	return p
}

func preparePair(t *testing.T) *pair {
	t.Helper()
	// Not t.TempDir: its names are too long for unix sockets.
	dir, err := os.MkdirTemp("", "farshore-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // a leftover in the temporary folder is no reason to fail
	p := &pair{
		dir: dir, ca: newAuthority(t, dir, "ca"),
		users: make(map[string]user), variables: make(map[string]map[string]string), servers: make(map[string]*bus.Server),
	}
	p.client = p.ca.issue("client")
	for _, role := range []string{"capturer", "snapshotter", "operator", "leaf", "applier"} {
		p.users[role] = newUser(t, dir, role)
	}
	leaf := freeAddress(t)
	for _, site := range []string{"primary", "dr"} {
		id := p.ca.issue("nats-" + site)
		p.variables[site] = map[string]string{
			"FARSHORE_NATS_NAME": site, "FARSHORE_NATS_LISTEN": freeAddress(t), "FARSHORE_NATS_STORE": filepath.Join(dir, "store-"+site),
			"FARSHORE_NATS_CERT": id.cert, "FARSHORE_NATS_KEY": id.key, "FARSHORE_NATS_CA": p.ca.file,
			"FARSHORE_NATS_LEAF_LISTEN": leaf,
			"FARSHORE_NATS_LEAF_URL":    "tls://" + leaf,
			"FARSHORE_NATS_LEAF_SEED":   p.users["leaf"].seed,
		}
		for role, u := range p.users {
			p.variables[site]["FARSHORE_NKEY_"+strings.ToUpper(role)] = u.public
		}
	}
	return p
}

// start starts a site's server. The variables that the files refer to are taken from the
// environment at that moment, so each site gets its own.
func (p *pair) start(t *testing.T, site string) {
	t.Helper()
	for variable, value := range p.variables[site] {
		t.Setenv(variable, value)
	}
	p.servers[site] = startServer(t, site+".conf")
}

// restart ends a site's server and starts it again on its store.
func (p *pair) restart(t *testing.T, site string) {
	t.Helper()
	p.servers[site].Shutdown()
	p.servers[site].Wait()
	p.start(t, site)
}

func startServer(t *testing.T, file string) *bus.Server {
	t.Helper()
	s, err := bus.Start(bus.Options{ConfigFile: filepath.Join("..", "..", "deploy", "nats", file)})
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	t.Cleanup(func() {
		s.Shutdown()
		s.Wait()
	})
	return s
}

// options are what a process with the role's key connects with.
func (p *pair) options(site, role string) journal.Options {
	o := journal.Options{
		URL: p.url(site), Name: role, Domain: "primary", PeerDomain: "dr",
		CAFile: p.ca.file, CertFile: p.client.cert, KeyFile: p.client.key, NKeySeedFile: p.users[role].file,
	}
	if site == "dr" {
		o.Domain, o.PeerDomain = o.PeerDomain, o.Domain
	}
	return o
}

func (p *pair) url(site string) string { return "tls://" + p.variables[site]["FARSHORE_NATS_LISTEN"] }

func (p *pair) connect(t *testing.T, site, role string) *journal.Site {
	t.Helper()
	o := p.options(site, role)
	o.Log = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := journal.Connect(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// testWriter shows what a connection logs, such as refused permissions, where a test fails.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// freeAddress returns a loopback address that was free a moment ago: both sites must know the
// leafnode's before either is started.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// eventually waits until check succeeds.
func eventually(t *testing.T, limit time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %s: %v", limit, what, err)
		}
	}
}
