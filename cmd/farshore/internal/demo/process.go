package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// readyLimit bounds how long a process takes until it works.
const readyLimit = 60 * time.Second

// nursery starts processes and leaves none behind. Every child has a process group of its own, so
// that Ctrl-C at the terminal reaches the demo alone, which ends its children in its own order.
type nursery struct {
	logs     string // directory
	cache    string // directory of what children keep for their next time; "": the user's
	starts   chan func()
	mu       sync.Mutex
	children []*process
}

func newNursery(logs string) *nursery {
	n := &nursery{logs: logs, starts: make(chan func())}
	// The kernel's promise to kill a child when its parent is gone hangs on the thread that
	// started it, not on the process. So one thread starts them all and lives until the end.
	go func() {
		runtime.LockOSThread()
		for start := range n.starts {
			start()
		}
	}()
	return n
}

// process is a child.
type process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how, once done is closed
}

// start starts a program whose output goes to a file of its name.
func (n *nursery) start(name, program string, args ...string) (*process, error) {
	path := filepath.Join(n.logs, name+".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p, err := n.spawn(name, log, log, program, args...)
	if err != nil {
		return nil, err
	}
	p.log = path
	return p, nil
}

// output runs a program to its end and returns what it wrote to standard output, also where it failed.
func (n *nursery) output(ctx context.Context, stderr io.Writer, name, program string, args ...string) ([]byte, error) {
	var out bytes.Buffer
	p, err := n.spawn(name, &out, stderr, program, args...)
	if err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		p.kill()
		return nil, context.Cause(ctx)
	case <-p.done:
	}
	if p.err != nil {
		return out.Bytes(), fmt.Errorf("%s: %w", name, p.err)
	}
	return out.Bytes(), nil
}

func (n *nursery) spawn(name string, stdout, stderr io.Writer, program string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = stdout, stderr
	p.cmd.Env = environment()
	if n.cache != "" {
		p.cmd.Env = append(p.cmd.Env, "XDG_CACHE_HOME="+n.cache)
	}
	p.cmd.SysProcAttr = attributes()
	started := make(chan error)
	n.starts <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	n.mu.Lock()
	n.children = append(n.children, p)
	n.mu.Unlock()
	return p, nil
}

// mutation is the one setting that children see: programs built to drop writes, for the mutation check,
// read it, and the demo's checks must fail then.
const mutation = "FARSHORE_DROP_ONE_IN="

// environment is the demo's without what configures Farshore: the demo's document tells everything.
func environment() []string {
	out := []string{"GOMEMLIMIT=512MiB"}
	for _, v := range os.Environ() {
		if (!strings.HasPrefix(v, "FARSHORE_") || strings.HasPrefix(v, mutation)) && !strings.HasPrefix(v, "GOMEMLIMIT=") {
			out = append(out, v)
		}
	}
	return out
}

// close kills every child that still runs. The nursery starts nothing behind it.
func (n *nursery) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	kill(n.children...)
	n.children = nil
	close(n.starts)
}

// kill ends processes with SIGKILL, all of them before it waits for any.
func kill(processes ...*process) {
	for _, p := range processes {
		p.signal()
	}
	for _, p := range processes {
		<-p.done
	}
}

func (p *process) kill() { kill(p) }

func (p *process) signal() {
	select {
	case <-p.done: // its number may be another's by now
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // fails only where it has just ended
	}
}

// waitFor waits until the process's log holds a line with the text and returns what follows the
// text in that line.
func (p *process) waitFor(ctx context.Context, text string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit, fmt.Errorf("no %q in its log after %s", text, readyLimit))
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		log, err := os.ReadFile(p.log)
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(string(log)) {
			if _, rest, ok := strings.Cut(line, text); ok && strings.HasSuffix(line, "\n") {
				return strings.TrimSpace(rest), nil
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s: %w%s", p.name, context.Cause(ctx), p.tail())
		case <-p.done:
			return "", p.ended()
		case <-tick.C:
		}
	}
}

// ended tells that the process ended without being asked to.
func (p *process) ended() error {
	err := p.err
	if err == nil {
		err = errors.New("exit status 0")
	}
	return fmt.Errorf("%s ended: %w%s", p.name, err, p.tail())
}

// tail is the end of the process's log, for an error.
func (p *process) tail() string {
	log, err := os.ReadFile(p.log)
	if err != nil || len(log) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return "\n  its log ends:\n    " + strings.Join(lines[max(0, len(lines)-5):], "\n    ")
}
