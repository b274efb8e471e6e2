package nbd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"
)

// certificate returns one for 127.0.0.1, signed by itself, and a pool with it.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "farshore test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	leaf, err := x509.ParseCertificate(der)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

func TestTLS(t *testing.T) {
	cert, pool := certificate(t)
	stranger, _ := certificate(t)
	v := newVolume(16 << 20)
	s := NewServer(Options{TLS: &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}})
	s.AddExport("disk", v, false)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	run(t, s, l)
	address := l.Addr().String()

	if _, err := Dial(t.Context(), "tcp", address, "disk"); err == nil {
		t.Error("the export was opened without TLS")
	}
	for name, config := range map[string]*tls.Config{
		"no certificate":       {RootCAs: pool},
		"stranger":             {RootCAs: pool, Certificates: []tls.Certificate{stranger}},
		"server isn't trusted": {Certificates: []tls.Certificate{cert}},
	} {
		if _, err := DialTLS(t.Context(), "tcp", address, "disk", config); err == nil {
			t.Errorf("%s: the export was opened", name)
		}
	}
	c, err := DialTLS(t.Context(), "tcp", address, "disk", &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}})
	must(t, err)
	defer c.Close()
	noise := make([]byte, 8<<20)
	rand.Read(noise)
	for _, n := range []int{1, 4096, 40000, 1 << 20, len(noise)} {
		must(t, c.Write(t.Context(), noise[:n], 100))
		got := make([]byte, n)
		must(t, c.Read(t.Context(), got, 100))
		if !bytes.Equal(got, noise[:n]) {
			t.Fatalf("%d bytes differ", n)
		}
	}
	must(t, c.Disconnect())
}

// Before TLS is up, only STARTTLS and ABORT do anything; what was sent ahead of TLS is refused.
func TestTLSIsRequired(t *testing.T) {
	cert, _ := certificate(t)
	s := NewServer(Options{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})
	s.AddExport("disk", newVolume(4096), false)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	run(t, s, l)
	connect := func() *rawClient {
		nc, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		t.Cleanup(func() { nc.Close() })
		nc.SetDeadline(time.Now().Add(20 * time.Second))
		r := &rawClient{nc, t}
		r.take(18)
		r.put(uint32(flagFixedNewstyle))
		return r
	}
	r := connect()
	for _, o := range []option{optList, optInfo, optGo, optStructuredReply, optListMetaContext, optSetMetaContext, 77} {
		r.option(o, "disk", uint16(0))
		if _, reply, _ := r.optReply(); reply != repErrTLSReqd {
			t.Errorf("option %d without TLS: reply %#x", o, reply)
		}
	}
	r.option(optStartTLS, "junk")
	if _, reply, _ := r.optReply(); reply != repErrInvalid {
		t.Errorf("STARTTLS with data: reply %#x", reply)
	}
	r.option(optExportName, []byte("disk"))
	r.closed()

	r = connect()
	r.put(uint64(magicOption), optStartTLS, uint32(0), uint64(magicOption), optGo, uint32(0))
	r.closed()
}

func TestNetworkNeedsTLS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	if err := NewServer(Options{}).Serve(context.Background(), l); !errors.Is(err, ErrTLSRequired) {
		t.Fatalf("served a network without TLS: %v", err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("the listener is still open")
	}
}

func TestNoTLSOnUnixSocket(t *testing.T) {
	cert, _ := certificate(t)
	s := serve(t, newVolume(4096), Options{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})
	r := s.raw(t)
	r.put(uint32(flagFixedNewstyle))
	r.option(optStartTLS)
	if _, reply, _ := r.optReply(); reply != repErrPolicy {
		t.Errorf("STARTTLS: reply %#x", reply)
	}
	must(t, s.dial(t).Flush(t.Context()))
}
