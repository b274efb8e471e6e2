package store_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/internal/s3rig"
	"github.com/farshore/farshore/pkg/archive/store"
)

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func writeCertificate(t *testing.T, c *x509.Certificate) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A server that is there and doesn't answer is left after a while, and asked again: what it does then counts.
func TestS3Stalls(t *testing.T) {
	eachServer(t, func(t *testing.T, server *s3rig.Server) {
		o := server.Bucket("there")
		o.Stall = 300 * time.Millisecond
		s := openS3(t, o)
		data := make([]byte, 16<<20)
		if err := s.Put(t.Context(), "a", data); err != nil {
			t.Fatal(err)
		}
		server.Freeze()
		each(t, s, func(what string, err error) {
			if err == nil || store.Lasting(err) || !strings.Contains(err.Error(), "nothing of it passed in 300ms") {
				t.Errorf("%s of a server that is frozen: %v", what, err)
			}
		})
		if err := s.Put(t.Context(), "large", data); err == nil || store.Lasting(err) {
			t.Errorf("a large put to a server that is frozen: %v", err)
		}
		server.Thaw()
		r := store.NewRetry(s, store.RetryOptions{})
		if err := r.Put(t.Context(), "large", data); err != nil {
			t.Error(err)
		}
		if got, err := r.Get(t.Context(), "large", 0, -1); err != nil || len(got) != len(data) {
			t.Errorf("afterwards there are %d bytes, %v", len(got), err)
		}
	})
}

// While a server is gone and while it starts there is no error that lasts.
func TestS3Restarts(t *testing.T) {
	eachServer(t, func(t *testing.T, server *s3rig.Server) {
		s := openS3(t, server.Bucket("there"))
		right(t, s)
		server.Kill()
		each(t, s, func(what string, err error) {
			if err == nil || store.Lasting(err) {
				t.Errorf("%s of a server that is gone: %v", what, err)
			}
		})
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
				}
				for what, do := range operations(t.Context(), s) {
					if err := do(); err != nil && store.Lasting(err) {
						t.Errorf("%s of a server that starts: %v", what, err)
						return
					}
				}
			}
		}()
		server.Restart()
		close(stop)
		<-done
		right(t, s)
	})
}

// fake answers everything with one status and text.
func fake(t *testing.T, status int, header map[string]string, text string) *store.S3 {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for k, v := range header {
			w.Header().Set(k, v)
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text)) // who asked has gone
	}))
	t.Cleanup(s.Close)
	return openS3(t, store.S3Options{
		Endpoint: host(s), Bucket: "there", Region: "us-east-1", Insecure: true, Credentials: s3rig.WriteKeys(t, s3rig.AccessKey, s3rig.SecretKey),
	})
}

// What the real ones are not easily brought to say.
func TestS3Meanings(t *testing.T) {
	for _, tt := range []struct {
		status int
		code   string
		want   error
		lasts  bool
		hint   string
	}{
		{http.StatusForbidden, "AccessDenied", store.ErrDenied, true, "let the credentials list the bucket there"},
		{http.StatusUnauthorized, "Unauthorized", store.ErrDenied, true, "let the credentials"},
		{http.StatusForbidden, "InvalidAccessKeyId", store.ErrDenied, true, "put valid keys into"},
		{http.StatusForbidden, "RequestTimeTooSkewed", store.ErrClockSkew, true, "NTP"},
		{http.StatusNotFound, "NoSuchBucket", store.ErrNoBucket, true, "make the bucket there"},
		{http.StatusBadRequest, "ExpiredToken", store.ErrDenied, true, "put valid keys into"},
		{http.StatusMovedPermanently, "PermanentRedirect", nil, true, "set the region to eu-north-1"},
		{http.StatusBadRequest, "AuthorizationHeaderMalformed", nil, true, "set the region to eu-north-1"},
		{http.StatusInsufficientStorage, "XMinioStorageFull", nil, true, "make room"},
		{http.StatusNotImplemented, "NotImplemented", nil, true, ""},
		{http.StatusMethodNotAllowed, "MethodNotAllowed", nil, true, ""},
		{http.StatusServiceUnavailable, "SlowDown", nil, false, ""},
		{http.StatusServiceUnavailable, "XMinioServerNotInitialized", nil, false, ""},
		{http.StatusInternalServerError, "InternalError", nil, false, ""},
		{http.StatusBadGateway, "BadGateway", nil, false, ""},
		{http.StatusTooManyRequests, "TooManyRequests", nil, false, ""},
		{http.StatusRequestTimeout, "RequestTimeout", nil, false, ""},
		{http.StatusConflict, "OperationAborted", nil, false, ""},
		{http.StatusBadRequest, "BadDigest", nil, false, "altered on its way"},
	} {
		s := fake(t, tt.status, nil, fmt.Sprintf("<Error><Code>%s</Code><Message>so it is</Message><Region>eu-north-1</Region></Error>", tt.code))
		each(t, s, func(what string, err error) {
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || store.Lasting(err) != tt.lasts || !strings.Contains(err.Error(), tt.hint) {
				t.Errorf("%d %s: %s: %v; want %v, lasting %t, with %q", tt.status, tt.code, what, err, tt.want, tt.lasts, tt.hint)
			}
		})
	}
}

// Servers that don't do what S3 does are not trusted with anything.
func TestS3Imposters(t *testing.T) {
	whole := fake(t, http.StatusOK, map[string]string{"Last-Modified": "Sat, 28 Nov 2026 01:02:03 GMT"}, "all of it, whatever was asked for")
	if got, err := whole.Get(t.Context(), "a", 5, 3); err == nil || !store.Lasting(err) {
		t.Errorf("a server that knows no ranges: %q, %v", got, err)
	}
	item := "<Contents><Key>%s</Key><LastModified>2026-11-28T01:02:03.000Z</LastModified><Size>1</Size></Contents>"
	list := "<ListBucketResult><IsTruncated>false</IsTruncated>" + fmt.Sprintf(item+item+item, "a", "c", "b") + "</ListBucketResult>"
	var names []string
	var last error
	for info, err := range fake(t, http.StatusOK, nil, list).List(t.Context(), "") {
		names, last = append(names, info.Name), err
	}
	if len(names) != 3 || last == nil || !store.Lasting(last) || !strings.Contains(last.Error(), "order of names") {
		t.Errorf("a server that lists in no order: %v, %v", names, last)
	}
}
