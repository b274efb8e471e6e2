package rebuild

import (
	"context"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/farshore/farshore/internal/kube"
	"github.com/farshore/farshore/internal/kube/kubetest"
)

const definition = `
apiVersion: example.com/v1
kind: Widget
metadata: {name: w, namespace: NS}
spec: {size: 3}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {size: {type: integer, maximum: 5}}}}
`

// A definition and its resource come in one commit. A custom resource is only rehearsed, against the schema, unless its kind is
// listed as inert; once it isn't wanted it goes before its definition.
func TestDefinitionWithItsResource(t *testing.T) {
	c := kubetest.New(t, kube.Options{})[0]
	r, _ := start(t, c, "widgets", nil)
	r.wantClean(stateOf(t, "w", definition))
	if r.count("example.com/v1", "widgets", "w") != 0 || r.Status().HeldBack != 1 {
		t.Errorf("a custom resource was applied: %+v", r.Status())
	}
	r.Want(stateOf(t, "w", strings.ReplaceAll(definition, "size: 3", "size: 7")))
	r.until("the rehearsal says what is wrong", func() bool {
		return strings.Contains(r.refusalOf("widgets", "w"), "less than or equal to 5")
	})
	if f := r.Status().Refused; len(f) != 1 || !f[0].Held {
		t.Errorf("refused: %+v", f)
	}
	r.Update(Rules{Inert: []schema.GroupResource{{Group: "example.com", Resource: "widgets"}}})
	r.wantClean(stateOf(t, "w", definition))
	if r.get("example.com/v1", "widgets", "w", "w") == nil || r.Status().HeldBack != 0 {
		t.Errorf("an inert resource is held back: %+v", r.Status())
	}
	r.wantAll(stateOf(t, "w"))
	r.until("the definition is deleted", func() bool {
		return r.get("apiextensions.k8s.io/v1", "customresourcedefinitions", "", "widgets.example.com") == nil
	})
}

// What is refused is named with its reason and since when, holds nothing else back, and goes on by itself once it can.
func TestRefusalHoldsNothingBack(t *testing.T) {
	c := kubetest.Shared(t)
	ns := kubetest.Namespace(t, c, "refusals")
	r, _ := start(t, c, "refusals", nil)
	const bad = `
apiVersion: v1
kind: ConfigMap
metadata: {name: bad, namespace: NS}
data: {"not a key!": v}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: bad, namespace: NS}
spec: {accessModes: [ReadWriteOnce]}
---
apiVersion: none.example.com/v1
kind: Thing
metadata: {name: bad, namespace: NS}
`
	r.wantAll(stateOf(t, ns, small, bad))
	r.until("the rehearsals", func() bool { return r.Status().Refusals == 3 })
	for resource, words := range map[string]string{
		"configmaps": "a valid config key must consist of", "persistentvolumeclaims": "spec.resources[storage]: Required value",
		"things": "is its definition there?",
	} {
		if got := r.refusalOf(resource, "bad"); !strings.Contains(got, words) {
			t.Errorf("%s: %q", resource, got)
		}
	}
	since := r.Status().Refused[0].Since
	if time.Since(since) > waitLimit || r.Status().Current != 3 {
		t.Errorf("%+v", r.Status())
	}
	if got := r.counted("farshore.rebuild.writes", "apply"); got != 3 {
		t.Errorf("%d applied", got)
	}
	r.wantClean(stateOf(t, ns, small))
}

// A kubeconfig that lacks rights: what is missing is named by verb and resource, and the rest goes on.
func TestMissingRightsAreNamed(t *testing.T) {
	c := kubetest.Shared(t)
	ns := kubetest.Namespace(t, c, "rights")
	client := kubetest.Client(t, c)
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: ns}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"configmaps", "namespaces"}, Verbs: []string{"get", "list", "create", "patch", "delete"}},
		{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"get", "list"}},
	}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: ns}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: ns},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: ns}},
	}
	if _, err := client.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r, _ := start(t, c, "rights", func(o *Options) {
		o.Config = rest.CopyConfig(o.Config)
		o.Config.Impersonate = rest.ImpersonationConfig{UserName: ns, Groups: []string{"system:authenticated"}}
	})
	r.wantAll(stateOf(t, ns, small, "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: NS}"))
	if got := r.refusalOf("deployments", "web"); !strings.Contains(got, `cannot patch resource "deployments" in API group "apps"`) {
		t.Errorf("deployment: %q", got)
	}
	if got := r.refusalOf("secrets", "s"); !strings.Contains(got, `cannot list resource "secrets"`) {
		t.Errorf("secret: %q", got)
	}
	if r.get("v1", "configmaps", ns, "a") == nil {
		t.Error("a refusal held another object back")
	}
	role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"*"}})
	if _, err := client.RbacV1().ClusterRoles().Update(t.Context(), role, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.until("the right is used", func() bool { return r.get("apps/v1", "deployments", ns, "web") != nil })
}

// Secrets are opened with the identities, and what they hold is in no log and no status, whatever goes wrong.
func TestSecretsStaySecret(t *testing.T) {
	c := kubetest.Shared(t)
	ns := kubetest.Namespace(t, c, "sealed")
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	sealed := func() *state {
		s := stateOf(t, ns, small)
		s.seal(t, s.put(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: good, namespace: "+ns+"}\nstringData: {k: plain-secret}"), identity.Recipient())
		s.seal(t, s.put(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: bad, namespace: "+ns+"}\ndata: {\"a key\": cGxhaW4tc2VjcmV0}"), identity.Recipient())
		s.seal(t, s.put(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: worse, namespace: "+ns+"}\ndata: {k: plain-secret, l: {m: plain-secret}}"), identity.Recipient())
		return s
	}
	r, _ := start(t, c, "sealed", nil)
	got := r.wantAll(sealed())
	if got.Refusals != 3 || !strings.Contains(r.refusalOf("secrets", "good"), "identities") || got.Current != 3 {
		t.Errorf("without identities: %+v", got)
	}
	r.Update(Rules{Identities: []age.Identity{identity}})
	r.until("the secret is applied", func() bool { return r.get("v1", "secrets", ns, "good") != nil })
	if v := field(r.must("v1", "secrets", ns, "good"), "data", "k"); v != "cGxhaW4tc2VjcmV0" {
		t.Errorf("secret is %v", v)
	}
	r.until("the others are refused by the API server", func() bool {
		return r.Status().Refusals == 2 && !strings.Contains(r.refusalOf("secrets", "bad"), "identities") &&
			!strings.Contains(r.refusalOf("secrets", "worse"), "identities")
	})
	shown := r.log.String() + r.refusalOf("secrets", "bad") + r.refusalOf("secrets", "worse")
	if strings.Contains(shown, "plain-secret") || strings.Contains(shown, "cGxhaW4tc2VjcmV0") || r.refusalOf("secrets", "bad") == "" {
		t.Errorf("shown:\n%s", shown)
	}
}

// An API server that is down for a while is followed again by itself, with what changed meanwhile.
func TestServerDownForAWhile(t *testing.T) {
	c := kubetest.New(t, kube.Options{})[0]
	r, _ := start(t, c, "down", nil)
	r.wantClean(stateOf(t, "down", small))
	c.Kill()
	later := stateOf(t, "down", strings.ReplaceAll(small, "k: v", "k: later"))
	r.Want(later)
	r.until("the problem is told", func() bool { return r.Status().Problem != "" })
	if at := r.Status().Applied; at == nil || at.Barrier >= later.point.Barrier {
		t.Errorf("applied %+v of a server that is down", at)
	}
	if err := c.Restart(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.until("it is followed again", func() bool {
		s := r.Status()
		return s.Problem == "" && s.Applied != nil && s.Applied.Barrier == later.point.Barrier && s.Refusals == 0
	})
	if got := field(r.must("v1", "configmaps", "down", "b"), "data", "k"); got != "later" {
		t.Errorf("data is %v", got)
	}
}
