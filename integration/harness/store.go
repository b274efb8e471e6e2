package harness

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Store is a copy of a server's store, as a power cut would leave it that took everything written since.
type Store struct {
	t           testing.TB
	server      *Process
	live, taken string
}

// CopyPrimaryStore copies the primary NATS server's store at one instant: the server is stopped meanwhile.
func (p *Pair) CopyPrimaryStore() *Store {
	p.t.Helper()
	return p.copyStore(p.PrimaryBus, p.options.Stores[0])
}

// CopyDRStore is CopyPrimaryStore for the DR site.
func (p *Pair) CopyDRStore() *Store { p.t.Helper(); return p.copyStore(p.DRBus, p.options.Stores[1]) }

func (p *Pair) copyStore(server *Process, live string) *Store {
	p.t.Helper()
	taken, err := os.MkdirTemp(p.Dir, "store-")
	if err != nil {
		p.t.Fatal(err)
	}
	s := &Store{p.t, server, live, filepath.Join(taken, "copy")}
	server.Signal(syscall.SIGSTOP)
	err = os.CopyFS(s.taken, os.DirFS(live))
	server.Signal(syscall.SIGCONT)
	if err != nil {
		p.t.Fatalf("copy the store of %s: %v", server.Name, err)
	}
	return s
}

// PutBack cuts the server's power: it is killed and its store is what it was when it was copied. Start it again.
func (s *Store) PutBack() {
	s.t.Helper()
	if s.server.Running() {
		s.server.Kill()
	}
	err := os.RemoveAll(s.live)
	if err == nil {
		err = os.Rename(s.taken, s.live)
	}
	if err != nil {
		s.t.Fatalf("put back the store of %s: %v", s.server.Name, err)
	}
}

// Restart kills processes, if they run, starts them again and waits until they are ready.
func Restart(processes ...*Process) {
	for _, x := range processes {
		if x.Running() {
			x.Kill()
		}
	}
	for _, x := range processes {
		x.Start()
	}
	for _, x := range processes {
		x.WaitReady()
	}
}

// The time that a fault is given to reach what it is for, where nothing can be waited for.
const settle = 500 * time.Millisecond

// Settle lets a moment pass: for a state that is there by default, such as a process that goes on undisturbed.
func Settle() { <-time.After(settle) }
