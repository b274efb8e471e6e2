// Package kube builds, starts, kills and restarts Kubernetes API servers on loopback, for the tests and the demo: a real kube-apiserver
// on a real etcd with an authority of its own, and a real kube-controller-manager where it is asked for. There are no nodes: a Pod that
// is made stays pending. No server outlives the process that started it.
package kube

import (
	"context"
	"crypto/rand"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/farshore/farshore/internal/child"
)

const (
	serviceRange   = "10.96.0.0/16"
	serviceAddress = "10.96.0.1" // of the Service "kubernetes"
	// readyLimit bounds how long a cluster takes to start; 5 s are usual.
	readyLimit = 2 * time.Minute
	// stopLimit bounds how long a server takes to end by itself.
	stopLimit = 5 * time.Second
)

// Options of a cluster.
type Options struct {
	Dir               string // where its data, keys, kubeconfig files and logs lie; made if it isn't there
	Name              string // of its context in kubeconfig files ("kubernetes")
	ControllerManager bool   // run the controllers, too
}

// Cluster is a Kubernetes API server and what it needs. Its methods must not be called concurrently.
type Cluster struct {
	URL        string // of the API server
	Kubeconfig string // path of a kubeconfig file of an administrator

	options Options
	ca      *authority
	servers []*child.Program // in the order of their start
	config  *rest.Config
	client  *http.Client
}

// Start starts a cluster in a fresh directory and waits until its API server is ready and, with the controllers, until they
// work. Binaries has built what it runs.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if o.Name == "" {
		o.Name = "kubernetes"
	}
	bin, err := Binaries(ctx, nil)
	if err != nil {
		return nil, err
	}
	c := &Cluster{options: o}
	if err := c.prepare(bin); err != nil {
		return nil, fmt.Errorf("prepare cluster %s: %w", o.Name, err)
	}
	if err := c.Restart(ctx); err != nil {
		c.Kill()
		return nil, err
	}
	return c, nil
}

// prepare makes keys and files and decides how the servers are run.
func (c *Cluster) prepare(bin string) (err error) {
	if c.options.Dir, err = filepath.Abs(c.options.Dir); err != nil {
		return err
	}
	keys := filepath.Join(c.options.Dir, "keys")
	if err := os.MkdirAll(keys, 0o700); err != nil {
		return err
	}
	if c.ca, err = newAuthority(keys, c.options.Name); err != nil {
		return fmt.Errorf("make an authority: %w", err)
	}
	for name, subject := range map[string]pkix.Name{"apiserver": {CommonName: "kube-apiserver"}, "etcd": {CommonName: "etcd"}} {
		if err := c.ca.issue(name, subject, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"); err != nil {
			return fmt.Errorf("issue certificate of %s: %w", name, err)
		}
	}
	if err := c.ca.signingKey("accounts"); err != nil {
		return fmt.Errorf("make the key of service accounts: %w", err)
	}
	var ports [3]string
	for i := range ports {
		if ports[i], err = child.FreePort(); err != nil {
			return err
		}
	}
	c.URL = "https://127.0.0.1:" + ports[0]
	if err := c.identities(); err != nil {
		return err
	}
	if c.config, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig); err != nil {
		return err
	}
	if c.client, err = rest.HTTPClientFor(c.config); err != nil {
		return err
	}
	c.servers = c.layout(bin, ports[0], "127.0.0.1:"+ports[1], "127.0.0.1:"+ports[2])
	return nil
}

// identities makes the users that the cluster itself needs.
func (c *Cluster) identities() (err error) {
	admin, controllers := rand.Text(), rand.Text()
	tokens := fmt.Sprintf("%s,admin,admin,\"system:masters\"\n%s,system:kube-controller-manager,controllers\n", admin, controllers)
	if err := os.WriteFile(c.ca.path("tokens.csv"), []byte(tokens), 0o600); err != nil {
		return err
	}
	if c.Kubeconfig, err = c.kubeconfig("admin", admin); err != nil {
		return err
	}
	_, err = c.kubeconfig("controllers", controllers)
	return err
}

func (c *Cluster) layout(bin, port, client, peer string) []*child.Program {
	key := c.ca.path
	etcd := []string{
		"--name=default", "--data-dir=" + filepath.Join(c.options.Dir, "etcd"), "--log-level=error",
		// A killed process loses nothing without fsync; a machine that loses power would, and nobody restarts a cluster of this package then.
		"--unsafe-no-fsync",
		"--listen-client-urls=https://" + client, "--advertise-client-urls=https://" + client,
		"--cert-file=" + key("etcd.crt"), "--key-file=" + key("etcd.key"), "--client-cert-auth", "--trusted-ca-file=" + key("ca.crt"),
		"--listen-peer-urls=https://" + peer, "--initial-advertise-peer-urls=https://" + peer, "--initial-cluster=default=https://" + peer,
		"--peer-cert-file=" + key("etcd.crt"), "--peer-key-file=" + key("etcd.key"), "--peer-client-cert-auth", "--peer-trusted-ca-file=" + key("ca.crt"),
	}
	apiserver := []string{
		"--etcd-servers=https://" + client, "--etcd-cafile=" + key("ca.crt"), "--etcd-certfile=" + key("etcd.crt"), "--etcd-keyfile=" + key("etcd.key"),
		"--bind-address=127.0.0.1", "--secure-port=" + port, "--tls-cert-file=" + key("apiserver.crt"), "--tls-private-key-file=" + key("apiserver.key"),
		"--client-ca-file=" + key("ca.crt"), "--token-auth-file=" + key("tokens.csv"), "--authorization-mode=Node,RBAC", "--anonymous-auth=false",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + key("accounts.pub"),
		"--service-account-signing-key-file=" + key("accounts.key"), "--service-cluster-ip-range=" + serviceRange, "--allow-privileged",
		// There are no nodes that would have to find the API server, and loopback is no address for them.
		"--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
		"--profiling=false", "--shutdown-delay-duration=0s", "--v=0",
	}
	servers := []*child.Program{
		c.server(bin, "etcd", etcd),
		c.server(bin, "kube-apiserver", apiserver),
	}
	if c.options.ControllerManager {
		servers = append(servers, c.server(bin, "kube-controller-manager", []string{
			"--kubeconfig=" + filepath.Join(c.options.Dir, "controllers.kubeconfig"), "--use-service-account-credentials=true",
			"--service-account-private-key-file=" + key("accounts.key"), "--root-ca-file=" + key("ca.crt"),
			"--leader-elect=false", "--secure-port=0", "--v=0",
		}))
	}
	return servers
}

func (c *Cluster) server(bin, name string, args []string) *child.Program {
	return &child.Program{Path: filepath.Join(bin, name), Args: args, Log: filepath.Join(c.options.Dir, name+".log")}
}

// Config returns a client's configuration of an administrator, without the client's own limits on requests.
func (c *Cluster) Config() *rest.Config {
	config := rest.CopyConfig(c.config)
	config.QPS = -1
	return config
}

// Controllers tells whether the cluster runs the controllers.
func (c *Cluster) Controllers() bool { return c.options.ControllerManager }

// Restart starts every server that doesn't run, on the ports and data that it had, and waits as Start does.
func (c *Cluster) Restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit, fmt.Errorf("it is not ready after %s", readyLimit))
	defer cancel()
	for _, s := range c.servers {
		if s.Running() {
			continue
		}
		if err := s.Start(); err != nil {
			return fmt.Errorf("start cluster %s: %w", c.options.Name, err)
		}
	}
	ready := func() error { return c.get(ctx, "/readyz") }
	if c.options.ControllerManager { // the service account is the work of a controller
		ready = func() error {
			return errors.Join(c.get(ctx, "/readyz"), c.get(ctx, "/api/v1/namespaces/default/serviceaccounts/default"))
		}
	}
	if err := c.wait(ctx, ready); err != nil {
		return fmt.Errorf("start cluster %s: %w", c.options.Name, err)
	}
	return nil
}

// wait waits until ready returns nil. It gives up when a server ends.
func (c *Cluster) wait(ctx context.Context, ready func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		for _, s := range c.servers {
			if !s.Running() {
				return s.Ended()
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

func (c *Cluster) get(ctx context.Context, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+path, nil)
	if err != nil {
		return err
	}
	response, err := c.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 4096))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, response.Status, body)
	}
	return err
}

// Kill ends every server at once, as when the machine is lost. Restart starts them again: what the API server confirmed is
// there.
func (c *Cluster) Kill() {
	for i := range c.servers {
		c.servers[len(c.servers)-1-i].Kill()
	}
}

// Stop asks every server to end, and kills what doesn't within some seconds. Restart starts them again.
func (c *Cluster) Stop() {
	for i := range c.servers {
		c.servers[len(c.servers)-1-i].Stop(stopLimit)
	}
}

// Logs returns the end of every server's log, n lines each, for a test that failed.
func (c *Cluster) Logs(n int) string {
	text := ""
	for _, s := range c.servers {
		text += fmt.Sprintf("--- %s of %s\n%s\n", s.Name(), c.options.Name, s.Tail(n))
	}
	return text
}

// StartAll starts several clusters beside each other. Where one fails, none is left.
func StartAll(ctx context.Context, options ...Options) ([]*Cluster, error) {
	clusters := make([]*Cluster, len(options))
	var starting errgroup.Group
	for i, o := range options {
		starting.Go(func() (err error) {
			clusters[i], err = Start(ctx, o)
			return err
		})
	}
	if err := starting.Wait(); err != nil {
		for _, c := range clusters {
			if c != nil {
				c.Kill()
			}
		}
		return nil, err
	}
	return clusters, nil
}
