// Package journal is a protection group on JetStream: the streams of a site, their durable
// mirrors at the other one, and for each stream a single writer and any number of readers.
//
// What a Writer appends is stored as a gap-free prefix in the order of the calls: each message names
// the sequence it must follow, so a message that was lost, repeated or sent by a writer that was
// replaced is refused by the server together with everything behind it. After any doubt the
// writer reads back how far the stream reaches and goes on behind it; it never guesses. What a
// Reader returns is contiguous, undamaged and from one writer at a time, or it is an error.
package journal

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Options tell how to reach a site.
type Options struct {
	URL        string // of the site's servers, separated by commas
	Name       string // of the connection, shown by the server
	Domain     string // JetStream domain of the site
	PeerDomain string // JetStream domain of the other site, reached through the leafnode

	NKeySeedFile, CAFile, CertFile, KeyFile string // paths; each may be empty

	Log *slog.Logger // nil: silent
}

// Site is a connection to one site's servers. It reconnects for ever; requests fail while it is
// disconnected. Its methods may be called concurrently.
type Site struct {
	options Options
	log     *slog.Logger
	nc      *nats.Conn
	js      jetstream.JetStream
	peer    jetstream.JetStream

	mu    sync.Mutex
	holes map[string]foundHoles // by incarnation, as last found
}

// How a lost connection is noticed and replaced. A silent loss is noticed within
// pingEvery * (pingsOut + 1).
const (
	pingEvery     = 5 * time.Second
	pingsOut      = 2
	reconnectWait = 200 * time.Millisecond
	apiTimeout    = 5 * time.Second
)

// Connect connects to a site and checks that it has JetStream in the domain asked for. While no
// server answers it tries again until ctx ends; what can't get better by waiting, such as refused
// credentials, is returned at once.
func Connect(ctx context.Context, o Options) (*Site, error) {
	s := &Site{options: o, log: o.Log, holes: make(map[string]foundHoles)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	opts, err := s.natsOptions()
	if err != nil {
		return nil, err
	}
	told := time.Time{}
	for {
		if s.nc, err = nats.Connect(o.URL, opts...); err == nil {
			break
		}
		if err := final(err); err != nil {
			return nil, fmt.Errorf("connect to %s: %w", o.URL, err)
		}
		if time.Since(told) > 10*time.Second {
			s.log.Warn("no NATS server answers, trying again", "url", o.URL, "error", err)
			told = time.Now()
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to %s: %w (last attempt: %w; is the server running?)", o.URL, ctx.Err(), err)
		case <-time.After(reconnectWait):
		}
	}
	if err := s.openJetStream(ctx); err != nil {
		s.nc.Close()
		return nil, err
	}
	return s, nil
}

func (s *Site) natsOptions() ([]nats.Option, error) {
	o := s.options
	opts := []nats.Option{
		nats.Name(o.Name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectWait/2, reconnectWait/2),
		// A publish while disconnected must fail, not be sent later behind the writer's back.
		nats.ReconnectBufSize(-1),
		nats.PingInterval(pingEvery),
		nats.MaxPingsOutstanding(pingsOut),
		nats.Timeout(5 * time.Second),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				s.log.Warn("connection to NATS lost", "url", o.URL, "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { s.log.Info("connection to NATS is back", "url", o.URL) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			s.log.Warn("NATS reports an error", "error", err)
		}),
	}
	if o.NKeySeedFile != "" {
		nkey, err := nats.NkeyOptionFromSeed(o.NKeySeedFile)
		if err != nil {
			return nil, fmt.Errorf("read NKEY seed %s: %w", o.NKeySeedFile, err)
		}
		opts = append(opts, nkey)
	}
	if o.CAFile != "" || o.CertFile != "" {
		config := &tls.Config{MinVersion: tls.VersionTLS12}
		if o.CAFile != "" {
			pem, err := os.ReadFile(o.CAFile)
			if err != nil {
				return nil, fmt.Errorf("read CA: %w", err)
			}
			config.RootCAs = x509.NewCertPool()
			if !config.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("read CA %s: no PEM certificate in it", o.CAFile)
			}
		}
		if o.CertFile != "" {
			cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("read client certificate: %w", err)
			}
			config.Certificates = []tls.Certificate{cert}
		}
		opts = append(opts, nats.Secure(config))
	}
	return opts, nil
}

// final returns err with a hint where waiting doesn't help, else nil.
func final(err error) error {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired):
		return fmt.Errorf("%w (check the NKEY seed, and that the server's configuration lists its public key)", err)
	case errors.Is(err, nats.ErrSecureConnRequired), errors.Is(err, nats.ErrSecureConnWanted):
		return fmt.Errorf("%w (server and document disagree about TLS: check url and credentials)", err)
	case errors.As(err, &unknown), errors.As(err, &host):
		return fmt.Errorf("%w (check the CA and the name in the server's certificate)", err)
	}
	return nil
}

func (s *Site) openJetStream(ctx context.Context) error {
	var err error
	if s.js, err = domain(s.nc, s.options.Domain); err != nil {
		return err
	}
	if s.peer, err = domain(s.nc, s.options.PeerDomain); err != nil {
		return err
	}
	for {
		attempt, cancel := context.WithTimeout(ctx, apiTimeout)
		_, err = s.js.AccountInfo(attempt)
		cancel()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
			return fmt.Errorf("open JetStream at %s: %w (is JetStream on, with domain %q, for this account?)", s.options.URL, err, s.options.Domain)
		}
		s.log.Warn("JetStream does not answer, trying again", "domain", s.options.Domain, "error", err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("open JetStream at %s: %w (last attempt: %w)", s.options.URL, ctx.Err(), err)
		case <-time.After(reconnectWait):
		}
	}
}

func domain(nc *nats.Conn, name string) (jetstream.JetStream, error) {
	var js jetstream.JetStream
	var err error
	if name == "" {
		js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(apiTimeout))
	} else {
		js, err = jetstream.NewWithDomain(nc, name, jetstream.WithDefaultTimeout(apiTimeout))
	}
	if err != nil {
		return nil, fmt.Errorf("open JetStream domain %q: %w", name, err)
	}
	return js, nil
}

// Close ends the connection.
func (s *Site) Close() { s.nc.Close() }

// Conn returns the connection.
func (s *Site) Conn() *nats.Conn { return s.nc }

// JetStream returns the site's own JetStream.
func (s *Site) JetStream() jetstream.JetStream { return s.js }

// Peer returns the other site's JetStream, through the leafnode.
func (s *Site) Peer() jetstream.JetStream { return s.peer }

// Second returns another connection to the same site, for what must not wait behind the first one's data.
func (s *Site) Second(ctx context.Context, name string) (*Site, error) {
	o := s.options
	o.Name = name
	return Connect(ctx, o)
}
