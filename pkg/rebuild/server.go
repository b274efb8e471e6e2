package rebuild

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
)

const (
	// requestLimit bounds one request: a server that accepts connections and answers nothing counts as down.
	requestLimit = 30 * time.Second
	// page is how many objects a list asks for at a time.
	page = 500
	// absent is a resourceVersion that no object can have: stores begin at 1 and the first write gives 2. An apply with it
	// creates an object that isn't there, and conflicts with one that is.
	absent = "1"
)

// server is the DR site's API server. Its methods may be called concurrently.
type server struct {
	meta    metadata.Interface
	objects dynamic.Interface
	kinds   discovery.DiscoveryInterface
}

func newServer(config *rest.Config) (*server, error) {
	c := rest.CopyConfig(config)
	c.QPS = -1 // the server has its own priority and fairness
	c.Timeout = requestLimit
	c.UserAgent = FieldManager
	c.WarningHandler, c.WarningHandlerWithContext = rest.NoWarnings{}, nil // deprecated kinds are the application's matter
	m, err := metadata.NewForConfig(c)
	if err != nil {
		return nil, fmt.Errorf("connect to API server: %w", err)
	}
	d, err := dynamic.NewForConfig(c)
	if err != nil {
		return nil, fmt.Errorf("connect to API server: %w", err)
	}
	k, err := discovery.NewDiscoveryClientForConfig(c)
	if err != nil {
		return nil, fmt.Errorf("connect to API server: %w", err)
	}
	return &server{meta: m, objects: d, kinds: k}, nil
}

// errExists means that an object that should be created is there already.
var errExists = errors.New("exists already")

// errReplaced means that the object isn't the one of the UID that was expected.
var errReplaced = errors.New("is not the one that was made")

// apply sends an object. Without uid it creates one, and is errExists where there is one already; with uid it changes
// that one, and is errReplaced where there is none or another one. dry: nothing is stored.
func (s *server) apply(ctx context.Context, p *prepared, uid string, dry bool) (*metav1.PartialObjectMetadata, error) {
	obj := maps.Clone(p.obj)
	meta, _ := obj["metadata"].(map[string]any)
	meta = maps.Clone(meta)
	if uid == "" {
		meta["resourceVersion"] = absent
	} else {
		meta["uid"] = uid
	}
	obj["metadata"] = meta
	body, err := json.Marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("encode object: %w", err)
	}
	force := true
	o := metav1.PatchOptions{FieldManager: FieldManager, Force: &force}
	if dry {
		o.DryRun = []string{metav1.DryRunAll}
	}
	out, err := s.meta.Resource(p.gvr).Namespace(p.ref.Namespace).Patch(ctx, p.ref.Name, types.ApplyPatchType, body, o)
	switch {
	case err == nil:
		return out, nil
	case uid == "" && apierrors.IsConflict(err):
		return nil, errExists
	case uid != "" && (apierrors.IsConflict(err) || blames(err, "metadata.uid")):
		return nil, errReplaced
	}
	return nil, err
}

// get returns an object, nil where there is none.
func (s *server) get(ctx context.Context, p *prepared) (*unstructured.Unstructured, error) {
	u, err := s.objects.Resource(p.gvr).Namespace(p.ref.Namespace).Get(ctx, p.ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return u, err
}

// head is get of the metadata alone.
func (s *server) head(ctx context.Context, gvr schema.GroupVersionResource, namespace, name string) (*metav1.PartialObjectMetadata, error) {
	m, err := s.meta.Resource(gvr).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return m, err
}

// remove deletes the object of that UID and resourceVersion; errReplaced where it isn't that any more.
func (s *server) remove(ctx context.Context, gvr schema.GroupVersionResource, namespace, name string, uid types.UID, revision string) error {
	background := metav1.DeletePropagationBackground
	err := s.meta.Resource(gvr).Namespace(namespace).Delete(ctx, name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &revision}, PropagationPolicy: &background,
	})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case apierrors.IsConflict(err):
		return errReplaced
	}
	return err
}

// each calls do for every object of a resource that selector selects, page by page.
func (s *server) each(ctx context.Context, gvr schema.GroupVersionResource, selector string, do func(*unstructured.Unstructured)) error {
	o := metav1.ListOptions{LabelSelector: selector, Limit: page}
	for {
		list, err := s.objects.Resource(gvr).List(ctx, o)
		if err != nil {
			return err
		}
		for i := range list.Items {
			do(&list.Items[i])
		}
		if o.Continue = list.GetContinue(); o.Continue == "" {
			return nil
		}
	}
}

// eachHead is each of the metadata alone; namespace "" is all of them.
func (s *server) eachHead(ctx context.Context, gvr schema.GroupVersionResource, namespace, selector string, do func(*metav1.PartialObjectMetadata)) error {
	o := metav1.ListOptions{LabelSelector: selector, Limit: page}
	for {
		list, err := s.meta.Resource(gvr).Namespace(namespace).List(ctx, o)
		if err != nil {
			return err
		}
		for i := range list.Items {
			do(&list.Items[i])
		}
		if o.Continue = list.Continue; o.Continue == "" {
			return nil
		}
	}
}

// served is a resource that the API server serves.
type served struct {
	gvr        schema.GroupVersionResource
	namespaced bool
}

// resources lists what the API server serves and objects can be made of. Groups that can't be discovered, such as those of an
// aggregated server that is down, are left out.
func (s *server) resources(ctx context.Context) ([]served, error) {
	lists, err := discovery.ServerPreferredResourcesWithContext(ctx, discovery.ToDiscoveryInterfaceWithContext(s.kinds))
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return nil, err
	}
	var out []served
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range l.APIResources {
			verbs := strings.Join(r.Verbs, " ") + " "
			if strings.Contains(r.Name, "/") || !strings.Contains(verbs, "list ") || !strings.Contains(verbs, "patch ") {
				continue
			}
			out = append(out, served{gv.WithResource(r.Name), r.Namespaced})
		}
	}
	return out, nil
}

// down tells whether err says something of the API server and not of the request: it can't be reached, or doesn't know us.
func down(err error) bool {
	if err == nil || errors.Is(err, errExists) || errors.Is(err, errReplaced) {
		return false
	}
	var own refused
	var status apierrors.APIStatus
	return !errors.As(err, &own) && (!errors.As(err, &status) || apierrors.IsUnauthorized(err))
}

// blames tells whether a refusal names a field.
func blames(err error, field string) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return false
	}
	for _, c := range status.Status().Details.Causes {
		if c.Field == field {
			return true
		}
	}
	return false
}

// fixed are what API servers say of a field that can't change.
var fixed = []string{"immutable", "may not change", "may not be changed", "cannot change", "cannot be changed", "cannot be updated", "updates to "}

// immutable tells whether err refuses to change something that exists.
func immutable(err error) bool {
	if !apierrors.IsInvalid(err) {
		return false
	}
	for _, words := range fixed {
		if strings.Contains(err.Error(), words) {
			return true
		}
	}
	return false
}

// reasonOf tells people why a request was refused. Of a Secret it names fields and never quotes: a message could hold a value.
func reasonOf(ref Ref, err error) string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return err.Error()
	}
	s := status.Status()
	switch {
	case apierrors.IsNotFound(err) && (s.Details == nil || s.Details.Name == ""):
		return fmt.Sprintf("the API server has no %s in %s/%s: is its definition there?", ref.Resource, ref.Group, ref.Version)
	case apierrors.IsForbidden(err):
		return s.Message // names verb, resource and user
	case ref.Kind != "Secret":
		return s.Message
	}
	var fields []string
	if s.Details != nil {
		for _, c := range s.Details.Causes {
			fields = append(fields, c.Field)
		}
	}
	return strings.TrimSpace(fmt.Sprintf("the API server says %d %s %s; its words are not shown, they could quote the Secret",
		s.Code, s.Reason, strings.Join(fields, ", ")))
}
