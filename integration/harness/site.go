// Package harness runs both sites of a protection group as real processes on loopback: a NATS
// server for each site, capturers, the snapshotter and the applier. Tests kill, stop and start
// them, write through NBD, and compare what arrives with what was written.
package harness

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/farshore/farshore/internal/link"
	"github.com/farshore/farshore/pkg/cdc/nbd"
	"github.com/farshore/farshore/pkg/journal"
)

// Group is the name of the protection group that a Pair protects.
const Group = "shop"

// Options shape a Pair. Zero values mean the defaults in brackets.
type Options struct {
	Volumes   int           // volumes (2); -1: none
	Each      int           // volumes of each capturer (1)
	Size      int64         // bytes of each volume (16 MiB)
	Interval  time.Duration // between barriers (100 ms)
	HoldLimit time.Duration // (500 ms)

	// Settings of the group's document, as it spells them; empty ones are left to its defaults.
	Memory      string // capture.memory (64Mi)
	HotRegions  string // capture.hotRegions
	WhenBusGone string // capture.whenBusGone
	MaxBytes    string // journal.maxBytes: of each stream at the primary (1Gi)
	Margin      string // journal.margin
	Retention   string // recovery.retention
	Mirrors     string // recovery.journal, as YAML in one line
	Archive     string // recovery.archive, as YAML in one line

	Sources  string    // directory of the volumes' backing files (Dir)
	State    string    // directory of the capturers' state directories (Dir)
	Recovery string    // the DR site's directory (one inside Dir)
	Stores   [2]string // directories of the primary's and the DR site's NATS store (inside Dir)

	Objects *Objects // Kubernetes objects of the group; nil: none

	Direct bool // the leafnode goes to the primary by itself, not through Link

	// Clocks gives each site a wall clock of its own that can be set wrong. The binaries are built for it.
	Clocks bool
}

// Objects are the Kubernetes objects of a group, and the API servers of both sites.
type Objects struct {
	Spec     string // spec.objects of the group's document, as YAML in one line
	Recovery string // spec.recovery.objects, as YAML in one line; empty: left out
	Primary  string // path of the kubeconfig file that the watcher has
	DR       string // path of the one that the applier has
}

// Pair is a primary and a DR site. The DR site's leafnode reaches the primary through Link.
type Pair struct {
	Dir        string
	Document   string // path of the group's document
	Recovery   string // the DR site's directory
	PrimaryURL string
	DRURL      string
	Link       *link.Link

	PrimaryBus, DRBus    *Process
	Snapshotter, Applier *Process
	Capturers            []*Process // capturer i serves volume i, or volumes i*Each and following
	Watcher              *Process   // captures the objects and serves no volume; nil without Options.Objects

	PrimaryClock, DRClock *Clock // nil without Options.Clocks

	t        testing.TB
	options  Options
	binaries string
	dr       *journal.Site // see drSite
	volumes  []int         // those in the document
	sizes    []int64
	counted  []int64 // where the next workload's chains begin
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
  volumes:{{if not .Volumes}} []{{end}}
{{- range .Volumes}}
  - name: {{.Name}}
    uid: uid-{{.Name}}
    capturer: {{.Capturer}}
    path: {{.Path}}
    size: {{.Size}}
    listen: unix:{{.Socket}}
{{- end}}
  {{with .Objects}}objects: {{.Spec}}{{end}}
  capture:
    memory: {{.Memory}}
    {{with .HotRegions}}hotRegions: {{.}}{{end}}
    {{with .WhenBusGone}}whenBusGone: {{.}}{{end}}
  journal:
    replicas: 1
    {{with .MaxBytes}}maxBytes: {{.}}{{end}}
    {{with .Margin}}margin: {{.}}{{end}}
  barriers: {interval: {{.Interval}}, holdLimit: {{.HoldLimit}}, voteTimeout: 5s}
  recovery:
    directory: {{.Recovery}}
    {{with .Retention}}retention: {{.}}{{end}}
    {{with .Mirrors}}journal: {{.}}{{end}}
    {{with .Archive}}archive: {{.}}{{end}}
    {{with .Objects}}{{with .Recovery}}objects: {{.}}{{end}}{{end}}
`))

func (o *Options) fill(dir string) {
	for _, d := range []struct {
		field *string
		value string
	}{{&o.Sources, dir}, {&o.State, dir}, {&o.Recovery, filepath.Join(dir, "dr")}, {&o.Memory, "64Mi"}, {&o.MaxBytes, "1Gi"},
		{&o.Stores[0], filepath.Join(dir, "bus-primary")}, {&o.Stores[1], filepath.Join(dir, "bus-dr")}} {
		if *d.field == "" {
			*d.field = d.value
		}
	}
	switch o.Volumes {
	case 0:
		o.Volumes = 2
	case -1:
		o.Volumes = 0
	}
	if o.Each == 0 {
		o.Each = 1
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
}

// New prepares two sites below a temporary directory and starts nothing. At the test's end every
// process is killed; where the test failed the ends of their logs are shown.
func New(t testing.TB, o Options) *Pair {
	t.Helper()
	// Not t.TempDir: its names are too long for unix sockets.
	dir, err := os.MkdirTemp("", "farshore-")
	if err != nil {
		t.Fatal(err)
	}
	o.fill(dir)
	primary, dr, leaf := freePort(t), freePort(t), freePort(t)
	p := &Pair{
		Dir: dir, Document: filepath.Join(dir, "group.yaml"), Recovery: o.Recovery, t: t, options: o, binaries: binaries,
		PrimaryURL: "nats://" + primary, DRURL: "nats://" + dr, Link: link.New(t, leaf),
	}
	if o.Clocks {
		if p.binaries, err = clockBinaries(); err != nil {
			t.Fatal(err)
		}
		p.PrimaryClock, p.DRClock = newClock(t, filepath.Join(dir, "clock-primary")), newClock(t, filepath.Join(dir, "clock-dr"))
	}
	p.PrimaryBus = p.process(p.PrimaryClock, "bus-primary", "farshore", "bus", "--domain", "primary",
		"--store", o.Stores[0], "--listen", primary, "--leaf-listen", leaf)
	remote := p.Link.Address()
	if o.Direct {
		remote = leaf
	}
	p.DRBus = p.process(p.DRClock, "bus-dr", "farshore", "bus", "--domain", "dr",
		"--store", o.Stores[1], "--listen", dr, "--leaf-remote", "nats://"+remote)
	p.Snapshotter = p.process(p.PrimaryClock, "snapshotter", "snapshotter", "--group", p.Document)
	p.Applier = p.process(p.DRClock, "applier", "applier", "--group", p.Document)
	for i := range o.Volumes {
		p.volumes, p.sizes = append(p.volumes, i), append(p.sizes, o.Size)
		if i%o.Each == 0 {
			p.Capturers = append(p.Capturers, p.capturer("capturer-"+Volume(i), i, p.Document, p.State(i)))
		}
	}
	if o.Objects != nil {
		p.Watcher = p.watcher("watcher", o.Objects.Primary)
		p.Applier.env = append(p.Applier.env, "FARSHORE_KUBECONFIG="+o.Objects.DR)
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

// capturer returns the process that serves volume i as a document says, with a state directory.
func (p *Pair) capturer(name string, i int, document, state string) *Process {
	return p.process(p.PrimaryClock, name, "capturer", "--group", document, "--name", Volume(i), "--state", state)
}

// watcher returns a capturer that serves no volume and captures the objects that a kubeconfig file leads to.
func (p *Pair) watcher(name, kubeconfig string) *Process {
	x := p.process(p.PrimaryClock, name, "capturer", "--group", p.Document, "--name", name, "--state", filepath.Join(p.options.State, "state-"+name))
	x.env = append(x.env, "FARSHORE_KUBECONFIG="+kubeconfig)
	return x
}

// Kubeconfig gives the process another kubeconfig file, from its next start on.
func (p *Process) Kubeconfig(path string) {
	p.env = append(p.env, "FARSHORE_KUBECONFIG="+path) // the last one counts
}

// AnotherWatcher returns one more capturer of the objects, which stands by while another is elected.
func (p *Pair) AnotherWatcher(name, kubeconfig string) *Process {
	return p.ended(p.watcher(name, kubeconfig))
}

func (p *Pair) process(clock *Clock, name, binary string, args ...string) *Process {
	var env []string
	if clock != nil {
		env = clock.environment()
	}
	ready := "msg=ready"
	if binary == "farshore" {
		ready = "clients nats://" // `farshore bus` tells where it can be reached
	}
	return &Process{Name: name, t: p.t, args: append([]string{filepath.Join(p.binaries, binary)}, args...), env: env,
		log: filepath.Join(p.Dir, name+".log"), ready: ready}
}

func (p *Pair) writeDocument() {
	p.t.Helper()
	type volume struct {
		Name, Capturer, Path, Socket string
		Size                         int64
	}
	var volumes []volume
	for _, i := range p.volumes {
		volumes = append(volumes, volume{Volume(i), Volume(i / p.options.Each * p.options.Each), p.Source(i), p.Socket(i), p.sizes[i]})
	}
	var b bytes.Buffer
	err := document.Execute(&b, map[string]any{
		"Group": Group, "PrimaryURL": p.PrimaryURL, "DRURL": p.DRURL, "Volumes": volumes,
		"Interval": p.options.Interval, "HoldLimit": p.options.HoldLimit, "Recovery": p.Recovery,
		"Memory": p.options.Memory, "HotRegions": p.options.HotRegions, "WhenBusGone": p.options.WhenBusGone,
		"Objects": p.options.Objects, "MaxBytes": p.options.MaxBytes, "Margin": p.options.Margin, "Retention": p.options.Retention,
		"Mirrors": p.options.Mirrors, "Archive": p.options.Archive,
	})
	if err == nil { // replaced, not rewritten: processes read it while they run
		err = os.WriteFile(p.Document+".new", b.Bytes(), 0o600)
	}
	if err == nil {
		err = os.Rename(p.Document+".new", p.Document)
	}
	if err != nil {
		p.t.Fatalf("write the group's document: %v", err)
	}
}

// Twin returns a capturer for volume i with a device, a socket and a state of its own, as a stale node's
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
	return p.ended(p.capturer("twin-"+Volume(i), i, path, p.State(i)+".twin"))
}

// Elsewhere returns a capturer for volume i as another node would run it once the device has moved there:
// the same device and socket, and the state directory of that node.
func (p *Pair) Elsewhere(i int) *Process {
	return p.ended(p.capturer("elsewhere-"+Volume(i), i, p.Document, p.State(i)+".elsewhere"))
}

// Clone returns a process with the same arguments as x.
func (p *Pair) Clone(x *Process) *Process {
	clone := p.process(nil, x.Name+"-clone", filepath.Base(x.args[0]), x.args[1:]...)
	clone.env = x.env
	return p.ended(clone)
}

// ended sees to it that x ends with the test.
func (p *Pair) ended(x *Process) *Process {
	p.t.Cleanup(func() {
		if x.Running() {
			x.Signal(syscall.SIGKILL)
			x.Wait(10 * time.Second)
		}
		if p.t.Failed() {
			p.t.Log(x.Tail(25))
		}
	})
	return x
}

// SetObjects replaces the parts of the document that are about objects, which the processes read while they run.
func (p *Pair) SetObjects(spec, recovery string) {
	p.t.Helper()
	p.options.Objects.Spec, p.options.Objects.Recovery = spec, recovery
	p.writeDocument()
}

// SetArchive replaces the part of the document that is about the archive, which the applier reads while it runs.
func (p *Pair) SetArchive(spec string) {
	p.t.Helper()
	p.options.Archive = spec
	p.writeDocument()
}

// Resize gives volume i another size in the document, which the processes read while they run.
func (p *Pair) Resize(i int, size int64) {
	p.t.Helper()
	p.sizes[i] = size
	p.writeDocument()
}

// Join adds a volume to the document and starts a capturer for it. It returns the volume's number.
func (p *Pair) Join(size int64) int {
	p.t.Helper()
	i := len(p.sizes)
	p.volumes, p.sizes = append(p.volumes, i), append(p.sizes, size)
	p.writeDocument()
	x := p.capturer("capturer-"+Volume(i), i, p.Document, p.State(i))
	p.Capturers = append(p.Capturers, x)
	x.Start()
	x.WaitReady()
	return i
}

// Leave takes volume i out of the document.
func (p *Pair) Leave(i int) {
	p.t.Helper()
	p.volumes = slices.DeleteFunc(p.volumes, func(v int) bool { return v == i })
	p.writeDocument()
}

// HoldLimit returns how long a tap of the group withholds writes at most.
func (p *Pair) HoldLimit() time.Duration { return p.options.HoldLimit }

// All returns every process, servers first.
func (p *Pair) All() []*Process {
	all := append([]*Process{p.PrimaryBus, p.DRBus, p.Snapshotter, p.Applier}, p.Capturers...)
	if p.Watcher != nil {
		all = append(all, p.Watcher)
	}
	return all
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
func (p *Pair) Source(i int) string { return filepath.Join(p.options.Sources, Volume(i)+".img") }

// State returns the state directory of the capturer of volume i.
func (p *Pair) State(i int) string { return filepath.Join(p.options.State, "state-"+Volume(i)) }

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

// given are the ports that this process's pairs have.
var given sync.Map

// freePort returns an address that nobody listens on. It lies below those that the kernel gives to outgoing connections:
// one of them could take it while a server is down, even one that tries to reach that server.
func freePort(t testing.TB) string {
	t.Helper()
	const first, last = 12000, 32000
	for range 1000 {
		port := first + rand.IntN(last-first)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		l.Close()
		if _, taken := given.LoadOrStore(port, true); !taken {
			return l.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}
