package cdc

import "sync"

// flushes lets those who ask for a flush while another one runs share the next: a device is flushed no more
// often than it takes, however many ask. A flush that had begun before somebody asked is never theirs.
type flushes struct {
	mu      sync.Mutex
	running *sharedFlush
	waiting *sharedFlush // begins when running has ended
}

type sharedFlush struct {
	done chan struct{}
	err  error // valid behind done
}

// do returns the result of a flush that began after the call.
func (f *flushes) do(flush func() error) error {
	f.mu.Lock()
	if s := f.waiting; s != nil {
		f.mu.Unlock()
		<-s.done
		return s.err
	}
	s := &sharedFlush{done: make(chan struct{})}
	if before := f.running; before != nil {
		f.waiting = s
		f.mu.Unlock()
		<-before.done
		f.mu.Lock()
		f.waiting = nil
	}
	f.running = s
	f.mu.Unlock()
	s.err = flush()
	f.mu.Lock()
	if f.running == s {
		f.running = nil
	}
	f.mu.Unlock()
	close(s.done)
	return s.err
}
