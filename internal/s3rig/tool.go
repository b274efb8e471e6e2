package s3rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/farshore/farshore/internal/durable"
)

// Programs that Tool builds.
const (
	MinIO     = "minio"
	VersityGW = "versitygw"
	Restic    = "restic"
)

// tools are the packages of programs, at the versions that are tested with.
var tools = map[string]struct{ path, version string }{
	MinIO:     {"github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c"},
	VersityGW: {"github.com/versity/versitygw/cmd/versitygw", "v1.8.0"},
	Restic:    {"github.com/restic/restic/cmd/restic", "v0.18.1"},
}

// Tool returns the path of a program. The first time it is built with `go install` into the user's cache directory
// (farshore/tools/<version>-<go>, or the directory in FARSHORE_TOOLS instead of farshore/tools), which takes some minutes and needs Go and a
// module proxy. Several processes may call it: one builds, the others wait.
func Tool(ctx context.Context, name string) (string, error) {
	tool, ok := tools[name]
	if !ok {
		return "", fmt.Errorf("no program is called %s", name)
	}
	root := os.Getenv("FARSHORE_TOOLS")
	if root == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find the user's cache directory: %w", err)
		}
		root = filepath.Join(cache, "farshore", "tools")
	}
	version, _, _ := strings.Cut(runtime.Version(), " ")
	dir := filepath.Join(root, tool.version+"-"+version)
	program := filepath.Join(dir, name)
	if there(program) {
		return program, nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	lock, err := lock(ctx, program+".lock")
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if there(program) {
		return program, nil // somebody else has built it meanwhile
	}
	if err := build(ctx, tool.path+"@"+tool.version, program); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	return program, nil
}

func there(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// build installs a program beside its place first: what has the name is whole.
func build(ctx context.Context, what, program string) error {
	scratch, err := os.MkdirTemp(filepath.Dir(program), "building-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	cmd := exec.CommandContext(ctx, "go", "install", what)
	cmd.Dir = scratch // no module's settings apply
	cmd.Env = append(os.Environ(), "GOBIN="+scratch, "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("go install %s: %w: %s", what, err, strings.Join(lines[max(0, len(lines)-20):], "\n"))
	}
	return os.Rename(filepath.Join(scratch, filepath.Base(program)), program)
}

func lock(ctx context.Context, name string) (io.Closer, error) {
	taken := errors.New("another process builds it")
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		lock, err := durable.Lock(name, false, taken)
		if err == nil || !errors.Is(err, taken) {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
	}
}
