package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/journal"
)

// roleVariable makes the test binary a daemon: Main can only be seen from outside.
const roleVariable = "DAEMON_TEST_ROLE"

func TestMain(m *testing.M) {
	role := os.Getenv(roleVariable)
	if role == "" {
		os.Exit(m.Run())
	}
	os.Args = append(os.Args[:1], "--group", os.Getenv(roleVariable+"_GROUP"))
	Main(Command(Spec{Use: "daemon", Run: func(ctx context.Context, env *Env) error {
		env.Log.Info("ready")
		<-ctx.Done()
		env.Log.Info("ending")
		switch role {
		case "obeys":
			return nil
		case "fails":
			return errors.New("disk on fire")
		case "fenced":
			return fmt.Errorf("append: %w", journal.ErrFenced)
		}
		select {} // "hangs"
	}}))
}

type process struct {
	cmd *exec.Cmd
	log *bufio.Reader
}

func startProcess(t *testing.T, role string) process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+role, roleVariable+"_GROUP="+writeDocument(t, document))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return process{cmd, bufio.NewReader(stderr)}
}

// await reads the log up to a line that contains text.
func (p process) await(t *testing.T, text string) {
	t.Helper()
	for {
		line, err := p.log.ReadString('\n')
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			t.Fatalf("the log ended without %q: %v", text, err)
		}
	}
}

func (p process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func TestMainEndsOnSignal(t *testing.T) {
	for role, want := range map[string]int{"obeys": ExitOK, "fails": ExitFailure, "fenced": ExitFenced} {
		p := startProcess(t, role)
		p.await(t, "msg=ready")
		p.signal(t, syscall.SIGTERM)
		p.await(t, "msg=ending")
		rest, err := io.ReadAll(p.log)
		if err != nil {
			t.Error(err)
		}
		_ = p.cmd.Wait() // the code tells
		if got := p.cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("%s: exit code %d, want %d; the log ends with %s", role, got, want, rest)
		}
		if want != ExitOK && !strings.Contains(string(rest), "daemon: ") {
			t.Errorf("%s: no error in %s", role, rest)
		}
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	p := startProcess(t, "hangs")
	p.await(t, "msg=ready")
	p.signal(t, os.Interrupt)
	p.await(t, "msg=ending")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = p.cmd.Wait()
	}()
	// Between the first signal's arrival and the end of its handling there is a moment in
	// which another one counts as the first: repeat it as a person would.
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for alive := true; alive; {
		select {
		case <-ended:
			alive = false
		case <-again.C:
			_ = p.cmd.Process.Signal(os.Interrupt) // fails only when it has ended
		}
	}
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() || status.Signal() != syscall.SIGINT {
		t.Errorf("ended with %v", p.cmd.ProcessState)
	}
}
