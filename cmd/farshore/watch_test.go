package main

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal/journaltest"
)

// pane is a buffer that one goroutine writes and another looks at.
type pane struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (p *pane) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.Write(b)
}

func (p *pane) lines() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Count(p.b.String(), "\n")
}

func (p *pane) wait(t *testing.T, lines int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); p.lines() < lines; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d lines, want %d", p.lines(), lines)
		}
	}
}

// A watch that has begun outlives a status that can't be read for a while, and ends without an error.
func TestWatch(t *testing.T) {
	site := journaltest.One(t)
	kv, err := site.KV(t.Context(), group.StatusBucket, 0)
	if err != nil {
		t.Fatal(err)
	}
	put := func() {
		if _, err := kv.PutString(t.Context(), "shop", `{"group": "shop"}`); err != nil {
			t.Fatal(err)
		}
	}
	var out, errs pane
	s := status{site: site, group: "shop", out: &out, errs: &errs, json: true}
	if err := s.watch(t.Context()); err == nil {
		t.Error("a watch of nothing began")
	}
	put()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.watch(ctx) }()
	out.wait(t, 1)
	if err := kv.Delete(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	errs.wait(t, 1)
	put()
	out.wait(t, out.lines()+1)
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the watch ended with %v", err)
	}
}
