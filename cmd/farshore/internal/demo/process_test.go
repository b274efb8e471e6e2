package demo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func startShell(t *testing.T, n *nursery, name, script string) *process {
	t.Helper()
	p, err := n.start(name, "/bin/sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// A child that has children of its own is killed with them.
func TestKillTakesTheWholeGroup(t *testing.T) {
	n := newNursery(t.TempDir())
	defer n.close()
	p := startShell(t, n, "parent", "sleep 1000 & echo child $!; wait")
	text, err := p.waitFor(t.Context(), "child ")
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	p.kill()
	if alive(p.cmd.Process.Pid) {
		t.Error("the parent lives on")
	}
	// The child's parent is gone: whoever inherits it reaps it in its own time.
	for zombie := false; alive(child) && !zombie; time.Sleep(time.Millisecond) {
		status, err := os.ReadFile(filepath.Join("/proc", text, "stat"))
		zombie = err == nil && strings.Contains(string(status), ") Z ")
		if t.Context().Err() != nil {
			t.Fatal("the child lives on")
		}
	}
	p.kill() // once more is harmless
}

func TestCloseKillsAll(t *testing.T) {
	n := newNursery(t.TempDir())
	var all []*process
	for _, name := range []string{"a", "b", "c"} {
		all = append(all, startShell(t, n, name, "exec sleep 1000"))
	}
	n.close()
	for _, p := range all {
		if alive(p.cmd.Process.Pid) {
			t.Errorf("%s lives on", p.name)
		}
	}
}

func TestWaitForTellsWhyItEnded(t *testing.T) {
	n := newNursery(t.TempDir())
	defer n.close()
	_, err := startShell(t, n, "daemon", "echo starting; echo the disk is on fire >&2; exit 3").waitFor(t.Context(), "ready")
	for _, want := range []string{"daemon ended", "exit status 3", "the disk is on fire"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	why := errors.New("the user has had enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := startShell(t, n, "slow", "exec sleep 1000").waitFor(ctx, "ready"); !errors.Is(err, why) {
		t.Errorf("got %v, want %v", err, why)
	}
}

func TestUnexpectedEndIsReported(t *testing.T) {
	n := newNursery(t.TempDir())
	defer n.close()
	failed := make(chan error, 1)
	startShell(t, n, "daemon", "exit 0").mayEnd(make(chan struct{}), func(err error) { failed <- err })
	if err := <-failed; !strings.Contains(err.Error(), "daemon ended: exit status 0") {
		t.Errorf("got %v", err)
	}
	expected := make(chan struct{})
	close(expected)
	startShell(t, n, "daemon", "exit 1").mayEnd(expected, func(err error) { t.Errorf("an expected end was reported: %v", err) })
}

func TestOutput(t *testing.T) {
	t.Setenv("FARSHORE_GROUP", "/somewhere/else.yaml")
	n := newNursery(t.TempDir())
	defer n.close()
	var errs bytes.Buffer
	out, err := n.output(t.Context(), &errs, "tool", "/bin/sh", "-c", "echo result $FARSHORE_GROUP; echo progress >&2")
	if err != nil || string(out) != "result\n" || errs.String() != "progress\n" {
		t.Errorf("got %q, %q, %v; the environment's settings must not reach a child", out, errs.String(), err)
	}
	if _, err := n.output(t.Context(), io.Discard, "tool", "/bin/sh", "-c", "exit 5"); err == nil || !strings.Contains(err.Error(), "tool: exit status 5") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.output(ctx, io.Discard, "tool", "/bin/sh", "-c", "exec sleep 1000"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the cancellation", err)
	}
	if _, err := n.output(t.Context(), io.Discard, "tool", "/nonexistent"); err == nil {
		t.Error("a program that does not exist was started")
	}
}
