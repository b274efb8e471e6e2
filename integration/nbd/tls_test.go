package nbd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// authority writes a certificate authority with one certificate of it, for server and client, in the
// layout that libnbd wants.
func authority(t *testing.T) (dir string, config *tls.Config) {
	t.Helper()
	dir = t.TempDir()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	check(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	check(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	check(t, err)
	for name, block := range map[string]*pem.Block{
		"ca-cert.pem":     {Type: "CERTIFICATE", Bytes: caDER},
		"client-cert.pem": {Type: "CERTIFICATE", Bytes: der},
		"client-key.pem":  {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		check(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600))
	}
	pool := x509.NewCertPool()
	parsed, err := x509.ParseCertificate(caDER)
	check(t, err)
	pool.AddCert(parsed)
	return dir, &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		ClientCAs:    pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Over TCP a client needs TLS and a certificate that the server knows.
func TestLibnbdTLS(t *testing.T) {
	require(t, "nbdinfo", "nbdcopy")
	bothKinds(t, func(t *testing.T, v *volume) {
		dir, config := authority(t)
		address := v.serveTLS(t, config)
		if out, err := try(t, "nbdinfo", "nbd://"+address+"/disk"); err == nil {
			t.Errorf("without TLS: %s", out)
		}
		other, _ := authority(t)
		if out, err := try(t, "nbdinfo", "nbds://"+address+"/disk?tls-certificates="+other); err == nil {
			t.Errorf("with a stranger's certificate: %s", out)
		}
		uri := "nbds://" + address + "/disk?tls-certificates=" + dir
		tool(t, "nbdinfo", uri)
		source, content := image(t)
		tool(t, "nbdcopy", "--flush", "-C", "4", source, uri)
		equal(t, "device", v.content(t), content)
		copied := filepath.Join(t.TempDir(), "copy")
		tool(t, "nbdcopy", "-C", "4", uri, copied)
		got, err := os.ReadFile(copied)
		check(t, err)
		equal(t, "copy", got, content)
	})
}
