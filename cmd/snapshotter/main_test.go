package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/barrier/clock"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal/journaltest"
)

const document = `apiVersion: farshore.dev/v1alpha1
kind: ProtectionGroup
metadata: {name: shop}
spec:
  sites:
    primary: {url: %q}
  volumes:
  - {name: a, uid: uid-a, capturer: node, path: /dev/null, size: 1Mi, listen: "unix:/run/a.sock"}
  - {name: b, uid: uid-b, capturer: node, path: /dev/zero, size: 1Mi, listen: "unix:/run/b.sock"}
  journal: {maxBytes: 64Mi}
  barriers: {interval: 2s, holdLimit: 300ms, voteTimeout: 7s}
`

// process is the program, run inside the test.
type process struct {
	cancel context.CancelFunc
	ended  chan error
	mu     sync.Mutex
	log    bytes.Buffer
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func launch(t *testing.T, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{cancel: cancel, ended: make(chan error, 1)}
	cmd := command()
	cmd.SetArgs(args)
	cmd.SetErr(p)
	go func() { p.ended <- cmd.ExecuteContext(ctx) }()
	t.Cleanup(cancel)
	return p
}

func (p *process) exit(t *testing.T) int {
	t.Helper()
	select {
	case err := <-p.ended:
		return daemon.ExitCode(err)
	case <-time.After(30 * time.Second):
		t.Fatalf("it doesn't end\n%s", p.logged())
		return 0
	}
}

func (p *process) ready(t *testing.T) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(p.logged(), "msg=ready"); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("it doesn't get ready\n%s", p.logged())
		}
	}
}

// A second snapshotter takes over; the first ends with the code that says so, the second in order.
func TestTakeover(t *testing.T) {
	site := journaltest.One(t)
	path := filepath.Join(t.TempDir(), "group.yaml")
	if err := os.WriteFile(path, fmt.Appendf(nil, document, site.Conn().ConnectedUrl()), 0o600); err != nil {
		t.Fatal(err)
	}
	first := launch(t, "--group", path)
	first.ready(t)
	if o, err := clock.Measure(t.Context(), site.Conn(), "shop"); err != nil || o.Offset.Abs() > o.RoundTrip {
		t.Errorf("its clock is off by %s: %v", o.Offset, err)
	}
	second := launch(t, "--group", path)
	second.ready(t)
	if code := first.exit(t); code != daemon.ExitFenced {
		t.Errorf("the first one ended with %d\n%s", code, first.logged())
	}
	second.cancel()
	if code := second.exit(t); code != daemon.ExitOK {
		t.Errorf("the second one ended with %d\n%s", code, second.logged())
	}
}

func TestBadDocument(t *testing.T) {
	if code := launch(t, "--group", filepath.Join(t.TempDir(), "missing.yaml")).exit(t); code != daemon.ExitUsage {
		t.Errorf("exit code %d, want %d", code, daemon.ExitUsage)
	}
}

func TestOptionsFollowTheDocument(t *testing.T) {
	g, err := group.Parse(fmt.Appendf(nil, document, "nats://127.0.0.1:4222"))
	if err != nil {
		t.Fatal(err)
	}
	o := options(g)
	if o.Group != "shop" || o.Interval != 2*time.Second || o.HoldLimit != 300*time.Millisecond || o.VoteTimeout != 7*time.Second ||
		o.MaxBytes != 64<<20 || o.Replicas != 1 {
		t.Errorf("options are %+v", o)
	}
	if len(o.Volumes) != 2 || o.Volumes[1].Name != "b" || o.Volumes[1].UID != "uid-b" {
		t.Errorf("volumes are %+v", o.Volumes)
	}
	if o.Objects {
		t.Error("a group without objects has some")
	}
	g.Spec.Objects = &group.Objects{Namespaces: []string{"bank"}}
	if o := options(g); !o.Objects {
		t.Error("the group's objects are no part of its barriers")
	}
}
