package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/farshore/farshore/internal/kube"
)

// The values of Options.Kube.
const (
	KubeAuto = "auto" // with Kubernetes objects, unless there is nothing to build the servers from
	KubeOn   = "on"
	KubeOff  = "off"
)

// cleanUpLimit bounds how long a namespace that the demo made in a cluster of somebody's takes to go.
const cleanUpLimit = 90 * time.Second

// clusters are the Kubernetes API servers of the two sites and what the demo has in them.
type clusters struct {
	primary, dr *apiServer
	namespace   string // of the application, at the primary
	drNamespace string // of the application, at the DR site
	copied      string // of the application as it was at the labelled point, at the DR site
	key         *key   // that opens the Secrets
}

// apiServer is one of them.
type apiServer struct {
	config     *rest.Config
	kubeconfig string // path, for Farshore's processes
	client     kubernetes.Interface
	own        *kube.Cluster // started by the demo; nil: it was there before
}

// kubernetes builds and starts the API servers, or finds those that were named. It returns nil where the demo does without.
func (d *demo) kubernetes(ctx context.Context) (*clusters, error) {
	if d.options.Kube == "" || d.options.Kube == KubeOff {
		return nil, nil
	}
	c := &clusters{namespace: groupName, key: d.sites.key}
	if d.options.PrimaryContext != "" {
		d.clusters = c // from here on there is something to clean up
		return c, c.find(ctx, d.options, d.dir)
	}
	ok, err := d.servers(ctx)
	if !ok || err != nil {
		return nil, err
	}
	d.screen.say("starting two Kubernetes API servers")
	both, err := kube.StartAll(ctx,
		kube.Options{Dir: filepath.Join(d.dir, "primary", "kubernetes"), Name: "primary"},
		// The controllers are what would act on objects that aren't held.
		kube.Options{Dir: filepath.Join(d.dir, "dr", "kubernetes"), Name: "dr", ControllerManager: true})
	if err != nil {
		return nil, err
	}
	d.clusters = c
	c.drNamespace, c.copied = c.namespace, c.namespace+"-"+label
	for i, to := range []**apiServer{&c.primary, &c.dr} {
		*to = &apiServer{config: both[i].Config(), kubeconfig: both[i].Kubeconfig, own: both[i]}
	}
	return c, c.connect()
}

// servers makes sure that the programs are there, and tells whether they are.
func (d *demo) servers(ctx context.Context) (bool, error) {
	if !kube.Built() {
		d.screen.say("building the Kubernetes servers: about 5 minutes on 2 cores, this once; --kube=off (make demo KUBE=off) does without")
	}
	_, err := kube.Binaries(ctx, func(p kube.Progress) { d.screen.progress(p.String()) })
	if errors.Is(err, kube.ErrNoSource) && d.options.Kube != KubeOn {
		d.screen.say("Kubernetes objects are left out: %v", err)
		return false, nil
	}
	return err == nil, err
}

// key is an age identity that only the DR site has.
type key struct {
	recipient string
	path      string // of the file with the identity
}

func newKey(path string) (*key, error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	return &key{identity.Recipient().String(), path}, os.WriteFile(path, []byte(identity.String()+"\n"), 0o600)
}

// find looks up the clusters that were named. Nothing of theirs is used but namespaces that the demo makes.
func (c *clusters) find(ctx context.Context, o Options, dir string) error {
	c.namespace = "farshore-demo-" + rand.String(5)
	c.drNamespace, c.copied = c.namespace, c.namespace+"-"+label
	for _, s := range []struct {
		to            **apiServer
		site, context string
	}{{&c.primary, "primary", o.PrimaryContext}, {&c.dr, "dr", o.DRContext}} {
		path := filepath.Join(dir, s.site, "kubeconfig")
		config, err := extract(o.Kubeconfig, s.context, path)
		if err != nil {
			return fmt.Errorf("use context %s: %w", s.context, err)
		}
		*s.to = &apiServer{config: config, kubeconfig: path}
	}
	if c.primary.config.Host == c.dr.config.Host {
		c.drNamespace += "-dr" // one cluster plays both sites
	}
	if err := c.connect(); err != nil {
		return err
	}
	for _, s := range []*apiServer{c.primary, c.dr} {
		ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
		_, err := s.client.CoreV1().Namespaces().Get(ctx, c.namespace, metav1.GetOptions{})
		cancel()
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("reach the API server %s: %w", s.config.Host, err)
		}
	}
	return nil
}

// extract writes one context of a kubeconfig into a file of its own.
func extract(kubeconfig, name, into string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules() // the operator names the context: theirs is the right file
	rules.ExplicitPath = kubeconfig
	all, err := rules.Load()
	if err != nil {
		return nil, err
	}
	if all.Contexts[name] == nil {
		return nil, errors.New("the kubeconfig has no such context")
	}
	all.CurrentContext = name
	if err := clientcmdapi.MinifyConfig(all); err != nil {
		return nil, err
	}
	if err := clientcmdapi.FlattenConfig(all); err != nil {
		return nil, err
	}
	if err := clientcmd.WriteToFile(*all, into); err != nil {
		return nil, err
	}
	return clientcmd.BuildConfigFromFlags("", into)
}

func (c *clusters) connect() (err error) {
	for _, s := range []*apiServer{c.primary, c.dr} {
		s.config.WarningHandler = rest.NoWarnings{}
		if s.client, err = kubernetes.NewForConfig(s.config); err != nil {
			return err
		}
	}
	return nil
}

// spec is what the document says about the objects; recovery is its part about the DR site.
func (c *clusters) spec() string {
	return fmt.Sprintf("  objects:\n    namespaces: [%s]\n    recipients: [%s]\n", c.namespace, c.key.recipient)
}

func (c *clusters) recovery() string {
	text := fmt.Sprintf("    objects:\n      identities: [%q]\n", c.key.path)
	if c.drNamespace != c.namespace {
		text += fmt.Sprintf("      namespaces: {%s: %s}\n", c.namespace, c.drNamespace)
	}
	return text
}

// replay are the arguments with which a point's objects are recovered: the labelled one's beside what follows the newest.
func (c *clusters) replay(target string) []string {
	if c == nil {
		return nil
	}
	args := []string{"--identity", c.key.path}
	if target == label {
		args = append(args, "--into-namespace", c.copied, "--kubeconfig", c.dr.kubeconfig)
	}
	return args
}

// foreign tells whether the API servers were there before the demo.
func (c *clusters) foreign() bool { return c.dr != nil && c.dr.own == nil }

// lose ends the primary's API server, where it is the demo's own.
func (c *clusters) lose() {
	if c != nil && c.primary.own != nil {
		c.primary.own.Kill()
	}
}

// close ends the demo's own servers and removes its namespaces from those of others.
func (c *clusters) close() error {
	var problems []error
	for _, s := range []*apiServer{c.primary, c.dr} {
		switch {
		case s == nil:
		case s.own != nil:
			s.own.Kill()
		case s.client != nil:
			problems = append(problems, s.remove(c.namespace, c.drNamespace, c.copied))
		}
	}
	return errors.Join(problems...)
}

// remove deletes namespaces and waits until they are gone.
func (s *apiServer) remove(namespaces ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpLimit)
	defer cancel()
	api := s.client.CoreV1().Namespaces()
	var left []string
	for _, name := range namespaces {
		if err := api.Delete(ctx, name, metav1.DeleteOptions{}); err == nil {
			left = append(left, name)
		} else if !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete namespace %s at %s: %w", name, s.config.Host, err)
		}
	}
	for len(left) > 0 {
		if _, err := api.Get(ctx, left[0], metav1.GetOptions{}); apierrors.IsNotFound(err) {
			left = left[1:]
			continue
		}
		if wait(ctx, 200*time.Millisecond) != nil {
			return fmt.Errorf("the namespaces %s at %s are being deleted and not gone yet", strings.Join(left, ", "), s.config.Host)
		}
	}
	return nil
}
