// Package journaltest runs the real servers of two sites inside a test: two JetStream domains joined
// by a leafnode whose link can be cut, with stores that outlive a restart.
package journaltest

import (
	"context"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/internal/link"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/bus"
)

// Pair is a primary and a DR site, each with a connection to its own server.
type Pair struct {
	Primary, DR *journal.Site

	t          testing.TB
	dir        string
	link       *link.Link
	primary    *bus.Server
	dr         *bus.Server
	primaryOpt bus.Options
	drOpt      bus.Options
}

// Sites starts both sites; they end with the test. It returns when the DR site reaches the primary's JetStream.
func Sites(t testing.TB) *Pair {
	t.Helper()
	p := &Pair{t: t, dir: t.TempDir()}
	p.primaryOpt = bus.Options{StoreDir: filepath.Join(p.dir, "primary"), Domain: "primary", Port: FreePort(t), LeafPort: FreePort(t)}
	p.link = link.New(t, "127.0.0.1:"+strconv.Itoa(p.primaryOpt.LeafPort))
	p.drOpt = bus.Options{StoreDir: filepath.Join(p.dir, "dr"), Domain: "dr", Port: FreePort(t), LeafRemotes: []string{"nats-leaf://" + p.link.Address()}}
	p.StartPrimary()
	p.StartDR()
	t.Cleanup(func() { p.StopDR(); p.StopPrimary() })
	p.Primary = Connect(t, p.primary.ClientURL(), "primary", "dr")
	p.DR = Connect(t, p.dr.ClientURL(), "dr", "primary")
	p.WaitLinked()
	return p
}

// One starts one site, a primary without a peer.
func One(t testing.TB) *journal.Site {
	t.Helper()
	s, err := bus.Start(bus.Options{StoreDir: t.TempDir(), Domain: "primary", Port: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(); s.Wait() })
	return Connect(t, s.ClientURL(), "primary", "dr")
}

// Connect connects to a server until the test's end.
func Connect(t testing.TB, url, domain, peer string) *journal.Site {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, err := journal.Connect(ctx, journal.Options{URL: url, Name: t.Name(), Domain: domain, PeerDomain: peer})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// PrimaryURL returns the URL of the primary's server; it stays over restarts.
func (p *Pair) PrimaryURL() string { return "nats://127.0.0.1:" + strconv.Itoa(p.primaryOpt.Port) }

// DRURL returns the URL of the DR site's server; it stays over restarts.
func (p *Pair) DRURL() string { return "nats://127.0.0.1:" + strconv.Itoa(p.drOpt.Port) }

// StartPrimary starts the primary's server on its store.
func (p *Pair) StartPrimary() { p.t.Helper(); p.primary = start(p.t, p.primaryOpt) }

// StopPrimary shuts the primary's server down.
func (p *Pair) StopPrimary() { stop(&p.primary) }

// StartDR starts the DR site's server on its store.
func (p *Pair) StartDR() { p.t.Helper(); p.dr = start(p.t, p.drOpt) }

// StopDR shuts the DR site's server down.
func (p *Pair) StopDR() { stop(&p.dr) }

// A Copy is what a site's store held at one time.
type Copy string

// CopyPrimary copies the primary's store. A running server is copied as it is on its disk.
func (p *Pair) CopyPrimary() Copy { p.t.Helper(); return p.copy(p.primaryOpt.StoreDir) }

// CopyDR copies the DR site's store, as CopyPrimary does.
func (p *Pair) CopyDR() Copy { p.t.Helper(); return p.copy(p.drOpt.StoreDir) }

// RestorePrimary replaces the store of the primary, whose server must be stopped, as a power cut does that
// takes what was not on the disk.
func (p *Pair) RestorePrimary(c Copy) { p.t.Helper(); p.restore(c, p.primaryOpt.StoreDir) }

// RestoreDR replaces the store of the DR site, as RestorePrimary does.
func (p *Pair) RestoreDR(c Copy) { p.t.Helper(); p.restore(c, p.drOpt.StoreDir) }

func (p *Pair) copy(store string) Copy {
	p.t.Helper()
	to := p.t.TempDir()
	if err := os.CopyFS(filepath.Join(to, "store"), os.DirFS(store)); err != nil {
		p.t.Fatal(err)
	}
	return Copy(filepath.Join(to, "store"))
}

func (p *Pair) restore(c Copy, store string) {
	p.t.Helper()
	if err := os.RemoveAll(store); err != nil {
		p.t.Fatal(err)
	}
	if err := os.CopyFS(store, os.DirFS(string(c))); err != nil {
		p.t.Fatal(err)
	}
}

// Cut breaks the link between the sites; Heal mends it.
func (p *Pair) Cut() { p.link.Cut() }

// Heal mends the link between the sites.
func (p *Pair) Heal() { p.link.Heal() }

// WaitLinked waits until the DR site reaches the primary's JetStream.
func (p *Pair) WaitLinked() {
	p.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		_, err := p.DR.Peer().AccountInfo(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("the DR site does not reach the primary: %v", err)
		}
	}
}

func start(t testing.TB, o bus.Options) *bus.Server {
	t.Helper()
	s, err := bus.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func stop(s **bus.Server) {
	if *s != nil {
		(*s).Shutdown()
		(*s).Wait()
		*s = nil
	}
}

// given are the ports that this process's servers have.
var given sync.Map

// FreePort returns a port that nobody listens on, and that no other test of this process was given. It lies below those that
// the kernel gives to outgoing connections: one of them could take it while a server is down.
func FreePort(t testing.TB) int {
	t.Helper()
	const first, last = 12000, 32000
	for range 1000 {
		port := first + rand.IntN(last-first)
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		_ = l.Close() // nobody connected
		if _, taken := given.LoadOrStore(port, true); !taken {
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}
