package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/bus"
	"github.com/farshore/farshore/pkg/telemetry"
)

// The loopback addresses of the built-in servers: where the document says nothing about a site.
const (
	primaryAddress = "127.0.0.1:4222"
	leafAddress    = "127.0.0.1:7422"
	drAddress      = "127.0.0.1:4223"
)

// maxPayload is what both sites' servers must accept; unequal limits stall the mirrors.
const maxPayload = 2 << 20

// shutdownLimit bounds the end of telemetry.
const shutdownLimit = 5 * time.Second

// Env is what a daemon works with. Its methods may be called concurrently.
type Env struct {
	Group     *group.Group // the document at the start, see Follow
	Log       *slog.Logger // carries program, instance and group
	Telemetry *telemetry.Telemetry
	Instance  string // unique among the processes of this program

	spec  Spec
	flags flags

	document []byte // as Group was read from
	hangup   <-chan os.Signal

	mu     sync.Mutex
	server *bus.Server
	sites  map[connection]*journal.Site
}

// connection is one of a process's connections.
type connection struct {
	site    Site
	control bool // see PrimaryControl
}

// run is a daemon from its flags to its end.
func run(ctx context.Context, s Spec, f flags, stderr io.Writer) (err error) {
	log, err := NewLogger(stderr, f.logLevel, f.logFormat)
	if err != nil {
		return err
	}
	document, g, err := loadDocument(f.group)
	if err != nil {
		return err
	}
	instance := hostname()
	if s.Instance != nil {
		instance = s.Instance()
	}
	log = log.With("program", s.Use, "instance", instance, "group", g.Metadata.Name)
	t, err := telemetry.Start(ctx, telemetry.Options{
		Service: s.Use, Instance: instance, Version: Version(), Listen: f.metrics, Log: log,
	})
	if err != nil {
		return err
	}
	env := &Env{
		Group: g, Log: log, Telemetry: t, Instance: instance, spec: s, flags: f, sites: make(map[connection]*journal.Site),
		document: document, hangup: hangups(ctx),
	}
	defer func() {
		env.close()
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownLimit)
		defer cancel()
		if shutdownErr := t.Shutdown(limited); shutdownErr != nil {
			log.Warn("telemetry did not end in order", "error", shutdownErr)
		}
	}()
	log.Info("starting", "version", Version(), "metrics", t.Addr())
	err = s.Run(ctx, env)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) && ExitCode(err) == ExitFailure {
		err = nil // being asked to end is no failure, however deep the request was noticed
	}
	if err == nil {
		log.Info("stopped")
	}
	return err
}

// LoadGroup reads the document at path. Every error is one of configuration.
func LoadGroup(path string) (*group.Group, error) {
	_, g, err := loadDocument(path)
	return g, err
}

func loadDocument(path string) ([]byte, *group.Group, error) {
	if path == "" {
		return nil, nil, Usagef("name the ProtectionGroup document with --group FILE or %s", variable("group"))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, &UsageError{fmt.Errorf("read group document: %w", err)}
	}
	g, err := group.LoadFrom(path, data)
	if err != nil {
		return nil, nil, &UsageError{err}
	}
	return data, g, nil
}

// Primary returns the process's connection to the primary site. It connects at the first call,
// waiting for the server as long as ctx lives, and runs the embedded server before where the
// daemon hosts it. Don't close the site: Env does.
func (e *Env) Primary(ctx context.Context) (*journal.Site, error) {
	return e.site(ctx, connection{site: Primary})
}

// PrimaryControl is Primary for a connection of its own, whose messages don't wait behind what is sent to the
// journal: votes, and what the other site asks.
func (e *Env) PrimaryControl(ctx context.Context) (*journal.Site, error) {
	return e.site(ctx, connection{site: Primary, control: true})
}

// DR is Primary for the DR site.
func (e *Env) DR(ctx context.Context) (*journal.Site, error) {
	return e.site(ctx, connection{site: DR})
}

func (e *Env) site(ctx context.Context, c connection) (*journal.Site, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	which := c.site
	if s := e.sites[c]; s != nil {
		return s, nil
	}
	url := ""
	if e.spec.Hosts == which {
		var err error
		if url, err = e.host(which); err != nil {
			return nil, err
		}
	}
	o := SiteOptions(e.Group, which)
	if url != "" {
		o.URL = url
	}
	o.Name, o.Log = "farshore-"+e.spec.Use+"-"+e.Instance, e.Log
	if c.control {
		o.Name += "-control"
	}
	s, err := journal.Connect(ctx, o)
	if err != nil {
		return nil, err
	}
	e.sites[c] = s
	return s, nil
}

// SiteOptions tells how to connect to a site of the group: by the document, or where that gives
// no URL, at the loopback address of the site's built-in server.
func SiteOptions(g *group.Group, which Site) journal.Options {
	site, peer, address := g.Spec.Sites.Primary, g.Spec.Sites.DR, primaryAddress
	if which == DR {
		site, peer, address = peer, site, drAddress
	}
	if site.URL == "" {
		site.URL = "nats://" + address
	}
	c := site.Credentials
	return journal.Options{
		URL: site.URL, Domain: site.Domain, PeerDomain: peer.Domain,
		NKeySeedFile: c.NKeySeed, CAFile: c.CA, CertFile: c.Cert, KeyFile: c.Key,
	}
}

// host starts the site's embedded server where the document wants one, unless it runs, and returns its URL.
func (e *Env) host(which Site) (string, error) {
	site := e.Group.Spec.Sites.Primary
	if which == DR {
		site = e.Group.Spec.Sites.DR
	}
	if site.URL != "" {
		return "", nil
	}
	if e.server != nil {
		return e.server.ClientURL(), nil
	}
	o := bus.Options{ConfigFile: site.Embedded}
	if site.Embedded == "" {
		var err error
		if o, err = e.builtIn(which, site.Domain); err != nil {
			return "", err
		}
	}
	server, err := bus.Start(o)
	if err != nil {
		return "", fmt.Errorf("start embedded server of domain %s: %w", site.Domain, err)
	}
	e.server = server
	e.Log.Info("embedded server started", "domain", site.Domain, "url", server.ClientURL(), "leaf", server.LeafURL())
	return server.ClientURL(), nil
}

func (e *Env) builtIn(which Site, domain string) (bus.Options, error) {
	store := e.flags.busStore
	if store == "" {
		state, err := StateDirectory()
		if err != nil {
			return bus.Options{}, Usagef("name a directory with --bus-store: %w", err)
		}
		store = filepath.Join(state, "bus", domain)
	}
	host, port, err := splitAddress("bus-listen", e.flags.busListen)
	if err != nil {
		return bus.Options{}, err
	}
	leafHost, leafPort, err := splitAddress("bus-leaf", e.flags.busLeaf)
	if err != nil {
		return bus.Options{}, err
	}
	o := bus.Options{StoreDir: store, Domain: domain, Host: host, Port: port, MaxPayload: maxPayload}
	if which == Primary {
		o.LeafPort = leafPort
	} else {
		o.LeafRemotes = []string{"nats-leaf://" + net.JoinHostPort(leafHost, strconv.Itoa(leafPort))}
	}
	return o, nil
}

func splitAddress(flag, address string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(address)
	if err == nil {
		port, err = strconv.Atoi(p)
	}
	if err != nil || host == "" {
		return "", 0, Usagef("--%s: %q is not HOST:PORT", flag, address)
	}
	if port == 0 {
		port = -1 // any free one: 0 would be the server's default
	}
	return host, port, nil
}

// StateDirectory is where a process keeps what must survive it and no setting places elsewhere.
func StateDirectory() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/farshore", nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "farshore"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, ".local", "state", "farshore"), nil
}

// close ends what Env opened: connections first, then the server that they may lead to.
func (e *Env) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.sites {
		s.Close()
	}
	if e.server != nil {
		e.server.Shutdown()
		e.server.Wait()
	}
}
