// Package s3rig runs real object stores on loopback, for tests: MinIO and versitygw. They are killed, frozen and started again
// on the port and the data that they had, and don't outlive the test's process.
package s3rig

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/farshore/farshore/internal/child"
	"github.com/farshore/farshore/pkg/archive/store"
)

// Stores are the programs that Start runs.
func Stores() []string { return []string{MinIO, VersityGW} }

// readyLimit bounds how long a store takes to start; a second is usual.
const readyLimit = 2 * time.Minute

// The keys of every store's only user.
const (
	AccessKey = "farshore"
	SecretKey = "a secret of nobody"
)

// Server is an object store. Calls are not concurrent.
type Server struct {
	Endpoint string // host:port
	Keys     string // path of a file with the keys, as AWS's tools have it

	t       testing.TB
	program *child.Program
	client  *minio.Client
}

// Start starts an object store on an empty directory and waits until it answers. It ends with the test.
func Start(t testing.TB, name string) *Server {
	t.Helper()
	path, err := Tool(t.Context(), name)
	if err != nil {
		t.Fatalf("%s is not built, and can't be: %v", name, err)
	}
	port, err := child.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &Server{Endpoint: "127.0.0.1:" + port, Keys: WriteKeys(t, AccessKey, SecretKey), t: t}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	s.program = &child.Program{Path: path, Log: filepath.Join(dir, "log")}
	switch name {
	case MinIO:
		s.program.Args = []string{"server", "--quiet", "--address", s.Endpoint, data}
		// Otherwise it refuses a directory on the disk of the root file system.
		s.program.Env = []string{"MINIO_ROOT_USER=" + AccessKey, "MINIO_ROOT_PASSWORD=" + SecretKey, "MINIO_CI_CD=1", "MINIO_BROWSER=off", "MINIO_UPDATE=off", "HOME=" + dir}
	case VersityGW:
		s.program.Args = []string{"--port", s.Endpoint, "--access", AccessKey, "--secret", SecretKey, "--quiet", "--keep-alive", "posix", data}
	}
	s.client, err = minio.New(s.Endpoint, &minio.Options{Creds: credentials.NewStaticV4(AccessKey, SecretKey, ""), Region: "us-east-1", MaxRetries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.program.Kill()
		if t.Failed() {
			t.Logf("the log of %s ends:\n%s", name, s.program.Tail(20))
		}
	})
	s.Restart()
	return s
}

// WriteKeys writes a file with keys and returns its path.
func WriteKeys(t testing.TB, access, secret string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(path, fmt.Appendf(nil, "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", access, secret), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Bucket makes a bucket and says how it is reached.
func (s *Server) Bucket(name string) store.S3Options {
	s.t.Helper()
	if err := s.client.MakeBucket(s.t.Context(), name, minio.MakeBucketOptions{}); err != nil {
		s.t.Fatalf("make bucket %s: %v", name, err)
	}
	return store.S3Options{Endpoint: s.Endpoint, Bucket: name, Insecure: true, Credentials: s.Keys}
}

// Kill ends the store at once and waits until it is gone.
func (s *Server) Kill() { s.program.Kill() }

// Freeze stops the store's process where it is: connections stay, and nobody answers. Thaw lets it go on.
func (s *Server) Freeze() {
	s.t.Helper()
	s.program.Signal(syscall.SIGSTOP)
	// Its threads stop one by one, some time after the signal was sent.
	tasks := fmt.Sprintf("/proc/%d/task/*/stat", s.program.Pid())
	for deadline := time.Now().Add(10 * time.Second); ; {
		threads, _ := filepath.Glob(tasks)
		stopped := 0
		for _, name := range threads {
			if stat, err := os.ReadFile(name); err == nil && bytes.Contains(stat, []byte(") T ")) {
				stopped++
			}
		}
		if len(threads) > 0 && stopped == len(threads) {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s was sent SIGSTOP, and %d of its %d threads have stopped", s.program.Name(), stopped, len(threads))
		}
		<-time.After(time.Millisecond)
	}
}

// Thaw ends what Freeze began.
func (s *Server) Thaw() { s.program.Signal(syscall.SIGCONT) }

// Restart starts the store, which doesn't run, and waits until it answers.
func (s *Server) Restart() {
	s.t.Helper()
	if err := s.restart(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *Server) restart() error {
	if err := s.program.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), readyLimit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := s.client.ListBuckets(ctx)
		if err == nil {
			return nil
		}
		if !s.program.Running() {
			return s.program.Ended()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s doesn't answer: %w", s.program.Name(), err)
		case <-tick.C:
		}
	}
}
