package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// tb lets a case use what was made for tests. A failure ends the case.
type tb struct {
	testing.TB // nil: what isn't below is not to be called
	m          *measuring
	context    func() context.Context

	mu     sync.Mutex
	failed []string
}

func (t *tb) Helper()                  {}
func (t *tb) Context() context.Context { return t.context() }
func (t *tb) Cleanup(f func())         { t.m.later(f) }
func (t *tb) Log(args ...any)          { fmt.Println(args...) }
func (t *tb) Logf(f string, a ...any)  { fmt.Printf(f+"\n", a...) }

func (t *tb) Error(args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed = append(t.failed, strings.TrimSpace(fmt.Sprintln(args...)))
}

func (t *tb) Errorf(f string, a ...any) { t.Error(fmt.Sprintf(f, a...)) }

func (t *tb) Fatal(args ...any) {
	t.Error(args...)
	runtime.Goexit()
}

func (t *tb) Fatalf(f string, a ...any) { t.Fatal(fmt.Sprintf(f, a...)) }

func (t *tb) Failed() bool { return t.err() != nil }

func (t *tb) err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.failed) == 0 {
		return nil
	}
	return errors.New(strings.Join(t.failed, "; "))
}

// guarded runs the case, which may end by a failure of what was made for tests, and then what it left to do.
func (m *measuring) guarded(ctx context.Context) (err error) {
	m.tb = &tb{m: m, context: func() context.Context { return ctx }}
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = m.c.run(ctx, m)
	}()
	<-done
	if err != nil {
		m.tb.Error(err) // the ends of logs are shown
	}
	return m.tb.err()
}
