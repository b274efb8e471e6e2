package harness

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is one of Farshore's binaries, run with its standard error in a file. It can be
// started again after it ended.
type Process struct {
	Name string
	t    testing.TB
	args []string
	env  []string
	log  string
	// ready is what the process writes once it works.
	ready string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	from int64         // size of the log when cmd was started
}

// Start runs the process. It returns at once; see WaitReady.
func (p *Process) Start() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatalf("open log of %s: %v", p.Name, err)
	}
	defer out.Close()
	if st, err := out.Stat(); err == nil {
		p.from = st.Size()
	}
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = out, out
	// A test binary that is killed must not leave its processes behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", p.Name, err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the state is read from cmd.ProcessState
		close(done)
	}()
	p.cmd, p.done = cmd, done
}

// Signal sends sig to the process.
func (p *Process) Signal(sig syscall.Signal) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		p.t.Fatalf("signal %s: it was never started", p.Name)
	}
	if err := p.cmd.Process.Signal(sig); err != nil && err != os.ErrProcessDone {
		p.t.Fatalf("signal %s: %v", p.Name, err)
	}
}

// Pid is the process's id; it was started.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// Pause stops the process with SIGSTOP for a while and lets it go on.
func (p *Process) Pause(d time.Duration) {
	p.t.Helper()
	p.Signal(syscall.SIGSTOP)
	<-time.After(d) // the duration is the fault itself, nothing is waited for
	p.Signal(syscall.SIGCONT)
}

// Kill ends the process with SIGKILL and waits until it is gone.
func (p *Process) Kill() {
	p.t.Helper()
	p.Signal(syscall.SIGKILL)
	p.Wait(10 * time.Second)
}

// Terminate asks the process to end, waits, and returns its exit code.
func (p *Process) Terminate() int {
	p.t.Helper()
	p.Signal(syscall.SIGTERM)
	return p.Wait(60 * time.Second)
}

// Wait waits until the process has ended and returns its exit code, -1 for a signal.
func (p *Process) Wait(limit time.Duration) int {
	p.t.Helper()
	p.mu.Lock()
	cmd, done := p.cmd, p.done
	p.mu.Unlock()
	select {
	case <-done:
	case <-time.After(limit):
		p.t.Fatalf("%s did not end within %v\n%s", p.Name, limit, p.Tail(30))
	}
	return cmd.ProcessState.ExitCode()
}

// Running tells whether the process was started and has not ended.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Log returns what the process wrote since it was last started.
func (p *Process) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := p.WholeLog()
	return text[min(int(p.from), len(text)):]
}

// WholeLog returns what the process wrote, over all starts.
func (p *Process) WholeLog() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return ""
	}
	return string(b)
}

// Tail returns the last n lines of the log, over all starts.
func (p *Process) Tail(n int) string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimRight(b, "\n"), []byte("\n"))
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return fmt.Sprintf("--- %s\n%s", p.Name, bytes.Join(lines, []byte("\n")))
}

// WaitReady waits until the process has said that it is ready, and fails when it ends before.
func (p *Process) WaitReady() {
	p.t.Helper()
	Eventually(p.t, 60*time.Second, p.Name+" is ready", func() error {
		if strings.Contains(p.Log(), p.ready) {
			return nil
		}
		if !p.Running() {
			p.t.Fatalf("%s ended before it was ready\n%s", p.Name, p.Tail(30))
		}
		return fmt.Errorf("no ready line yet")
	})
}

// Eventually waits until check returns nil, and fails the test with its last error at the limit.
func Eventually(t testing.TB, limit time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s: %v", limit, what, err)
		}
		<-tick.C
	}
}

// Build compiles the binaries into dir, with the given build tags and further arguments of `go build`.
func Build(dir, tags string, more ...string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	args := append([]string{"build", "-tags", tags, "-o", dir + string(filepath.Separator)}, more...)
	cmd := exec.Command("go", append(args, "./cmd/capturer", "./cmd/applier", "./cmd/snapshotter", "./cmd/farshore")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the binaries: %w\n%s", err, out)
	}
	return nil
}

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module's folder: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

var binaries string

// Use builds the binaries for a program that is no test, and returns what removes them.
func Use() (remove func(), err error) {
	dir, err := os.MkdirTemp("", "farshore-bin-")
	if err != nil {
		return nil, err
	}
	remove = func() { _ = os.RemoveAll(dir) } // a leftover in the temporary folder does no harm
	if err := Build(dir, ""); err != nil {
		remove()
		return nil, err
	}
	binaries = dir
	return remove, nil
}

// Main builds the binaries once, runs the tests of a package, and returns the exit code. With
// FARSHORE_TEST_TAGS set the binaries are built with those tags (the mutation check does it).
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "farshore-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := Build(dir, os.Getenv("FARSHORE_TEST_TAGS")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binaries = dir
	return m.Run()
}
