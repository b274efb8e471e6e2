package sites

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/cdc/nbd"
	"github.com/farshore/farshore/pkg/group"
)

const volumeSize = 16 << 20

// pipeline is a group's processes between the two servers.
type pipeline struct {
	*pair
	document string
	binaries string
	metrics  []string // addresses
}

// environment gives a process its own keys and nothing of the servers'.
func (p *pipeline) environment(primary, dr string) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "FARSHORE_N") })
	env = append(env, "FARSHORE_GROUP="+p.document, "FARSHORE_STATE="+filepath.Join(p.dir, "state"))
	if primary != "" {
		env = append(env, "FARSHORE_PRIMARY_NKEY_SEED="+p.users[primary].file)
	}
	if dr != "" {
		env = append(env, "FARSHORE_DR_NKEY_SEED="+p.users[dr].file)
	}
	return env
}

// run starts a daemon and waits until it is ready. It is ended in order with the test.
func (p *pipeline) run(t *testing.T, env []string, name string, args ...string) {
	t.Helper()
	metrics := freeAddress(t)
	p.metrics = append(p.metrics, metrics)
	file, err := os.Create(filepath.Join(p.dir, name+strings.Join(args, "")+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(p.binaries, name), append(args, "--metrics", metrics)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // not to outlive a killed test
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	log := func() string {
		text, err := os.ReadFile(file.Name())
		if err != nil {
			return err.Error()
		}
		return string(text)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // fails where it has ended
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("%s didn't end", name)
			_ = cmd.Process.Kill()
		}
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, log())
		}
		file.Close()
	})
	harness.Eventually(t, 30*time.Second, name+" is ready", func() error {
		if !strings.Contains(log(), "msg=ready") {
			return fmt.Errorf("its log has no such line")
		}
		return nil
	})
}

// farshore runs the operator's command and returns what it writes.
func (p *pipeline) farshore(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.binaries, "farshore"), args...)
	cmd.Env = p.environment("operator", "operator")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("farshore %s: %w: %s", strings.Join(args, " "), err, errOut.String())
	}
	return out.String(), nil
}

const pipelineDocument = `apiVersion: farshore.dev/v1alpha1
kind: ProtectionGroup
metadata: {name: shop}
spec:
  sites:
    primary: {url: "PRIMARY", credentials: {ca: "CA", cert: "CERT", key: "KEY"}}
    dr: {url: "DR", credentials: {ca: "CA", cert: "CERT", key: "KEY"}}
  volumes:
  - {name: orders, uid: u1, capturer: a, path: "DIR/orders.img", size: 16Mi, listen: "unix:DIR/orders.sock"}
  - {name: ledger, uid: u2, capturer: b, path: "DIR/ledger.img", size: 16Mi, listen: "unix:DIR/ledger.sock"}
  barriers: {interval: 100ms}
  recovery: {directory: "DIR/recovery"}
`

func newPipeline(t *testing.T) *pipeline {
	t.Helper()
	p := &pipeline{pair: startPair(t)}
	p.document, p.binaries = filepath.Join(p.dir, "group.yaml"), filepath.Join(p.dir, "bin")
	text := strings.NewReplacer(
		"PRIMARY", p.url("primary"), "DIR", p.dir, "DR", p.url("dr"), "CA", p.ca.file, "CERT", p.client.cert, "KEY", p.client.key,
	).Replace(pipelineDocument)
	if err := os.WriteFile(p.document, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := harness.Build(p.binaries, os.Getenv("FARSHORE_TEST_TAGS")); err != nil {
		t.Fatal(err)
	}
	return p
}

// The whole pipeline runs through deploy/nats with each process's own key: what is written over
// NBD at the primary arrives at the DR site byte for byte, as the replica and by replay.
func TestPipeline(t *testing.T) {
	p := newPipeline(t)
	p.run(t, p.environment("snapshotter", ""), "snapshotter")
	p.run(t, p.environment("capturer", ""), "capturer", "--name", "a")
	p.run(t, p.environment("capturer", ""), "capturer", "--name", "b")
	p.run(t, p.environment("", "applier"), "applier")

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for i, volume := range []string{"orders", "ledger"} {
		p.scribble(t, volume, rand.New(rand.NewPCG(seed, uint64(i))))
	}
	var marked time.Time
	harness.Eventually(t, 60*time.Second, "a mark is made", func() error {
		marked = time.Now()
		_, err := p.farshore(t, "mark", "--label", "done")
		return err
	})
	harness.Eventually(t, 60*time.Second, "the mark is applied", func() error {
		out, err := p.farshore(t, "status", "-o", "json")
		if err != nil {
			return err
		}
		var s group.Status
		if err := json.Unmarshal([]byte(out), &s); err != nil {
			return err
		}
		if s.Applied == nil || s.Applied.Time.Before(marked) {
			return fmt.Errorf("applied %+v, conditions %+v", s.Applied, s.Conditions)
		}
		return nil
	})
	into := filepath.Join(p.dir, "replayed")
	if _, err := p.farshore(t, "replay", "--to", "done", "--into", into); err != nil {
		t.Error(err)
	}
	for _, volume := range []string{"orders", "ledger"} {
		source := filepath.Join(p.dir, volume+".img")
		if err := harness.SameBytes(source, filepath.Join(p.dir, "recovery", "shop", "volumes", volume+".img")); err != nil {
			t.Errorf("replica of %s: %v", volume, err)
		}
		replayed, err := find(into, volume+".img")
		if err == nil {
			err = harness.SameBytes(source, replayed)
		}
		if err != nil {
			t.Errorf("replay of %s: %v", volume, err)
		}
	}
	p.verify(t)
	if out, err := p.farshore(t, "points"); err != nil || !strings.Contains(out, "done") {
		t.Errorf("points: %v in\n%s", err, out)
	}
	p.checkMetrics(t)
}

// verify compares the replicas with the volumes: they are equal, a replica that somebody changed is told, and it is
// mended by that.
func (p *pipeline) verify(t *testing.T) {
	t.Helper()
	if out, err := p.farshore(t, "verify"); err != nil {
		t.Errorf("verify: %v\n%s", err, out)
	}
	replica := filepath.Join(p.dir, "recovery", "shop", "volumes", "orders.img")
	f, err := os.OpenFile(replica, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("not what the volume holds"), volumeSize/2); err != nil {
		t.Fatal(err)
	}
	if out, err := p.farshore(t, "verify", "orders"); err == nil || !strings.Contains(err.Error(), "replicas differ") || strings.Contains(out, "not sent again yet") {
		t.Errorf("verify of a changed replica: %v\n%s", err, out)
	}
	if out, err := p.farshore(t, "verify", "orders"); err != nil {
		t.Errorf("verify of a mended replica: %v\n%s", err, out)
	}
	if err := harness.SameBytes(filepath.Join(p.dir, "orders.img"), replica); err != nil {
		t.Errorf("mended replica: %v", err)
	}
}

// scribble writes, zeroes and trims a volume over NBD.
func (p *pipeline) scribble(t *testing.T, volume string, random *rand.Rand) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client, err := nbd.Dial(ctx, "unix", filepath.Join(p.dir, volume+".sock"), volume)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1500 {
		length := 512 * (1 + random.Int64N(32))
		off := 512 * random.Int64N((volumeSize-length)/512+1)
		switch i % 8 {
		case 6:
			err = client.Trim(ctx, off, length)
		default:
			content := make([]byte, length)
			for j := 0; j < len(content)/2; j += 8 { // half of it compresses
				content[j] = byte(random.Uint32())
			}
			err = client.Write(ctx, content, off)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if err := client.Disconnect(); err != nil {
		t.Error(err)
	}
}

func find(dir, name string) (found string, err error) {
	err = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil && filepath.Base(path) == name {
			found = path
		}
		return err
	})
	if err == nil && found == "" {
		err = fmt.Errorf("no %s below %s", name, dir)
	}
	return found, err
}

// rare are the metrics that a run without a mishap, an archive and Kubernetes objects doesn't have, by name or its beginning.
var rare = []string{"farshore_archive_", "farshore_barrier_missing_votes_total", "farshore_barrier_objects_", "farshore_objects_", "farshore_rebuild_"}

func isRare(name string) bool {
	return slices.ContainsFunc(rare, func(start string) bool { return strings.HasPrefix(name, start) })
}

// checkMetrics compares what the processes export with docs/metrics.md, both ways.
func (p *pipeline) checkMetrics(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]bool)
	for _, m := range regexp.MustCompile("(?m)^\\| `(farshore_[a-z_]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = true
	}
	var missing []string
	harness.Eventually(t, 15*time.Second, "every metric of docs/metrics.md is exported", func() error {
		exported := make(map[string]bool)
		for _, address := range p.metrics {
			for _, name := range scrape(t, address) {
				exported[name] = true
			}
		}
		for _, name := range slices.Sorted(maps.Keys(exported)) {
			if !documented[name] {
				t.Errorf("docs/metrics.md has no row for %s", name)
			}
		}
		if t.Failed() {
			return nil
		}
		missing = nil
		for _, name := range slices.Sorted(maps.Keys(documented)) {
			if !exported[name] && !isRare(name) {
				missing = append(missing, name)
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("nobody exports %s", strings.Join(missing, ", "))
		}
		return nil
	})
}

// scrape returns the names of Farshore's own metrics at an address.
func scrape(t *testing.T, address string) []string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (farshore_[a-z_]+) `).FindAllStringSubmatch(string(body), -1) {
		names = append(names, m[1])
	}
	return names
}
