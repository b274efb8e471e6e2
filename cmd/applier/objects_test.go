package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/farshore/farshore/cmd/internal/cluster"
	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/release"
)

// document captures objects; more is put into spec.recovery.objects.
func document(t *testing.T, more string) *group.Group {
	t.Helper()
	g, err := group.Parse([]byte(`
apiVersion: farshore.dev/v1alpha1
kind: ProtectionGroup
metadata: {name: bank}
spec:
  objects: {namespaces: [bank]}
  recovery: {objects: {` + more + `}}
`))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// An identity that can't be used is refused at the start with its path in the document, and nothing of it is quoted.
func TestIdentities(t *testing.T) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	good, bad := filepath.Join(t.TempDir(), "good"), filepath.Join(t.TempDir(), "bad")
	for path, text := range map[string]string{good: "# made today\n" + identity.String() + "\n", bad: identity.String()[:40]} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rules, err := rulesOf(document(t, "identities: ["+good+"], inert: [{group: example.com, resource: widgets}]"))
	if err != nil || len(rules.Identities) != 1 || len(rules.Inert) != 1 || rules.Transform == nil {
		t.Errorf("%+v, %v", rules, err)
	}
	for _, path := range []string{bad, good + ".none"} {
		_, err = rulesOf(document(t, "identities: ["+good+", "+path+"]"))
		if daemon.ExitCode(err) != daemon.ExitUsage || !strings.Contains(err.Error(), "spec.recovery.objects.identities[1]: ") ||
			strings.Contains(err.Error(), identity.String()[:20]) {
			t.Errorf("%s: %v", filepath.Base(path), err)
		}
	}
}

// Without an API server the applier says what to do; where the document wants none it needs none.
func TestWithoutAnAPIServer(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	_, err := newApplied(&daemon.Env{Group: document(t, "")}, nil, cluster.Flags{})
	if daemon.ExitCode(err) != daemon.ExitUsage || !strings.Contains(err.Error(), "--kubeconfig") || !strings.Contains(err.Error(), "spec.recovery.objects.apply") {
		t.Errorf("%v", err)
	}
	g := document(t, "apply: false")
	if a, err := newApplied(&daemon.Env{Group: g}, nil, cluster.Flags{}); a != nil || err != nil {
		t.Errorf("%v, %v", a, err)
	}
	if _, err := withoutObjects(g).Plan(context.Background()); !errors.Is(err, release.ErrNone) || !strings.Contains(err.Error(), "apply is false") {
		t.Errorf("%v", err)
	}
}
