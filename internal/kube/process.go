package kube

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

// server is one of a cluster's programs. It can be started again after it ended. Calls are not concurrent.
type server struct {
	program string // path
	args    []string
	log     string // path; appended to

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

func (s *server) name() string { return filepath.Base(s.program) }

func (s *server) start() error {
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.program, s.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = attributes()
	started := make(chan error)
	starts() <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", s.name(), err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the state is read from cmd.ProcessState
		close(done)
	}()
	s.cmd, s.done = cmd, done
	return nil
}

func (s *server) running() bool {
	if s.cmd == nil {
		return false
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// kill ends the server with SIGKILL and waits until it is gone.
func (s *server) kill() {
	if s.running() {
		_ = s.cmd.Process.Kill() // fails only where it has just ended
		<-s.done
	}
}

// stop asks the server to end, and kills it where that takes longer than limit.
func (s *server) stop(limit time.Duration) {
	if !s.running() {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // fails only where it has just ended
	select {
	case <-s.done:
	case <-time.After(limit):
		s.kill()
	}
}

// ended is the error of a server that is not running though it should.
func (s *server) ended() error {
	return fmt.Errorf("%s ended (%s), its log (%s) ends: %s", s.name(), s.cmd.ProcessState, s.log, s.tail(10))
}

// tail is the last n lines of the log.
func (s *server) tail(n int) string {
	b, err := os.ReadFile(s.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err.Error()
	}
	lines := strings.Split(string(bytes.TrimRight(b, "\n")), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
