// Package kubernetes holds what the sites' clusters need.
package kubernetes

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/farshore/farshore/internal/kube"
	"github.com/farshore/farshore/internal/kube/kubetest"
)

func TestMain(m *testing.M) { os.Exit(kubetest.Main(m)) }

// hand is somebody who works with the cluster.
type hand struct {
	client dynamic.Interface
	mapper meta.RESTMapper
}

func newHand(t *testing.T, config *rest.Config) hand {
	t.Helper()
	d, err := discovery.NewDiscoveryClientForConfig(config)
	must(t, err)
	groups, err := restmapper.GetAPIGroupResources(d)
	must(t, err)
	client, err := dynamic.NewForConfig(config)
	must(t, err)
	return hand{client, restmapper.NewDiscoveryRESTMapper(groups)}
}

// as returns the cluster as a service account of the manifests sees it.
func as(t *testing.T, c *kube.Cluster, account string) hand {
	t.Helper()
	path, err := c.User("system:serviceaccount:farshore:"+account, "system:serviceaccounts", "system:serviceaccounts:farshore")
	must(t, err)
	config, err := clientcmd.BuildConfigFromFlags("", path)
	must(t, err)
	return newHand(t, config)
}

func (h hand) resource(t *testing.T, obj *unstructured.Unstructured) dynamic.ResourceInterface {
	t.Helper()
	gvk := obj.GroupVersionKind()
	m, err := h.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	must(t, err)
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		return h.client.Resource(m.Resource).Namespace(obj.GetNamespace())
	}
	return h.client.Resource(m.Resource)
}

func (h hand) apply(ctx context.Context, t *testing.T, obj *unstructured.Unstructured, dryRun ...string) error {
	t.Helper()
	_, err := h.resource(t, obj).Apply(ctx, obj.GetName(), obj, metav1.ApplyOptions{FieldManager: "farshore", DryRun: dryRun})
	return err
}

func manifests(t *testing.T, text []byte) (out []*unstructured.Unstructured) {
	t.Helper()
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096); ; {
		obj := new(unstructured.Unstructured)
		err := d.Decode(&obj.Object)
		if errors.Is(err, io.EOF) {
			return out
		}
		must(t, err)
		out = append(out, obj)
	}
}

// install applies a file as its README says, and waits until its rights are in force.
func install(t *testing.T, file string) (*kube.Cluster, hand) {
	t.Helper()
	c := kubetest.Shared(t)
	admin := newHand(t, c.Config())
	text, err := os.ReadFile(file)
	must(t, err)
	bank := manifests(t, []byte("{apiVersion: v1, kind: Namespace, metadata: {name: bank}}"))
	for _, obj := range append(bank, manifests(t, text)...) {
		must(t, admin.apply(deadline(t), t, obj))
	}
	return c, admin
}

// The capturer may list and watch all in the group's namespaces, what this can need outside, and its Lease; nothing else.
func TestRightsOfTheCapturer(t *testing.T) {
	c, _ := install(t, "capturer.yaml")
	me := as(t, c, "farshore-capturer")
	may := func(want bool, verb, group, resource, namespace string) {
		t.Helper()
		review := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
			"spec": map[string]any{"resourceAttributes": map[string]any{"verb": verb, "group": group, "resource": resource, "namespace": namespace}},
		}}
		got := !want
		for ctx := deadline(t); got != want && ctx.Err() == nil; {
			out, err := me.resource(t, review).Create(ctx, review, metav1.CreateOptions{})
			must(t, err)
			got, _, _ = unstructured.NestedBool(out.Object, "status", "allowed")
			if got != want && !want {
				break // more rights don't go away
			}
		}
		if got != want {
			t.Errorf("may %s %s.%s in %q: %v", verb, resource, group, namespace, got)
		}
	}
	for _, verb := range []string{"list", "watch"} {
		may(true, verb, "", "secrets", "bank")
		may(true, verb, "example.com", "things", "bank")
		may(true, verb, "", "persistentvolumes", "")
		may(true, verb, "rbac.authorization.k8s.io", "clusterrolebindings", "")
		may(true, verb, "apiregistration.k8s.io", "apiservices", "")
		may(false, verb, "", "secrets", "default")
		may(false, verb, "", "secrets", "")
		may(false, verb, "", "nodes", "")
	}
	for _, verb := range []string{"create", "update", "patch", "delete"} {
		may(false, verb, "", "configmaps", "bank")
	}
	may(false, "get", "", "secrets", "bank")
	for _, verb := range []string{"get", "create", "update"} {
		may(true, verb, "coordination.k8s.io", "leases", "farshore")
	}
	may(false, "update", "coordination.k8s.io", "leases", "kube-system")
}

// made is one of each sort that an applier makes.
const made = `
{apiVersion: v1, kind: Namespace, metadata: {name: bank}}
---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: things.example.com}, spec: {group: example.com, scope: Namespaced,
 names: {plural: things, kind: Thing}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: mighty}, rules: [{apiGroups: ["*"], resources: ["*"], verbs: ["*"]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: mighty}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: mighty},
 subjects: [{kind: ServiceAccount, name: runner, namespace: bank}]}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: fast}, provisioner: example.com/disk}
---
{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: urgent}, value: 5}
---
{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: sandbox}, handler: h}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: web}, spec: {controller: example.com/c}}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: hook}, webhooks: []}
---
{apiVersion: v1, kind: PersistentVolume, metadata: {name: pv}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /x}}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: runner, namespace: bank}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: r, namespace: bank}, rules: [{apiGroups: ["*"], resources: ["*"], verbs: ["*"]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: r, namespace: bank}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: c, namespace: bank}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: bank}, data: {a: b}}
---
{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: bank}, stringData: {a: b}}
---
{apiVersion: v1, kind: Service, metadata: {name: s, namespace: bank}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: p, namespace: bank}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: bank}, spec: {replicas: 0, selector: {matchLabels: {a: b}},
 template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: c, namespace: bank}, spec: {schedule: "* * * * *", suspend: true,
 jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: np, namespace: bank}, spec: {podSelector: {}}}
---
{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: p, namespace: bank}, spec: {minAvailable: 1, selector: {matchLabels: {a: b}}}}
---
{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: h, namespace: bank}, spec: {maxReplicas: 2, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e, namespace: bank}, addressType: IPv4, endpoints: []}`

// The applier may rehearse, make, find, read and delete one of each sort; roles that are mightier than itself, too. Where it is
// not bound it may make nothing.
func TestRightsOfTheApplier(t *testing.T) {
	c, _ := install(t, "applier.yaml")
	me := as(t, c, "farshore-applier")
	all := manifests(t, []byte(made))
	for _, obj := range all {
		// The namespace may just have been made: rights and admission lag by a moment.
		err := errors.New("not tried")
		for ctx := deadline(t); err != nil && ctx.Err() == nil; {
			if err = me.apply(ctx, t, obj, metav1.DryRunAll); err == nil {
				err = me.apply(ctx, t, obj)
			}
		}
		if err != nil {
			t.Errorf("make %s %s: %v", obj.GetKind(), obj.GetName(), err)
			continue
		}
		if _, err := me.resource(t, obj).Get(deadline(t), obj.GetName(), metav1.GetOptions{}); err != nil {
			t.Errorf("read %s %s: %v", obj.GetKind(), obj.GetName(), err)
		}
		m, err := me.mapper.RESTMapping(obj.GroupVersionKind().GroupKind())
		must(t, err)
		if _, err := me.client.Resource(m.Resource).List(deadline(t), metav1.ListOptions{LabelSelector: "farshore.dev/group=bank"}); err != nil {
			t.Errorf("list %s everywhere: %v", m.Resource.Resource, err)
		}
	}
	for _, obj := range all {
		if obj.GetNamespace() == "" {
			continue
		}
		elsewhere := obj.DeepCopy()
		elsewhere.SetNamespace("default")
		if err := me.apply(deadline(t), t, elsewhere, metav1.DryRunAll); !apierrors.IsForbidden(err) {
			t.Errorf("make %s in another namespace: %v", obj.GetKind(), err)
		}
	}
	for i := len(all) - 1; i > 0; i-- {
		if err := me.resource(t, all[i]).Delete(deadline(t), all[i].GetName(), metav1.DeleteOptions{}); err != nil {
			t.Errorf("delete %s %s: %v", all[i].GetKind(), all[i].GetName(), err)
		}
	}
}

// Both manifests name the kinds that can be needed from outside a namespace, and the same.
func TestSameKindsOnBothShores(t *testing.T) {
	kinds := func(file, role string) string {
		text, err := os.ReadFile(file)
		must(t, err)
		var out []string
		for _, obj := range manifests(t, text) {
			if obj.GetKind() != "ClusterRole" || obj.GetName() != role {
				continue
			}
			rules, _, err := unstructured.NestedSlice(obj.Object, "rules")
			must(t, err)
			for _, r := range rules {
				resources, _, err := unstructured.NestedStringSlice(r.(map[string]any), "resources")
				must(t, err)
				out = append(out, resources...)
			}
		}
		return strings.Join(out, " ")
	}
	a, b := kinds("capturer.yaml", "farshore-capturer"), kinds("applier.yaml", "farshore-applier")
	if a == "" || a != b {
		t.Errorf("the capturer reads %s\nthe applier makes %s", a, b)
	}
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
