package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farshore/farshore/internal/s3rig"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
)

func openS3(t *testing.T, o store.S3Options) *store.S3 {
	t.Helper()
	s, err := store.NewS3(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// eachServer runs a test against every object store.
func eachServer(t *testing.T, test func(t *testing.T, server *s3rig.Server)) {
	if testing.Short() {
		t.Skip("object stores are not started with -short")
	}
	for _, name := range s3rig.Stores() {
		t.Run(name, func(t *testing.T) { test(t, s3rig.Start(t, name)) })
	}
}

func TestS3(t *testing.T) {
	eachServer(t, func(t *testing.T, server *s3rig.Server) {
		var buckets atomic.Int64
		storetest.Run(t, func(t *testing.T) store.Store {
			o := server.Bucket(fmt.Sprintf("bucket-%d", buckets.Add(1)))
			o.Prefix = "DR site/archive/"
			return openS3(t, o)
		})
	})
}

// each does everything that a store can do and gives every error to check. Nothing that check is not told of is wrong with a store.
func each(t *testing.T, s store.Store, check func(what string, err error)) {
	t.Helper()
	for what, do := range operations(t.Context(), s) {
		err := do()
		if err != nil && strings.Contains(err.Error(), s3rig.SecretKey) {
			t.Errorf("%s tells the secret: %v", what, err)
		}
		check(what, err)
	}
}

// wrong checks that everything fails with an error, which lasts and tells what to do.
func wrong(t *testing.T, s store.Store, want error, hint string) {
	t.Helper()
	each(t, s, func(what string, err error) {
		if want != nil && !errors.Is(err, want) || !store.Lasting(err) || err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%s: error %v, want %v with %q", what, err, want, hint)
		}
	})
}

func right(t *testing.T, s store.Store) {
	t.Helper()
	if err := s.Put(t.Context(), "a", []byte("a")); err != nil {
		t.Fatal(err)
	}
	each(t, s, func(what string, err error) {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	})
}

func TestS3Refuses(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	eachServer(t, func(t *testing.T, server *s3rig.Server) {
		good := server.Bucket("there")
		for _, region := range []string{"", "us-east-1"} {
			good.Region = region
			o := good
			o.Bucket = "missing"
			wrong(t, openS3(t, o), store.ErrNoBucket, "make the bucket missing")

			o = good
			o.Credentials = s3rig.WriteKeys(t, s3rig.AccessKey, "another secret")
			wrong(t, openS3(t, o), store.ErrDenied, "put valid keys into "+o.Credentials)
			o.Credentials = s3rig.WriteKeys(t, "nobody", s3rig.SecretKey)
			wrong(t, openS3(t, o), store.ErrDenied, "put valid keys into "+o.Credentials)
			o.Credentials += ".none"
			wrong(t, openS3(t, o), store.ErrDenied, o.Credentials)
			o.Credentials = ""
			wrong(t, openS3(t, o), store.ErrDenied, "AWS_ACCESS_KEY_ID")
			right(t, openS3(t, good))
		}
		o := good
		o.Insecure = false
		wrong(t, openS3(t, o), nil, "set insecure to true")
		o = good
		o.Region = "eu-north-1"
		if name := t.Name(); strings.HasSuffix(name, s3rig.VersityGW) { // MinIO takes any region where none is set for it
			wrong(t, openS3(t, o), nil, "region")
		}
	})
}

// Keys come from the environment, and from a file that is read again when it may have changed.
func TestS3Keys(t *testing.T) {
	eachServer(t, func(t *testing.T, server *s3rig.Server) {
		o := server.Bucket("there")
		o.Credentials = s3rig.WriteKeys(t, s3rig.AccessKey, "an old secret")
		s := openS3(t, o)
		wrong(t, s, store.ErrDenied, "put valid keys")
		copyFile(t, server.Keys, o.Credentials)
		right(t, s)

		t.Setenv("AWS_ACCESS_KEY_ID", s3rig.AccessKey)
		t.Setenv("AWS_SECRET_ACCESS_KEY", s3rig.SecretKey)
		o.Credentials = ""
		right(t, openS3(t, o))
	})
}

// A role's keys are used until they run out, and asked for again then.
func TestS3Role(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_EC2_METADATA_DISABLED",
		"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN"} {
		t.Setenv(name, "")
	}
	eachServer(t, func(t *testing.T, server *s3rig.Server) {
		o := server.Bucket("there")
		o.Credentials, o.Region = "", "us-east-1"
		for _, lives := range []time.Duration{time.Hour, -time.Hour} {
			var asked atomic.Int64
			role := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				_, _ = fmt.Fprintf(w, `{"AccessKeyId": %q, "SecretAccessKey": %q, "Expiration": %q}`, s3rig.AccessKey, s3rig.SecretKey, time.Now().Add(lives).UTC().Format(time.RFC3339))
			}))
			t.Cleanup(role.Close)
			t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", role.URL)
			right(t, openS3(t, o))
			if n := asked.Load(); (n == 1) != (lives > 0) || n == 0 {
				t.Errorf("keys that live for %v were asked for %d times in 5 requests", lives, n)
			}
		}
	})
}

// A machine whose clock is off is told so: in the bubble it is the year 2000, and requests are signed for it.
func TestS3ClockSkew(t *testing.T) {
	eachServer(t, func(t *testing.T, server *s3rig.Server) {
		o := server.Bucket("there")
		o.Region = "us-east-1"
		synctest.Test(t, func(t *testing.T) {
			wrong(t, openS3(t, o), store.ErrClockSkew, "set both by NTP")
			server.Kill() // connections end, and with them what would outlive the bubble
		})
	})
}

// proxy stands before a server and changes what passes. Requests are signed for the proxy's own address.
func proxy(t *testing.T, server *s3rig.Server, tls bool, request func(*http.Request), response func(*http.Response)) *httptest.Server {
	t.Helper()
	target := &url.URL{Scheme: "http", Host: server.Endpoint}
	p := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
			if request != nil {
				request(r.Out)
			}
		},
		ModifyResponse: func(r *http.Response) error {
			if response != nil {
				response(r)
			}
			return nil
		},
	}
	s := httptest.NewUnstartedServer(p)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that fail are what is tested
	if tls {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

func host(s *httptest.Server) string {
	_, host, _ := strings.Cut(s.URL, "://")
	return host
}

// What was altered on its way is refused, and what arrived in part is no object.
func TestS3AlteredOnTheWay(t *testing.T) {
	eachServer(t, func(t *testing.T, server *s3rig.Server) {
		o := server.Bucket("there")
		direct := openS3(t, o)
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		var bad atomic.Int64 // puts that are altered
		p := proxy(t, server, false, func(r *http.Request) {
			if r.Method == http.MethodPut && bad.Add(-1) >= 0 {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				body[len(body)/2] ^= 1
				r.Body = io.NopCloser(bytes.NewReader(body))
			}
		}, nil)
		o.Endpoint = host(p)
		bad.Store(1)
		err := openS3(t, o).Put(t.Context(), "packs/a", data)
		if err == nil || store.Lasting(err) {
			t.Errorf("a put that was altered: error %v, want one that passes", err)
		}
		if _, err := direct.Get(t.Context(), "packs/a", 0, -1); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("after a put that was altered: %v", err)
		}
		bad.Store(2)
		if err := store.NewRetry(openS3(t, o), store.RetryOptions{}).Put(t.Context(), "packs/a", data); err != nil {
			t.Error(err)
		}
		if got, err := direct.Get(t.Context(), "packs/a", 0, -1); err != nil || !bytes.Equal(got, data) {
			t.Errorf("put again there are %d bytes, %v", len(got), err)
		}
	})
}

// An answer that ends early is no short object: asking again helps.
func TestS3CutAnswers(t *testing.T) {
	eachServer(t, func(t *testing.T, server *s3rig.Server) {
		o := server.Bucket("there")
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		if err := openS3(t, o).Put(t.Context(), "packs/a", data); err != nil {
			t.Fatal(err)
		}
		var cut atomic.Int64
		p := proxy(t, server, false, nil, func(r *http.Response) {
			if strings.Contains(r.Request.URL.Path, "/packs/a") && cut.Add(-1) >= 0 {
				r.Body = io.NopCloser(io.LimitReader(r.Body, 1000))
			}
		})
		o.Endpoint = host(p)
		s := openS3(t, o)
		for _, length := range []int64{-1, 5000} {
			cut.Store(1)
			if _, err := s.Get(t.Context(), "packs/a", 10, length); err == nil || store.Lasting(err) {
				t.Errorf("an answer that ends early: error %v, want one that passes", err)
			}
			cut.Store(2)
			got, err := store.NewRetry(s, store.RetryOptions{}).Get(t.Context(), "packs/a", 10, length)
			want := data[10:]
			if length > 0 {
				want = want[:length]
			}
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("asked again: %d bytes, %v", len(got), err)
			}
		}
	})
}

func TestS3TLS(t *testing.T) {
	eachServer(t, func(t *testing.T, server *s3rig.Server) {
		o := server.Bucket("there")
		p := proxy(t, server, true, nil, nil)
		o.Endpoint = host(p)
		wrong(t, openS3(t, o), nil, "set insecure to false")
		o.Insecure = false
		wrong(t, openS3(t, o), nil, "as caFile")
		o.CAFile = writeCertificate(t, p.Certificate())
		right(t, openS3(t, o))
		o.CAFile = server.Keys
		if _, err := store.NewS3(o); err == nil || !strings.Contains(err.Error(), "no certificate in PEM") {
			t.Errorf("a bundle that is none: %v", err)
		}
	})
}

// A listing whose context is done midway is not taken for a whole one.
func TestS3ListCancelled(t *testing.T) {
	eachServer(t, func(t *testing.T, server *s3rig.Server) {
		s := openS3(t, server.Bucket("there"))
		for i := range 5 {
			if err := s.Put(t.Context(), fmt.Sprint(i), nil); err != nil {
				t.Fatal(err)
			}
		}
		why := errors.New("enough of it")
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		var last error
		for _, err := range s.List(ctx, "") {
			cancel(why)
			last = err
		}
		if !errors.Is(last, why) {
			t.Errorf("a listing that was cancelled midway ends with %v", last)
		}
	})
}
