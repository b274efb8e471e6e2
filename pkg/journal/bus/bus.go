// Package bus runs a NATS server with JetStream inside the process: for a site that has none, for
// `farshore bus`, and for tests. A Server that was shut down, or whose process was killed, goes on
// where it was when started again on the same store.
package bus

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Defaults of Options.
const (
	DefaultMaxPayload   = 2 << 20     // bytes; must be the same at both sites
	DefaultSyncInterval = time.Second // between fsyncs of the store: what a power cut may take
	readyLimit          = 20 * time.Second
)

// Options shape a Server: either ConfigFile alone, or the others.
type Options struct {
	ConfigFile string // configuration of a NATS server

	StoreDir     string // JetStream's files
	Domain       string // JetStream domain
	Host         string // address to listen on; "" is 127.0.0.1
	Port         int    // of clients; -1: any free one
	LeafPort     int    // of leafnodes; 0: none are accepted, -1: any free one
	LeafRemotes  []string
	MaxPayload   int32         // bytes; 0: DefaultMaxPayload
	SyncInterval time.Duration // 0: DefaultSyncInterval
	LogFile      string        // "": silent
}

// Server is a running NATS server.
type Server struct {
	server  *server.Server
	options *server.Options
}

// Start runs a server and returns once it accepts connections and JetStream is up.
func Start(o Options) (*Server, error) {
	opts, err := o.serverOptions()
	if err != nil {
		return nil, err
	}
	opts.NoSigs = true // signals are the process's business
	if err := free(opts.Host, opts.Port, opts.LeafNode.Port); err != nil {
		return nil, fmt.Errorf("start NATS server: %w (is another server running?)", err)
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("configure NATS server: %w", err)
	}
	if opts.LogFile != "" {
		s.ConfigureLogger()
	}
	go s.Start()
	if !s.ReadyForConnections(readyLimit) {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, fmt.Errorf("NATS server is not ready after %v: is its address in use, or its store damaged?", readyLimit)
	}
	if opts.JetStream && !s.JetStreamEnabled() {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, errors.New("NATS server has JetStream off: is the store directory writable?")
	}
	return &Server{server: s, options: opts}, nil
}

// free tells whether the addresses can be listened on. The server itself would end the process, or
// keep silent until its time is up.
func free(host string, ports ...int) error {
	for _, port := range ports {
		if port <= 0 {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return err
		}
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (o Options) serverOptions() (*server.Options, error) {
	if o.ConfigFile != "" {
		opts, err := server.ProcessConfigFile(o.ConfigFile)
		if err != nil {
			return nil, fmt.Errorf("read NATS configuration: %w", err)
		}
		return opts, nil
	}
	if o.StoreDir == "" {
		return nil, errors.New("start NATS server: a store directory is needed")
	}
	store, err := filepath.Abs(o.StoreDir)
	if err != nil {
		return nil, err
	}
	if o.Host == "" {
		o.Host = "127.0.0.1"
	}
	if o.MaxPayload == 0 {
		o.MaxPayload = DefaultMaxPayload
	}
	if o.SyncInterval == 0 {
		o.SyncInterval = DefaultSyncInterval
	}
	opts := &server.Options{
		ServerName: "farshore-" + o.Domain,
		Host:       o.Host, Port: o.Port,
		JetStream: true, JetStreamDomain: o.Domain, StoreDir: store,
		SyncInterval: o.SyncInterval,
		MaxPayload:   o.MaxPayload,
		PingInterval: 5 * time.Second, MaxPingsOut: 2,
		LogFile: o.LogFile,
	}
	if o.LeafPort != 0 {
		opts.LeafNode.Host, opts.LeafNode.Port, opts.LeafNode.NoAdvertise = o.Host, o.LeafPort, true
		opts.LeafNode.Compression.Mode = server.CompressionOff
	}
	for _, r := range o.LeafRemotes {
		u, err := url.Parse(r)
		if err != nil {
			return nil, fmt.Errorf("leaf remote %q: %w", r, err)
		}
		opts.LeafNode.Remotes = append(opts.LeafNode.Remotes, &server.RemoteLeafOpts{
			URLs: []*url.URL{u}, IgnoreDiscoveredServers: true,
			Compression: server.CompressionOpts{Mode: server.CompressionOff},
		})
		opts.LeafNode.ReconnectInterval = time.Second
	}
	return opts, nil
}

// ClientURL returns the URL that clients connect to.
func (s *Server) ClientURL() string { return s.server.ClientURL() }

// LeafURL returns the URL that leafnodes connect to; "" where none are accepted.
func (s *Server) LeafURL() string {
	if s.options.LeafNode.Port == 0 {
		return ""
	}
	return "nats-leaf://" + s.options.LeafNode.Host + ":" + strconv.Itoa(s.options.LeafNode.Port)
}

// Shutdown ends the server in order; it returns when it has begun. See Wait.
func (s *Server) Shutdown() { s.server.Shutdown() }

// Wait waits until the server has ended.
func (s *Server) Wait() { s.server.WaitForShutdown() }
