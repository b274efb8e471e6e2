package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"golang.org/x/sync/semaphore"
)

// ErrTLSRequired means that a listener other than a unix socket was given to a server without TLS.
var ErrTLSRequired = errors.New("NBD over a network needs TLS: give the server a certificate and a key, or use a unix socket")

// Options are a Server's. The zero value is usable.
type Options struct {
	Log   *slog.Logger // nil: none
	Meter metric.Meter // nil: none
	// TLS is used, and required of clients, on every listener that isn't a unix socket.
	TLS *tls.Config
	// Incoming and Outgoing are what the data of writes and of reads in flight are counted
	// against, over all connections; nil: 16 MiB each.
	Incoming, Outgoing Payloads
	// Connections bounds connections; a further one is closed at once. 0: 1024. An active one
	// uses up to 256 KiB besides payloads.
	Connections int
	// HandshakeTimeout bounds the time until a client has chosen its export; 0: 30 s. There
	// is no time limit after that: a client that was suspended may go on.
	HandshakeTimeout time.Duration
	// Grace is how long requests that are being worked on get to finish at the end; 0: 10 s.
	Grace time.Duration
}

// Server serves exports.
type Server struct {
	o       Options
	mem     *memory
	metrics *metrics

	mu      sync.Mutex
	exports map[string]entry
}

type entry struct {
	name     string
	export   Export
	readOnly bool
}

// NewServer returns a server without exports.
func NewServer(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Incoming == nil {
		o.Incoming = fixed{semaphore.NewWeighted(16 << 20)}
	}
	if o.Outgoing == nil {
		o.Outgoing = fixed{semaphore.NewWeighted(16 << 20)}
	}
	if o.Connections <= 0 {
		o.Connections = 1024
	}
	if o.HandshakeTimeout <= 0 {
		o.HandshakeTimeout = 30 * time.Second
	}
	if o.Grace <= 0 {
		o.Grace = 10 * time.Second
	}
	return &Server{o: o, mem: newMemory(o.Incoming, o.Outgoing), metrics: newMetrics(o.Meter, o.Log), exports: map[string]entry{}}
}

// AddExport makes e available under a name of at most 4096 bytes. It replaces an export of the
// same name, for connections to come. A client that asks for the empty name gets the only export,
// if there is just one. Close nothing that e needs before Serve has returned.
func (s *Server) AddExport(name string, e Export, readOnly bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exports[name] = entry{name, e, readOnly}
}

func (s *Server) lookup(name string) (entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.exports[name]
	if !ok && name == "" && len(s.exports) == 1 {
		for _, e := range s.exports {
			return e, true
		}
	}
	return e, ok
}

func (s *Server) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.exports))
}

// service is one call of Serve.
type service struct {
	*Server
	plain bool // a unix socket
	watch *watch
	wg    sync.WaitGroup

	mu    sync.Mutex
	conns map[*conn]struct{}
}

// Serve accepts connections until ctx ends, closes the listener, lets the requests that are being
// worked on finish, answers the rest with ESHUTDOWN, closes the connections and returns nil. It
// refuses a listener that isn't a unix socket when the server has no TLS configuration. It may be
// called for several listeners.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	plain := l.Addr().Network() == "unix"
	if !plain && s.o.TLS == nil {
		l.Close()
		return ErrTLSRequired
	}
	v := &service{Server: s, plain: plain, conns: map[*conn]struct{}{}, watch: newWatch()}
	// Requests outlive ctx by the grace.
	ops, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		v.watch.run(ops)
	}()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	err := v.accept(ctx, ops, l)
	stop()
	l.Close()
	v.end(cancel)
	cancel()
	<-watched
	return err
}

// accept returns nil when ctx has ended.
func (v *service) accept(ctx, ops context.Context, l net.Listener) error {
	var pause time.Duration
	for {
		nc, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				nc.Close()
			}
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept NBD connection: %w", err)
			}
			// Out of descriptors, most likely: it passes.
			if pause == 0 {
				v.o.Log.Warn("accept NBD connection", "error", err)
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			continue
		}
		pause = 0
		c := v.admit(nc)
		if c == nil {
			nc.Close()
			continue
		}
		v.wg.Go(func() {
			c.serve(ops)
			v.dismiss(c)
		})
	}
}

// admit registers a connection, or returns nil when there are too many.
func (v *service) admit(nc net.Conn) *conn {
	if n := v.metrics.connections.Add(1); n > int64(v.o.Connections) {
		v.metrics.connections.Add(-1)
		v.o.Log.Debug("NBD connection refused", "limit", v.o.Connections)
		return nil
	}
	c := newConn(v, nc)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.conns[c] = struct{}{}
	return c
}

func (v *service) dismiss(c *conn) {
	v.metrics.connections.Add(-1)
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.conns, c)
}

// end closes every connection, gracefully as long as the grace lasts.
func (v *service) end(cancel context.CancelFunc) {
	v.mu.Lock()
	for c := range v.conns {
		c.shutDown()
	}
	v.mu.Unlock()
	late := time.AfterFunc(v.o.Grace, func() {
		cancel()
		v.mu.Lock()
		defer v.mu.Unlock()
		for c := range v.conns {
			c.nc.Close()
		}
	})
	defer late.Stop()
	v.wg.Wait()
}
