// Package objects tests what happens to a group's Kubernetes objects, end to end: the real programs as processes, two NATS servers, and
// two real API servers.
package objects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/internal/kube"
	"github.com/farshore/farshore/internal/kube/kubetest"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

// limit bounds every wait. It is long: what takes longer never comes.
const limit = 2 * time.Minute

// options shape the sites of a test.
type options struct {
	volumes     int           // 0: none
	interval    time.Duration // between barriers (200 ms)
	spec        string        // of spec.objects ("namespaces: [bank]"), without the braces
	recovery    string        // of spec.recovery.objects, without the braces
	controllers bool          // run the controllers at the DR site
	away        bool          // leave Farshore's processes to the test
}

// sites are the two sites of a group, each with an API server.
type sites struct {
	*harness.Pair
	t           *testing.T
	primary, dr *cluster
	drBus       *journal.Site // see site
}

// start starts both sites, with the namespace "bank" at the primary.
func start(t *testing.T, o options) *sites {
	t.Helper()
	clusters := kubetest.New(t, kube.Options{Name: "primary"}, kube.Options{Name: "dr", ControllerManager: o.controllers})
	s := &sites{t: t, primary: newCluster(t, clusters[0]), dr: newCluster(t, clusters[1])}
	if o.spec == "" {
		o.spec = "namespaces: [bank]"
	}
	if o.volumes == 0 {
		o.volumes = -1
	}
	if o.interval == 0 {
		o.interval = 200 * time.Millisecond
	}
	s.Pair = harness.New(t, harness.Options{Volumes: o.volumes, Size: 1 << 20, Interval: o.interval, HoldLimit: 2 * time.Second, Objects: &harness.Objects{
		Spec: braces(o.spec), Recovery: braces(o.recovery), Primary: s.primary.Kubeconfig, DR: s.dr.Kubeconfig,
	}})
	s.primary.apply(manifest("v1", "Namespace", "", "bank", ""))
	kubetest.DefaultAccount(t, s.primary.Cluster, "bank")
	if !o.away {
		s.begin()
	}
	return s
}

// begin starts Farshore's processes and waits until barriers have the objects in them.
func (s *sites) begin() {
	s.t.Helper()
	s.Start()
	s.status("the objects are a member", func(st *group.Status) error {
		if st.Objects.State != "member" {
			return errors.New("they are not")
		}
		return nil
	})
}

// site returns a connection to the DR site's server that lasts as long as the test.
func (s *sites) site() *journal.Site {
	s.t.Helper()
	if s.drBus == nil {
		s.drBus = s.DRSite(s.t.Context())
	}
	return s.drBus
}

func braces(fields string) string { return "{" + fields + "}" }

// applied makes a labelled point and waits until the DR API server was brought to it. It returns the point's barrier.
func (s *sites) applied(label string) uint64 {
	s.t.Helper()
	barrier := s.Mark(label, limit)
	s.reached(barrier)
	return barrier
}

// reached waits until the DR API server was brought to a barrier, or one behind it, and returns the status that told.
func (s *sites) reached(barrier uint64) *group.Status {
	s.t.Helper()
	return s.status(fmt.Sprintf("the DR API server is at barrier %d", barrier), func(st *group.Status) error {
		if st.Objects.Applied == nil || st.Objects.Applied.Barrier < barrier {
			return errors.New("it is not")
		}
		return nil
	})
}

// status waits until the group's status, with objects in it, passes check, and returns it.
func (s *sites) status(what string, check func(*group.Status) error) (st *group.Status) {
	s.t.Helper()
	harness.Eventually(s.t, limit, what, func() (err error) {
		if st, err = s.Status(); err != nil {
			return err
		}
		if st.Objects == nil {
			return errors.New("the status tells of no objects")
		}
		if err := check(st); err != nil {
			return fmt.Errorf("%w: %s", err, harness.Describe(st))
		}
		return nil
	})
	return st
}

// logged waits until a process has written a line with all of the words, and returns the line.
func (s *sites) logged(p *harness.Process, words ...string) (line string) {
	s.t.Helper()
	harness.Eventually(s.t, limit, fmt.Sprintf("%s says %q", p.Name, words), func() error {
		for l := range strings.Lines(p.WholeLog()) {
			all := true
			for _, w := range words {
				all = all && strings.Contains(l, w)
			}
			if all {
				line = l
				return nil
			}
		}
		return errors.New("it doesn't")
	})
	return line
}

// cluster is an API server with clients that a test needs. What it is told to do must succeed.
type cluster struct {
	*kube.Cluster
	t      *testing.T
	client dynamic.Interface
	mapper *restmapper.DeferredDiscoveryRESTMapper
}

func newCluster(t *testing.T, c *kube.Cluster) *cluster {
	t.Helper()
	found, err := discovery.NewDiscoveryClientForConfig(c.Config())
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(c.Config())
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{Cluster: c, t: t, client: client, mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(found))}
}

// resource returns the client of an object's kind.
func (c *cluster) resource(obj *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	kind := obj.GroupVersionKind()
	mapping, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) {
		c.mapper.Reset() // the kind may be new
		mapping, err = c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	}
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return c.client.Resource(mapping.Resource).Namespace(obj.GetNamespace()), nil
	}
	return c.client.Resource(mapping.Resource), nil
}

// apply makes or changes the objects of a text of YAML documents, and returns them as they are then.
func (c *cluster) apply(text string) (made []*unstructured.Unstructured) {
	c.t.Helper()
	documents := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		obj := new(unstructured.Unstructured)
		err := documents.Decode(obj)
		if errors.Is(err, io.EOF) {
			return made
		}
		if err != nil {
			c.t.Fatalf("decode a manifest: %v\n%s", err, text)
		}
		if len(obj.Object) == 0 {
			continue
		}
		var after *unstructured.Unstructured
		// A kind that was just defined is served a moment later.
		harness.Eventually(c.t, 30*time.Second, fmt.Sprintf("apply %s %s", obj.GetKind(), obj.GetName()), func() error {
			client, err := c.resource(obj)
			if err != nil {
				return err
			}
			after, err = client.Apply(c.t.Context(), obj.GetName(), obj, metav1.ApplyOptions{FieldManager: "test", Force: true})
			if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err) {
				c.t.Fatalf("apply %s %s: %v", obj.GetKind(), obj.GetName(), err)
			}
			return err
		})
		made = append(made, after)
	}
}

// get returns an object, nil where there is none.
func (c *cluster) get(kind schema.GroupVersionResource, namespace, name string) *unstructured.Unstructured {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	obj, err := c.client.Resource(kind).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		c.t.Fatalf("get %s %s/%s: %v", kind.Resource, namespace, name, err)
	}
	return obj
}

// list returns the objects of a kind in a namespace; "" means everywhere.
func (c *cluster) list(kind schema.GroupVersionResource, namespace string) []unstructured.Unstructured {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	list, err := c.client.Resource(kind).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) { // the kind isn't defined
		return nil
	}
	if err != nil {
		c.t.Fatalf("list %s of %q: %v", kind.Resource, namespace, err)
	}
	return list.Items
}

func (c *cluster) delete(kind schema.GroupVersionResource, namespace, name string) {
	c.t.Helper()
	if err := c.client.Resource(kind).Namespace(namespace).Delete(c.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		c.t.Fatalf("delete %s %s/%s: %v", kind.Resource, namespace, name, err)
	}
}

// kinds that tests name.
var (
	configMaps   = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	secrets      = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	services     = schema.GroupVersionResource{Version: "v1", Resource: "services"}
	accounts     = schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}
	pods         = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	claims       = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}
	volumes      = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumes"}
	deployments  = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	statefulSets = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "statefulsets"}
	daemonSets   = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}
	jobs         = schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}
	cronJobs     = schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "cronjobs"}
	ingresses    = schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"}
	roles        = schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"}
	widgets      = schema.GroupVersionResource{Group: "bank.example", Version: "v1", Resource: "widgets"}
	definitions  = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
)

// manifest is a YAML document. body is what stands beside its metadata, without indentation.
func manifest(version, kind, namespace, name, body string) string {
	meta := "name: " + name
	if namespace != "" {
		meta += ", namespace: " + namespace
	}
	return fmt.Sprintf("---\napiVersion: %s\nkind: %s\nmetadata: {%s, labels: {app: bank}}\n%s\n", version, kind, meta, body)
}

// config is a ConfigMap with one value.
func config(name, value string) string {
	return manifest("v1", "ConfigMap", "bank", name, fmt.Sprintf("data: {value: %q}", value))
}

// definition is the CustomResourceDefinition of a namespaced kind in the API group bank.example.
func definition(kind string) string {
	lower := strings.ToLower(kind)
	return manifest("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", lower+"s.bank.example", fmt.Sprintf(`spec:
  group: bank.example
  scope: Namespaced
  names: {plural: %[1]ss, singular: %[1]s, kind: %[2]s, listKind: %[2]sList}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}
`, lower, kind))
}

// custom is an object of a kind that definition defines.
func custom(kind, name string, size int) string {
	return manifest("bank.example/v1", kind, "bank", name, fmt.Sprintf("spec: {size: %d}", size))
}

// value returns what config gave a ConfigMap.
func value(obj *unstructured.Unstructured) string {
	if obj == nil {
		return ""
	}
	v, _, _ := unstructured.NestedString(obj.Object, "data", "value")
	return v
}
