package bus_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/farshore/farshore/pkg/journal/bus"
)

// What can't work is told at once, with the reason.
func TestStartRefusesWhatCanNotWork(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken.conf")
	if err := os.WriteFile(broken, []byte("port: {"), 0o600); err != nil {
		t.Fatal(err)
	}
	running, err := bus.Start(bus.Options{StoreDir: filepath.Join(dir, "a"), Domain: "a", Port: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { running.Shutdown(); running.Wait() }()
	_, port, _ := strings.Cut(strings.TrimPrefix(running.ClientURL(), "nats://"), ":")
	taken, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]bus.Options{
		"store directory":    {Port: -1},
		"configuration":      {ConfigFile: broken},
		"no such file":       {ConfigFile: filepath.Join(dir, "none.conf")},
		"address already in": {StoreDir: filepath.Join(dir, "b"), Port: taken},
		"leaf remote":        {StoreDir: filepath.Join(dir, "c"), Port: -1, LeafRemotes: []string{"://"}},
	} {
		begin := time.Now()
		if _, err := bus.Start(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("%s: told after %v", want, took)
		}
	}
}

// The defaults that a site's safety rests on.
func TestDefaults(t *testing.T) {
	s, err := bus.Start(bus.Options{StoreDir: t.TempDir(), Domain: "a", Port: -1, LeafPort: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Shutdown(); s.Wait() }()
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if n := nc.MaxPayload(); n != bus.DefaultMaxPayload {
		t.Errorf("max_payload %d", n)
	}
	if !strings.HasPrefix(s.ClientURL(), "nats://127.0.0.1:") || !strings.HasPrefix(s.LeafURL(), "nats-leaf://127.0.0.1:") || strings.HasSuffix(s.LeafURL(), ":-1") {
		t.Errorf("listens on %s and %s", s.ClientURL(), s.LeafURL())
	}
}
