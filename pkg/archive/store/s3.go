package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// S3Options say where an S3 store is.
type S3Options struct {
	Endpoint string // host, or host:port
	Bucket   string // has to exist
	Prefix   string // of all names, without the '/' behind it; "": none
	Region   string // "": as the server says
	Insecure bool   // plain HTTP
	CAFile   string // PEM bundle that is trusted beside the system's authorities; "": those alone
	// Credentials is a file as AWS's tools have it, of which the profile in AWS_PROFILE is used, or the one named default; "": AWS_ACCESS_KEY_ID and
	// AWS_SECRET_ACCESS_KEY, then the role of the machine or the pod. They are read again when they are refused, and when they run out.
	Credentials string
	// Stall is how long a request may go on without a byte of it passing; 0: a minute.
	Stall time.Duration
}

// S3 is a store in a bucket of an object store that speaks Amazon's S3 with signatures of version 4. Requests are not repeated: see Retry.
//
// It relies on what Amazon promises since 2020: who lists or reads after a put or a delete has ended sees it. A bucket may have versions; what is
// deleted or replaced then stays until a rule of the bucket's removes it.
type S3 struct {
	o      S3Options
	core   *minio.Core
	keys   *credentials.Credentials
	prefix string // of names, with '/' at its end, or empty
}

// NewS3 returns the store in a bucket. Nothing is asked of the server yet.
func NewS3(o S3Options) (*S3, error) {
	transport, err := transport(o)
	if err != nil {
		return nil, err
	}
	if o.Stall == 0 {
		o.Stall = time.Minute
	}
	s := &S3{o: o, keys: newKeys(o.Credentials)}
	if o.Prefix = strings.Trim(o.Prefix, "/"); o.Prefix != "" {
		s.prefix = o.Prefix + "/"
	}
	s.core, err = minio.NewCore(o.Endpoint, &minio.Options{
		Creds: s.keys, Secure: !o.Insecure, Transport: transport, Region: o.Region,
		MaxRetries: 2, // one is for the region, which a server may tell when it refuses a request
	})
	if err != nil {
		return nil, fmt.Errorf("use %s as an object store: %w", o.Endpoint, err)
	}
	return s, nil
}

func transport(o S3Options) (*http.Transport, error) {
	t, err := minio.DefaultTransport(!o.Insecure)
	if err != nil {
		return nil, err
	}
	t.MaxIdleConnsPerHost = 64
	if o.CAFile == "" || o.Insecure {
		return t, nil
	}
	pem, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read the authorities that %s is checked with: %w", o.Endpoint, err)
	}
	trusted, err := x509.SystemCertPool()
	if err != nil {
		trusted = x509.NewCertPool()
	}
	if !trusted.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read the authorities that %s is checked with: %s has no certificate in PEM", o.Endpoint, o.CAFile)
	}
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: trusted}
	return t, nil
}

// String implements Store.
func (s *S3) String() string {
	scheme := "https"
	if s.o.Insecure {
		scheme = "http"
	}
	return strings.TrimSuffix(scheme+"://"+s.o.Endpoint+"/"+s.o.Bucket+"/"+s.prefix, "/")
}

// Put implements Store. The request is signed for the hash of the data, so a server refuses what was altered on its way.
func (s *S3) Put(ctx context.Context, name string, data []byte) error {
	if err := s.check(ctx, name); err != nil {
		return err
	}
	ctx, watch := watchStall(ctx, s.o.Stall)
	defer watch.stop()
	hash := sha256.Sum256(data)
	_, err := s.core.PutObject(ctx, s.o.Bucket, s.prefix+name, &watchedReader{*bytes.NewReader(data), watch}, int64(len(data)), "", hex.EncodeToString(hash[:]),
		minio.PutObjectOptions{
			DisableContentSha256: true, // of pieces; the whole has one
			UserMetadata:         map[string]string{"x-amz-checksum-sha256": base64.StdEncoding.EncodeToString(hash[:])},
		})
	if err != nil {
		return s.failed(ctx, "store", name, err)
	}
	return nil
}

// Get implements Store.
func (s *S3) Get(ctx context.Context, name string, off, length int64) ([]byte, error) {
	if err := s.check(ctx, name); err != nil {
		return nil, err
	}
	if off < 0 {
		return nil, lasting{fmt.Errorf("read %s from %s: there are no bytes before the first one", name, s)}
	}
	ctx, watch := watchStall(ctx, s.o.Stall)
	defer watch.stop()
	data, err := s.get(ctx, watch, name, off, length)
	if err != nil {
		return nil, s.failed(ctx, "read", name, err)
	}
	return data, nil
}

// get asks for one byte more before off where off could be the object's end: S3 has no empty ranges, and says of one that begins at
// the end what it says of one that begins behind it.
func (s *S3) get(ctx context.Context, watch *stallWatch, name string, off, length int64) ([]byte, error) {
	first, last, extra := off, off+length-1, int64(0)
	if length <= 0 && off > 0 {
		first, extra = off-1, 1
	}
	var o minio.GetObjectOptions
	switch {
	case length > 0 || length == 0 && off > 0:
		o.Set("Range", fmt.Sprintf("bytes=%d-%d", first, last))
	case first > 0:
		o.Set("Range", fmt.Sprintf("bytes=%d-", first))
	case length == 0: // and from the start: is it there?
		o.Set("Range", "bytes=0-0")
	}
	body, _, header, err := s.core.GetObject(ctx, s.o.Bucket, s.prefix+name, o)
	if err != nil {
		if off == 0 && length == 0 && code(err) == codeRange {
			return []byte{}, nil // it is empty
		}
		return nil, err
	}
	defer body.Close() // nothing was written
	if off == 0 && length == 0 {
		return []byte{}, nil
	}
	there, err := responseLength(header, o.Header().Get("Range") != "", first)
	if err != nil {
		return nil, err
	}
	if there < extra || length >= 0 && there < length+extra {
		return nil, short(first+there, off, length)
	}
	if length >= 0 {
		there = length + extra
	}
	data := make([]byte, there)
	if _, err := io.ReadFull(&watchedBody{body, watch}, data); err != nil {
		return nil, fmt.Errorf("the answer ends early: %w", err) // what is missing may come when asked again
	}
	return data[extra:], nil
}

// List implements Store. Objects that can't have been put by it are not told.
func (s *S3) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if ctx.Err() != nil {
			yield(Info{}, context.Cause(ctx))
			return
		}
		ctx, watch := watchStall(ctx, s.o.Stall)
		defer watch.stop()
		last := ""
		for o := range s.core.ListObjectsIter(ctx, s.o.Bucket, minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true, FetchOwner: new(bool)}) {
			watch.pause()
			if o.Err != nil {
				yield(Info{}, s.failed(ctx, "list", prefix, o.Err))
				return
			}
			name := strings.TrimPrefix(o.Key, s.prefix)
			if ValidName(name) == nil {
				if name <= last {
					yield(Info{}, s.failed(ctx, "list", prefix, lasting{fmt.Errorf("the server tells %q behind %q, which is not the order of names: it can't be used", name, last)}))
					return
				}
				last = name
				if !yield(Info{Name: name, Size: o.Size, Modified: o.LastModified}, nil) {
					return
				}
			}
			watch.passed()
		}
		// A listing whose context is done ends as if that were all.
		if ctx.Err() != nil {
			yield(Info{}, s.failed(ctx, "list", prefix, ctx.Err()))
		}
	}
}

// Delete implements Store.
func (s *S3) Delete(ctx context.Context, name string) error {
	if err := s.check(ctx, name); err != nil {
		return err
	}
	ctx, watch := watchStall(ctx, s.o.Stall)
	defer watch.stop()
	if err := s.core.RemoveObject(ctx, s.o.Bucket, s.prefix+name, minio.RemoveObjectOptions{}); err != nil {
		if err = s.failed(ctx, "delete", name, err); !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return nil
}

func (s *S3) check(ctx context.Context, name string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return ValidName(name)
}
