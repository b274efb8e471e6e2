package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/group"
)

// listen binds the volume's address. A socket file that an earlier process left is removed: the
// lock on the device proves that nobody serves it any more. The directory's permissions and the umask
// tell who may connect.
func (t *tap) listen(ctx context.Context) (net.Listener, error) {
	network, address, _ := strings.Cut(t.volume.Listen, ":")
	if network == "unix" {
		if info, err := os.Lstat(address); err == nil && info.Mode()&fs.ModeSocket != 0 {
			if err := os.Remove(address); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("volume %s: remove old socket: %w", t.volume.Name, err)
			}
		}
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("volume %s: listen: %w", t.volume.Name, err)
	}
	return l, nil
}

// serverTLS is what an NBD server on TCP needs; nil where the volume has none. With a client CA only
// its clients are let in.
func serverTLS(t group.TLS) (*tls.Config, error) {
	if t.Cert == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, daemon.Usagef("load NBD server's certificate: %w", err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	if t.ClientCA != "" {
		pem, err := os.ReadFile(t.ClientCA)
		if err != nil {
			return nil, daemon.Usagef("read NBD clients' CA: %w", err)
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, daemon.Usagef("read NBD clients' CA: no certificate in %s", t.ClientCA)
		}
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return config, nil
}
