package daemon

import (
	"bytes"
	"context"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/group"
)

// following is a daemon that does nothing but follow its document.
type following struct {
	t    *testing.T
	file string
	docs chan *group.Group

	mu  sync.Mutex
	log bytes.Buffer
}

func (f *following) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.Write(p)
}

func follow(t *testing.T) *following {
	t.Helper()
	f := &following{t: t, file: writeDocument(t, document), docs: make(chan *group.Group)}
	cmd := Command(Spec{Use: "daemon", Run: func(ctx context.Context, env *Env) error {
		env.Log.Info("ready")
		return env.Follow(ctx, func(g *group.Group) error {
			select {
			case f.docs <- g:
			case <-ctx.Done():
			}
			return nil
		})
	}})
	cmd.SetArgs([]string{"--group", f.file})
	cmd.SetErr(f)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- cmd.ExecuteContext(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	f.logs("msg=ready")
	return f
}

// change replaces the document as it stands, not in one step.
func (f *following) change(text string) {
	f.t.Helper()
	if err := os.WriteFile(f.file, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *following) hangup() {
	f.t.Helper()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		f.t.Fatal(err)
	}
}

// next returns the volumes of the next document that is followed.
func (f *following) next() string {
	f.t.Helper()
	select {
	case g := <-f.docs:
		var names []string
		for _, v := range g.Spec.Volumes {
			names = append(names, v.Name)
		}
		return strings.Join(names, " ")
	case <-time.After(30 * time.Second):
		f.t.Fatal("no document was followed")
		return ""
	}
}

// logs waits for a line with all of these.
func (f *following) logs(parts ...string) {
	f.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		f.mu.Lock()
		text := f.log.String()
		f.mu.Unlock()
		for line := range strings.Lines(text) {
			found := true
			for _, p := range parts {
				found = found && strings.Contains(line, p)
			}
			if found {
				return
			}
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("no line with %q in\n%s", parts, text)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

const second = `  - {name: ledger, uid: u2, capturer: a, path: /v/ledger, listen: "unix:/run/ledger"}
`

// A changed document is followed, by itself and at once when asked; one that can't be used is reported with
// its problems, and the one before stays in force.
func TestFollow(t *testing.T) {
	f := follow(t)
	f.change(document + second)
	if got := f.next(); got != "orders ledger" {
		t.Errorf("followed %q", got)
	}

	f.change(strings.Replace(document, "uid: u1", "uid: u1, colour: red", 1))
	f.hangup()
	f.logs("problem of the changed document", "spec.volumes[0].colour")
	f.change(strings.Replace(document, "uid: u1", "uid: u9", 1))
	f.hangup()
	f.logs("problem of the changed document", "spec.volumes[0].uid", "remove the volume first")
	f.change(strings.Replace(document, "name: shop", "name: bank", 1))
	f.hangup()
	f.logs("problem of the changed document", "metadata.name", "restart")
	if err := os.Rename(f.file, f.file+".away"); err != nil {
		t.Fatal(err)
	}
	f.hangup()
	f.logs("document can't be read")

	f.change(document + second + "  barriers: {interval: 3s}\n")
	f.hangup()
	if got := f.next(); got != "orders ledger" {
		t.Errorf("followed %q", got)
	}
	f.logs("take effect at the next start", "spec.barriers.interval")
	f.change(document)
	f.hangup()
	if got := f.next(); got != "orders" {
		t.Errorf("followed %q", got)
	}
}
