// Package harness runs both sites of a protection group as real processes on loopback: a NATS
// server for each site, capturers, the snapshotter and the applier. Tests kill, stop and start
// them, write through NBD, and compare what arrives with what was written.
package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/farshore/farshore/pkg/cdc/nbd"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

// Group is the name of the protection group that a Pair protects.
const Group = "shop"

// Options shape a Pair. Zero values mean the defaults in brackets.
type Options struct {
	Volumes   int           // volumes, each with a capturer of its own (2)
	Size      int64         // bytes of each volume (16 MiB)
	Interval  time.Duration // between barriers (100 ms)
	HoldLimit time.Duration // (500 ms)
	Recovery  string        // the DR site's directory (one inside Dir)
}

// Pair is a primary and a DR site.
type Pair struct {
	Dir        string
	Document   string // path of the group's document
	Recovery   string // the DR site's directory
	PrimaryURL string
	DRURL      string

	PrimaryBus, DRBus    *Process
	Snapshotter, Applier *Process
	Capturers            []*Process // capturer i serves volume i
	t                    testing.TB
	options              Options
}

// Volume returns the name of volume i.
func Volume(i int) string { return fmt.Sprintf("vol%d", i) }

var document = template.Must(template.New("group").Parse(`apiVersion: farshore.dev/v1alpha1
kind: ProtectionGroup
metadata:
  name: {{.Group}}
spec:
  sites:
    primary: {url: "{{.PrimaryURL}}"}
    dr: {url: "{{.DRURL}}"}
  volumes:
{{- range .Volumes}}
  - name: {{.Name}}
    uid: uid-{{.Name}}
    capturer: {{.Name}}
    path: {{.Path}}
    size: {{.Size}}
    listen: unix:{{.Socket}}
{{- end}}
  capture: {memory: 64Mi}
  barriers: {interval: {{.Interval}}, holdLimit: {{.HoldLimit}}, voteTimeout: 5s}
  recovery: {directory: {{.Recovery}}}
`))

// New prepares two sites below a temporary directory and starts nothing. At the test's end every
// process is killed; where the test failed the ends of their logs are shown.
func New(t testing.TB, o Options) *Pair {
	t.Helper()
	if o.Volumes == 0 {
		o.Volumes = 2
	}
	if o.Size == 0 {
		o.Size = 16 << 20
	}
	if o.Interval == 0 {
		o.Interval = 100 * time.Millisecond
	}
	if o.HoldLimit == 0 {
		o.HoldLimit = 500 * time.Millisecond
	}
	// Not t.TempDir: its names are too long for unix sockets.
	dir, err := os.MkdirTemp("", "farshore-")
	if err != nil {
		t.Fatal(err)
	}
	if o.Recovery == "" {
		o.Recovery = filepath.Join(dir, "dr")
	}
	primary, dr, leaf := freePort(t), freePort(t), freePort(t)
	p := &Pair{
		Dir: dir, Document: filepath.Join(dir, "group.yaml"), Recovery: o.Recovery, t: t, options: o,
		PrimaryURL: "nats://" + primary, DRURL: "nats://" + dr,
	}
	p.PrimaryBus = p.process("bus-primary", "farshore", "bus", "--domain", "primary",
		"--store", filepath.Join(dir, "bus-primary"), "--listen", primary, "--leaf-listen", leaf)
	p.DRBus = p.process("bus-dr", "farshore", "bus", "--domain", "dr",
		"--store", filepath.Join(dir, "bus-dr"), "--listen", dr, "--leaf-remote", "nats://"+leaf)
	p.Snapshotter = p.process("snapshotter", "snapshotter", "--group", p.Document)
	p.Applier = p.process("applier", "applier", "--group", p.Document)
	for i := range o.Volumes {
		p.Capturers = append(p.Capturers, p.process("capturer-"+Volume(i), "capturer", "--group", p.Document, "--name", Volume(i), "--state", filepath.Join(dir, "state")))
	}
	p.writeDocument()
	t.Cleanup(func() {
		for _, x := range p.All() {
			if x.Running() {
				x.Signal(syscall.SIGKILL)
				x.Wait(10 * time.Second)
			}
		}
		if t.Failed() {
			for _, x := range p.All() {
				t.Log(x.Tail(25))
			}
		}
		_ = os.RemoveAll(dir) // a leftover in the temporary folder is no reason to fail
	})
	return p
}

func (p *Pair) process(name, binary string, args ...string) *Process {
	ready := "msg=ready"
	if binary == "farshore" {
		ready = "clients nats://" // `farshore bus` tells where it can be reached
	}
	return &Process{Name: name, t: p.t, args: append([]string{filepath.Join(binaries, binary)}, args...),
		log: filepath.Join(p.Dir, name+".log"), ready: ready}
}

func (p *Pair) writeDocument() {
	p.t.Helper()
	type volume struct {
		Name, Path, Socket string
		Size               int64
	}
	var volumes []volume
	for i := range p.options.Volumes {
		volumes = append(volumes, volume{Volume(i), p.Source(i), p.Socket(i), p.options.Size})
	}
	var b bytes.Buffer
	err := document.Execute(&b, map[string]any{
		"Group": Group, "PrimaryURL": p.PrimaryURL, "DRURL": p.DRURL, "Volumes": volumes,
		"Interval": p.options.Interval, "HoldLimit": p.options.HoldLimit, "Recovery": p.Recovery,
	})
	if err == nil {
		err = os.WriteFile(p.Document, b.Bytes(), 0o600)
	}
	if err != nil {
		p.t.Fatalf("write the group's document: %v", err)
	}
}

// Twin returns a capturer for volume i with a device and a socket of its own, as a stale node's
// capturer would be. It writes the same stream.
func (p *Pair) Twin(i int) *Process {
	p.t.Helper()
	text, err := os.ReadFile(p.Document)
	if err != nil {
		p.t.Fatal(err)
	}
	twin := strings.NewReplacer(p.Source(i), p.Source(i)+".twin", p.Socket(i), p.Socket(i)+".twin").Replace(string(text))
	path := p.Document + ".twin"
	if err := os.WriteFile(path, []byte(twin), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return p.extra("twin-"+Volume(i), "capturer", "--group", path, "--name", Volume(i), "--state", filepath.Join(p.Dir, "state-twin"))
}

// Clone returns a process with the same arguments as x.
func (p *Pair) Clone(x *Process) *Process {
	return p.extra(x.Name+"-clone", filepath.Base(x.args[0]), x.args[1:]...)
}

func (p *Pair) extra(name, binary string, args ...string) *Process {
	x := p.process(name, binary, args...)
	p.t.Cleanup(func() {
		if x.Running() {
			x.Signal(syscall.SIGKILL)
			x.Wait(10 * time.Second)
		}
	})
	return x
}

// HoldLimit returns how long a tap of the group withholds writes at most.
func (p *Pair) HoldLimit() time.Duration { return p.options.HoldLimit }

// All returns every process, servers first.
func (p *Pair) All() []*Process {
	return append([]*Process{p.PrimaryBus, p.DRBus, p.Snapshotter, p.Applier}, p.Capturers...)
}

// Start starts every process and waits until each is ready.
func (p *Pair) Start() {
	p.t.Helper()
	for _, x := range p.All() {
		x.Start()
	}
	for _, x := range p.All() {
		x.WaitReady()
	}
}

// Source returns the path of volume i's backing file.
func (p *Pair) Source(i int) string { return filepath.Join(p.Dir, Volume(i)+".img") }

// Socket returns the path of volume i's NBD socket.
func (p *Pair) Socket(i int) string { return filepath.Join(p.Dir, Volume(i)+".sock") }

// Replica returns the path of volume i as rebuilt at the DR site.
func (p *Pair) Replica(i int) string {
	return filepath.Join(p.Recovery, Group, "volumes", Volume(i)+".img")
}

// Dial connects to volume i.
func (p *Pair) Dial(ctx context.Context, i int) (*nbd.Client, error) {
	return nbd.Dial(ctx, "unix", p.Socket(i), Volume(i))
}

// DRSite connects to the DR site's server.
func (p *Pair) DRSite(ctx context.Context) *journal.Site {
	return p.connect(ctx, p.DRURL, "dr", "primary")
}

// PrimarySite connects to the primary site's server.
func (p *Pair) PrimarySite(ctx context.Context) *journal.Site {
	return p.connect(ctx, p.PrimaryURL, "primary", "dr")
}

func (p *Pair) connect(ctx context.Context, url, domain, peer string) *journal.Site {
	p.t.Helper()
	site, err := journal.Connect(ctx, journal.Options{URL: url, Name: "test", Domain: domain, PeerDomain: peer})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(site.Close)
	return site
}

// Farshore runs the operator's command and returns its standard output.
func (p *Pair) Farshore(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(binaries, "farshore"), append(args, "--group", p.Document)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("farshore %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// Status returns the group's status as `farshore status` tells it.
func (p *Pair) Status() (*group.Status, error) {
	out, err := p.Farshore("status", "-o", "json")
	if err != nil {
		return nil, err
	}
	s := new(group.Status)
	if err := json.Unmarshal([]byte(out), s); err != nil {
		return nil, fmt.Errorf("decode status: %w in %q", err, out)
	}
	return s, nil
}

// Mark makes a labelled recovery point, trying until it succeeds within limit.
func (p *Pair) Mark(label string, limit time.Duration) {
	p.t.Helper()
	Eventually(p.t, limit, "mark "+label, func() error {
		_, err := p.Farshore("mark", "--label", label)
		return err
	})
}

// Drained makes a labelled point behind everything acknowledged so far, waits until the DR site
// has applied it, and fails unless every replica equals its source byte for byte. Nobody may
// write meanwhile.
func (p *Pair) Drained(label string) {
	p.t.Helper()
	mark := time.Now()
	p.Mark(label, 60*time.Second)
	Eventually(p.t, 60*time.Second, "the DR site applied "+label, func() error {
		s, err := p.Status()
		if err != nil {
			return err
		}
		if s.Applied == nil || s.Applied.Time.Before(mark) {
			return fmt.Errorf("applied %+v, phase %s, conditions %+v", s.Applied, s.Phase, s.Conditions)
		}
		return nil
	})
	for i := range p.options.Volumes {
		if err := SameBytes(p.Source(i), p.Replica(i)); err != nil {
			p.t.Errorf("%s at %s: %v", Volume(i), label, err)
		}
	}
}

// SameBytes compares two files and tells the first difference.
func SameBytes(want, got string) error {
	a, err := os.Open(want)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(got)
	if err != nil {
		return err
	}
	defer b.Close()
	bufA, bufB := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); ; {
		n, errA := io.ReadFull(a, bufA)
		m, errB := io.ReadFull(b, bufB)
		if n != m {
			return fmt.Errorf("%s and %s differ in size near byte %d", want, got, off)
		}
		for i := range n {
			if bufA[i] != bufB[i] {
				return fmt.Errorf("%s and %s differ at byte %d", want, got, off+int64(i))
			}
		}
		off += int64(n)
		if errA != nil || errB != nil {
			return nil // both ended: ReadFull gives an error only at the end of a file
		}
	}
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
