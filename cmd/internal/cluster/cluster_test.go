package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/farshore/farshore/cmd/internal/daemon"
)

const kubeconfig = `apiVersion: v1
kind: Config
current-context: here
clusters:
- {name: a, cluster: {server: "https://a.example:6443"}}
- {name: b, cluster: {server: "https://b.example:6443"}}
contexts:
- {name: here, context: {cluster: a, user: u}}
- {name: there, context: {cluster: b, user: u}}
users:
- {name: u, user: {token: t}}
`

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfig(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	path := file(t, kubeconfig)
	t.Setenv("KUBECONFIG", path)
	for context, want := range map[string]string{"": "https://a.example:6443", "there": "https://b.example:6443"} {
		config, err := (&Flags{Kubeconfig: path, Context: context}).Config()
		if err != nil || config.Host != want {
			t.Errorf("context %q: %v, %v", context, config, err)
		}
	}
	if _, err := (&Flags{}).Config(); !errors.Is(err, ErrNone) {
		t.Errorf("nothing named: %v", err) // whatever $KUBECONFIG says
	}
	for _, f := range []Flags{
		{Kubeconfig: path, Context: "nowhere"}, {Context: "here"},
		{Kubeconfig: path + ".none"}, {Kubeconfig: file(t, "a: [")}, {Kubeconfig: file(t, "")},
	} {
		if _, err := f.Config(); daemon.ExitCode(err) != daemon.ExitUsage || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

func TestContextsAreCompleted(t *testing.T) {
	f := Flags{Kubeconfig: file(t, kubeconfig)}
	cmd := &cobra.Command{Use: "x"}
	f.Register(cmd.Flags(), "the DR site's")
	f.Kubeconfig = file(t, kubeconfig)
	f.Complete(cmd)
	complete, ok := cmd.GetFlagCompletionFunc("context")
	if !ok {
		t.Fatal("no completion")
	}
	names, _ := complete(cmd, nil, "")
	slices.Sort(names)
	if !slices.Equal(names, []string{"here", "there"}) {
		t.Errorf("completed %q", names)
	}
}
