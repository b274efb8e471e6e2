package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

const groupName = "bank"

// sites are the two sites: their processes and where they keep what.
type sites struct {
	nursery  *nursery
	bin      string
	dir      string    // of everything
	sockets  string    // of the NBD sockets: a path of a socket must be short
	size     int64     // bytes of each volume
	key      *key      // of the archive, and of the Secrets among the objects
	clusters *clusters // nil: without Kubernetes objects

	document string // the ProtectionGroup
	primary  []*process
	dr       []*process
	once     [2]sync.Once
	gone     chan struct{} // closed when the primary's processes may end
	over     chan struct{} // closed when the DR site's may
	site     *journal.Site // the demo's own connection to the DR site
}

// start starts both sites; it returns once every process works. A process that ends later than that
// without being asked to is reported to failed.
func (s *sites) start(ctx context.Context, failed func(error)) error {
	s.gone, s.over = make(chan struct{}), make(chan struct{})
	if err := s.buses(ctx); err != nil {
		return err
	}
	type daemonProcess struct {
		to   *[]*process
		name string
		args []string
	}
	capturer := func(name string, more ...string) daemonProcess {
		return daemonProcess{&s.primary, "capturer", append([]string{"--name", "capturer-" + name, "--state", s.state()}, more...)}
	}
	daemons := []daemonProcess{{&s.primary, "snapshotter", nil}, capturer(ledger), capturer(settlement), {&s.dr, "applier", nil}}
	if c := s.clusters; c != nil {
		daemons[3].args = []string{"--kubeconfig", c.dr.kubeconfig}
		daemons = append(daemons, capturer("objects", "--kubeconfig", c.primary.kubeconfig))
	}
	var waiting errgroup.Group
	for _, d := range daemons {
		name := d.name
		if name == "capturer" {
			name = d.args[1]
		}
		p, err := s.nursery.start(name, filepath.Join(s.bin, d.name), append(d.args, "--group", s.document)...)
		if err != nil {
			return err
		}
		*d.to = append(*d.to, p)
		waiting.Go(func() error {
			_, err := p.waitFor(ctx, "msg=ready")
			return err
		})
	}
	if err := waiting.Wait(); err != nil {
		return err
	}
	for _, p := range s.primary {
		go p.mayEnd(s.gone, failed)
	}
	for _, p := range s.dr {
		go p.mayEnd(s.over, failed)
	}
	return nil
}

// state is where the capturers keep what must survive them.
func (s *sites) state() string { return filepath.Join(s.dir, "primary", "state") }

// mayEnd reports the end of a process unless expected was closed before.
func (p *process) mayEnd(expected <-chan struct{}, failed func(error)) {
	<-p.done
	select {
	case <-expected:
	default:
		failed(p.ended())
	}
}

// buses starts the NATS server of each site, writes the group's document with their addresses, and
// connects to the DR site.
func (s *sites) buses(ctx context.Context) error {
	farshore := filepath.Join(s.bin, "farshore")
	bus := func(site string, args ...string) (*process, string, error) {
		args = append([]string{"bus", "--domain", site, "--store", filepath.Join(s.dir, site, "bus"), "--listen", "127.0.0.1:0"}, args...)
		p, err := s.nursery.start("bus-"+site, farshore, args...)
		if err != nil {
			return nil, "", err
		}
		url, err := p.waitFor(ctx, "clients ")
		return p, url, err
	}
	p, primary, err := bus("primary", "--leaf-listen", "127.0.0.1:0")
	if err != nil {
		return err
	}
	leaf, err := p.waitFor(ctx, "leafnodes ")
	if err != nil {
		return err
	}
	s.primary = append(s.primary, p)
	p, dr, err := bus("dr", "--leaf-remote", leaf)
	if err != nil {
		return err
	}
	s.dr = append(s.dr, p)
	s.document = filepath.Join(s.dir, "group.yaml")
	if err := os.WriteFile(s.document, s.group(primary, dr), 0o600); err != nil {
		return err
	}
	g, err := group.Load(s.document)
	if err != nil {
		return err
	}
	o := daemon.SiteOptions(g, daemon.DR)
	o.URL, o.Name = dr, "farshore-demo" // whatever the environment says about the site
	limited, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s.site, err = journal.Connect(limited, o)
	return err
}

// group is the document.
func (s *sites) group(primary, dr string) []byte {
	volume := func(name string) string {
		return fmt.Sprintf(`    - name: %[1]s
      uid: demo-%[1]s
      capturer: capturer-%[1]s
      path: %[2]q
      size: %[3]d
      listen: %[4]q
`, name, filepath.Join(s.dir, "primary", name+".img"), s.size, "unix:"+s.socket(name))
	}
	objects, recovery := "", ""
	if s.clusters != nil {
		objects, recovery = s.clusters.spec(), s.clusters.recovery()
	}
	return fmt.Appendf(nil, `apiVersion: farshore.dev/v1alpha1
kind: ProtectionGroup
metadata:
  name: %s
spec:
  sites:
    primary: {url: %q}
    dr: {url: %q}
  volumes:
%s%s  journal: # a server sets the whole of it aside for each stream: the demo runs on small disks, too
    maxBytes: 2Gi
%s  recovery:
    directory: %q
    archive: {directory: %q, every: 5s, recipients: [%s], identities: %q} # labelled points as well
%s`, groupName, primary, dr, volume(ledger), volume(settlement), objects, filepath.Join(s.dir, "dr", "recovery"), filepath.Join(s.dir, "archive"),
		s.key.recipient, s.key.path, recovery)
}

func (s *sites) socket(volume string) string { return filepath.Join(s.sockets, volume+".sock") }

// lose ends every process of the primary site at once, with SIGKILL.
func (s *sites) lose() {
	s.letGo()
	var site sync.WaitGroup
	site.Go(s.clusters.lose)
	kill(s.primary...)
	site.Wait()
}

// loseDR ends every process of the DR site at once, but for its API server, and the demo's connection to it.
func (s *sites) loseDR() {
	s.letGoDR()
	s.site.Close()
	kill(s.dr...)
}

// letGo makes the end of the primary's processes no failure.
func (s *sites) letGo() { s.once[0].Do(func() { close(s.gone) }) }

// letGoDR makes the end of the DR site's processes no failure.
func (s *sites) letGoDR() { s.once[1].Do(func() { close(s.over) }) }

// close ends the connection; the nursery ends the processes that are left.
func (s *sites) close() {
	if s.over != nil {
		s.letGo()
		s.letGoDR()
	}
	if s.site != nil {
		s.site.Close()
	}
}
