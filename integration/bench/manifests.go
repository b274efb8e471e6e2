package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/barrier"
	"github.com/farshore/farshore/pkg/group"
)

const benchNamespace = "bench"

var (
	namespaces  = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	configMaps  = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	secrets     = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	services    = schema.GroupVersionResource{Version: "v1", Resource: "services"}
	accounts    = schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}
	deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	roles       = schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"}
	bindings    = schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"}
)

// kinds are those of mixedObjects.
var kinds = []schema.GroupVersionResource{configMaps, secrets, services, accounts, deployments, roles, bindings}

// object is something to create.
type object struct {
	resource schema.GroupVersionResource
	kind     string
	name     string
	fields   string // JSON beside its metadata
}

// mixedObjects are n objects of what an application consists of: of 20, eight ConfigMaps, three Secrets, three
// Deployments, two Services, two service accounts, a Role and its binding.
func mixedObjects(n int) []object {
	var out []object
	for i := 0; len(out) < n; i++ {
		for j := range 8 {
			out = append(out, configOf(i*8+j, 1<<10))
		}
		for j := range 3 {
			id := i*3 + j
			out = append(out,
				object{secrets, "Secret", fmt.Sprint("secret-", id), fmt.Sprintf(`"data": {"key": %q}`, base64.StdEncoding.EncodeToString([]byte(filler(64))))},
				object{deployments, "Deployment", fmt.Sprint("app-", id), fmt.Sprintf(`"spec": {"replicas": 2, "selector": {"matchLabels": {"app": "app-%[1]d"}}, "template": {
					"metadata": {"labels": {"app": "app-%[1]d"}}, "spec": {"serviceAccountName": "account-%[2]d", "containers": [{"name": "main", "image": "registry.example/app:%[1]d",
					"envFrom": [{"configMapRef": {"name": "config-%[1]d"}}, {"secretRef": {"name": "secret-%[1]d"}}],
					"resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]}}}`, id, i*2)})
		}
		for j := range 2 {
			id := i*2 + j
			out = append(out,
				object{services, "Service", fmt.Sprint("service-", id), fmt.Sprintf(`"spec": {"clusterIP": "None", "selector": {"app": "app-%d"}, "ports": [{"port": 80}]}`, id)},
				object{accounts, "ServiceAccount", fmt.Sprint("account-", id), `"automountServiceAccountToken": false`})
		}
		out = append(out,
			object{roles, "Role", fmt.Sprint("role-", i), `"rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "watch"]}]`},
			object{bindings, "RoleBinding", fmt.Sprint("binding-", i), fmt.Sprintf(`"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "role-%d"},
				"subjects": [{"kind": "ServiceAccount", "name": "account-%d", "namespace": %q}]`, i, i*2, benchNamespace)})
	}
	return out[:n]
}

func configOf(i, size int) object {
	return object{configMaps, "ConfigMap", fmt.Sprint("config-", i), fmt.Sprintf(`"data": {"text": %q}`, filler(size))}
}

// filler is random and doesn't compress to nothing.
func filler(n int) string {
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(strconv.FormatUint(rand.Uint64(), 36))
	}
	return b.String()[:n]
}

// create makes the namespace, if it isn't there, and the objects in it.
func create(ctx context.Context, client dynamic.Interface, objects []object) error {
	if _, err := client.Resource(namespaces).Get(ctx, benchNamespace, metav1.GetOptions{}); err != nil {
		ns := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": benchNamespace}}}
		if _, err := client.Resource(namespaces).Create(ctx, ns, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create namespace %s: %w", benchNamespace, err)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for _, o := range objects {
		g.Go(func() error {
			obj := new(unstructured.Unstructured)
			if err := json.Unmarshal(fmt.Appendf(nil, `{"apiVersion": %q, "kind": %q, "metadata": {"name": %q, "namespace": %q}, %s}`,
				o.resource.GroupVersion(), o.kind, o.name, benchNamespace, o.fields), &obj.Object); err != nil {
				return fmt.Errorf("decode %s %s: %w", o.kind, o.name, err)
			}
			if _, err := client.Resource(o.resource).Namespace(benchNamespace).Create(ctx, obj, metav1.CreateOptions{}); err != nil {
				return fmt.Errorf("create %s %s: %w", o.kind, o.name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// versions are the resourceVersions of all objects of the namespace.
func versions(ctx context.Context, client dynamic.Interface) (map[string]string, error) {
	out := make(map[string]string)
	for _, kind := range kinds {
		list, err := client.Resource(kind).Namespace(benchNamespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", kind.Resource, err)
		}
		for _, o := range list.Items {
			out[kind.Resource+"/"+o.GetName()] = o.GetResourceVersion()
		}
	}
	return out, nil
}

// watchedBytes is the JSON of what is watched, as it is stored: without managedFields.
func watchedBytes(ctx context.Context, client dynamic.Interface) (sum int64, err error) {
	for _, kind := range kinds {
		list, err := client.Resource(kind).Namespace(benchNamespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return 0, fmt.Errorf("list %s: %w", kind.Resource, err)
		}
		for _, o := range list.Items {
			o.SetManagedFields(nil)
			raw, err := o.MarshalJSON()
			if err != nil {
				return 0, err
			}
			sum += int64(len(raw))
		}
	}
	return sum, nil
}

// changeOf tells which change an object shows, -1 where none.
func changeOf(o *unstructured.Unstructured) int {
	value, _, _ := unstructured.NestedString(o.Object, "data", "change")
	n, err := strconv.Atoi(value)
	if err != nil {
		return -1
	}
	return n
}

// point makes a labelled recovery point and returns its barrier. It waits for the objects to be a member.
func (s *objectSites) point(ctx context.Context) (uint64, error) {
	deadline := time.Now().Add(objectsLimit)
	for {
		commit, err := barrier.RequestMark(ctx, s.primary.Conn(), harness.Group, "bench", 30*time.Second)
		switch {
		case err == nil && commit.Objects != nil:
			return commit.Token.Barrier, nil
		case time.Now().After(deadline):
			return 0, fmt.Errorf("make a point with objects: %w", errors.Join(err, ctx.Err()))
		case ctx.Err() != nil:
			return 0, ctx.Err()
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// reached waits until the DR API server was brought to a barrier, or one behind it.
func (s *objectSites) reached(ctx context.Context, barrier uint64) (*group.Status, error) {
	deadline := time.Now().Add(objectsLimit)
	for {
		st, err := s.Status()
		switch {
		case err == nil && st.Objects != nil && st.Objects.Applied != nil && st.Objects.Applied.Barrier >= barrier:
			return st, nil
		case time.Now().After(deadline):
			return nil, fmt.Errorf("wait for barrier %d at the DR API server: %w; %s", barrier, errors.Join(err, errors.New("it is not there")), harness.Describe(st))
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
		pause(ctx, 20*time.Millisecond)
	}
}
