package objects

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/group"
)

// binding gives a user a ClusterRole in the namespace "bank", or everywhere.
func binding(user, role string, everywhere bool) string {
	kind, namespace := "RoleBinding", "bank"
	if everywhere {
		kind, namespace = "ClusterRoleBinding", ""
	}
	return manifest("rbac.authorization.k8s.io/v1", kind, namespace, user+"-"+role, fmt.Sprintf(`roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %q}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: %q}]
`, role, user))
}

// A watcher whose kubeconfig gives no rights says which verb on which resource it lacks. As rights are given it goes on without a
// restart, and names what is still missing.
func TestWatcherWithoutRights(t *testing.T) {
	s := start(t, options{away: true})
	s.primary.apply(config("settings", "1") + manifest("v1", "Secret", "bank", "key", "stringData: {value: x}"))
	kubeconfig, err := s.primary.User("watcher")
	if err != nil {
		t.Fatal(err)
	}
	poor := s.AnotherWatcher("poor", kubeconfig)
	for _, p := range s.All() {
		if p != s.Watcher {
			p.Start()
		}
	}
	poor.Start()
	s.logged(poor, "leases", "bank")
	line := s.logged(poor, "forbidden")
	if !strings.Contains(line, "leases") || !strings.Contains(line, "get") && !strings.Contains(line, "create") {
		t.Errorf("the line names no verb on leases: %s", line)
	}
	s.primary.apply(binding("watcher", "leases", false) + manifest("rbac.authorization.k8s.io/v1", "ClusterRole", "", "leases",
		`rules: [{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update, patch]}]`))
	s.logged(poor, "list", "secrets")
	s.logged(poor, "list", "configmaps")
	// All but Secrets.
	s.primary.apply(binding("watcher", "most", true) + manifest("rbac.authorization.k8s.io/v1", "ClusterRole", "", "most",
		`rules:
- {apiGroups: [""], resources: [configmaps, namespaces, serviceaccounts, services, persistentvolumeclaims, persistentvolumes, pods], verbs: [get, list, watch]}
- {apiGroups: [apps, batch, policy, autoscaling, apiextensions.k8s.io, networking.k8s.io, rbac.authorization.k8s.io, storage.k8s.io, scheduling.k8s.io, node.k8s.io], resources: ["*"], verbs: [get, list, watch]}
`))
	harness.Eventually(t, limit, "what may be read arrives", func() error {
		if got := value(s.dr.get(configMaps, "bank", "settings")); got != "1" {
			return fmt.Errorf("the ConfigMap has %q", got)
		}
		return nil
	})
	if obj := s.dr.get(secrets, "bank", "key"); obj != nil {
		t.Error("a Secret that may not be read is at the DR site")
	}
	s.primary.apply(binding("watcher", "view-secrets", true) + manifest("rbac.authorization.k8s.io/v1", "ClusterRole", "", "view-secrets",
		`rules: [{apiGroups: [""], resources: [secrets], verbs: [get, list, watch]}]`))
	harness.Eventually(t, limit, "the Secret arrives", func() error {
		if s.dr.get(secrets, "bank", "key") == nil {
			return errors.New("it is not there")
		}
		return nil
	})
}

// An applier whose kubeconfig gives no rights says in the group's status which verb on which resource it lacks, and holds nothing else back.
func TestApplierWithoutRights(t *testing.T) {
	s := start(t, options{away: true, volumes: 1})
	kubeconfig, err := s.dr.User("applier")
	if err != nil {
		t.Fatal(err)
	}
	s.Applier.Kubeconfig(kubeconfig)
	s.primary.apply(config("settings", "1"))
	s.begin()
	s.Recovered("first", limit)
	lacks := func(words ...string) {
		t.Helper()
		s.status(fmt.Sprintf("the status says %q", words), func(st *group.Status) error {
			text := st.Objects.Problem
			for _, r := range st.Objects.Refused {
				text += "\n" + r.Resource + " " + r.Name + " " + r.Reason
			}
			for line := range strings.Lines(text) {
				if contains(line, words...) {
					return nil
				}
			}
			return errors.New("it doesn't")
		})
	}
	lacks("configmaps", "forbidden")
	s.dr.apply(binding("applier", "reader", true) + manifest("rbac.authorization.k8s.io/v1", "ClusterRole", "", "reader",
		`rules: [{apiGroups: ["*"], resources: ["*"], verbs: [get, list, watch]}]`))
	lacks("cannot", "namespaces")
	s.dr.apply(binding("applier", "cluster-admin", true))
	harness.Eventually(t, limit, "the object is applied", func() error {
		if got := value(s.dr.get(configMaps, "bank", "settings")); got != "1" {
			return fmt.Errorf("it has %q", got)
		}
		return nil
	})
}

func contains(text string, words ...string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}
