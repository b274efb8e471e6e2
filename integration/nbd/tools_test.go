// Package nbd tests the NBD server against clients that are not ours: libnbd's nbdinfo and nbdcopy,
// QEMU's qemu-io and qemu-img, and fio with its nbd engine; and our client against a server that is
// not ours, nbdkit. A tool that is missing is reported by name: the test says what was not run. With
// FARSHORE_REQUIRE_TOOLS=1 it fails instead.
package nbd

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// require reports the test as not run if a tool is missing.
func require(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, tool)
		}
	}
}

func missing(t testing.TB, tool string) {
	t.Helper()
	if os.Getenv("FARSHORE_REQUIRE_TOOLS") == "1" {
		t.Fatalf("not run: %s missing", tool)
	}
	t.Skipf("not run: %s missing", tool)
}

// tool runs a command and returns its standard output; it has to succeed.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := try(t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return out
}

// toolError is a command that failed, with what it said.
type toolError struct {
	error
	stderr string
}

func (e toolError) Error() string { return e.error.Error() + "\n" + e.stderr }

// try is tool for a command that may fail.
func try(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = t.TempDir() // fio leaves files where it runs
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), toolError{err, stderr.String() + stdout.String()}
	}
	return stdout.String(), nil
}
