// Package child runs servers as processes of this one, for tests and the demo: they end with it, write a log, can be killed and
// started again, and have ports that stay free meanwhile.
package child

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Program is a program that runs as a process, or can. It can be started again after it ended. Calls are not concurrent.
type Program struct {
	Path string
	Args []string
	Env  []string // beside this process's own
	Log  string   // path of a file that gets what it writes, behind what is there

	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

// starts runs what starts processes in one thread that lives as long as this process does: the kernel's promise to kill a
// child when its parent is gone hangs on the thread that started it.
var starts = sync.OnceValue(func() chan<- func() {
	c := make(chan func())
	go func() {
		runtime.LockOSThread()
		for start := range c {
			start()
		}
	}()
	return c
})

// Name is the last part of the program's path.
func (p *Program) Name() string { return filepath.Base(p.Path) }

// Start starts the program and returns at once.
func (p *Program) Start() error {
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.Path, p.Args...)
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = attributes()
	started := make(chan error)
	starts() <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.Name(), err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the state is read from cmd.ProcessState
		close(done)
	}()
	p.cmd, p.done = cmd, done
	return nil
}

// Running tells whether the program was started and has not ended.
func (p *Program) Running() bool {
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

// Kill ends the program with SIGKILL and waits until it is gone.
func (p *Program) Kill() {
	if p.Running() {
		_ = p.cmd.Process.Kill() // fails only where it has just ended
		<-p.done
	}
}

// Pid is the id of the process; it was started.
func (p *Program) Pid() int { return p.cmd.Process.Pid }

// Signal sends a signal to the program, if it runs.
func (p *Program) Signal(s syscall.Signal) {
	if p.Running() {
		_ = p.cmd.Process.Signal(s) // fails only where it has just ended
	}
}

// Stop asks the program to end, and kills it where that takes longer than limit.
func (p *Program) Stop(limit time.Duration) {
	if !p.Running() {
		return
	}
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(limit):
		p.Kill()
	}
}

// Ended is the error of a program that is not running though it should.
func (p *Program) Ended() error {
	return fmt.Errorf("%s ended (%s), its log (%s) ends: %s", p.Name(), p.cmd.ProcessState, p.Log, p.Tail(10))
}

// Tail is the last n lines of the log.
func (p *Program) Tail(n int) string {
	b, err := os.ReadFile(p.Log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err.Error()
	}
	lines := strings.Split(string(bytes.TrimRight(b, "\n")), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
