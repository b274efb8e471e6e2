// Package kubetest gives tests real Kubernetes API servers: one that the tests of a package share, each in namespaces of its own, and whole
// ones for tests that kill them. Where there can be none the tests skip and say why; with FARSHORE_REQUIRE_TOOLS=1 they fail.
// With -short they always skip.
package kubetest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/farshore/farshore/internal/kube"
)

// shared is the cluster of this process's tests.
var shared struct {
	sync.Mutex
	used    bool // by Main
	dir     string
	cluster *kube.Cluster
	err     error
}

// Main runs the tests of a package, stops the cluster that they shared, and returns the exit code. TestMain calls it.
func Main(m *testing.M) int {
	shared.used = true
	defer func() {
		shared.Lock()
		defer shared.Unlock()
		if shared.cluster != nil {
			shared.cluster.Kill()
		}
		_ = os.RemoveAll(shared.dir) // a leftover in the temporary folder is no reason to fail
	}()
	return m.Run()
}

// Need skips the test where no API server can be started, and builds the servers where they aren't yet.
func Need(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("not run: it needs a Kubernetes API server, which -short leaves out")
	}
	var last string
	_, err := kube.Binaries(t.Context(), func(p kube.Progress) {
		if p.Step != last {
			last = p.Step
			fmt.Fprintln(os.Stderr, p) // a test's log would be shown only at its end, minutes later
		}
	})
	switch {
	case err == nil:
	case os.Getenv("FARSHORE_REQUIRE_TOOLS") == "1":
		t.Fatalf("not run: no Kubernetes API server: %v", err)
	default:
		t.Skipf("not run: no Kubernetes API server: %v", err)
	}
}

// Shared returns the cluster that the tests of this package share, started by the first that asks for it. It runs no controllers. The
// package's TestMain calls Main. Nobody may kill it.
func Shared(t testing.TB) *kube.Cluster {
	t.Helper()
	if !shared.used {
		t.Fatal("kubetest.Shared needs a TestMain that calls kubetest.Main")
	}
	Need(t)
	shared.Lock()
	defer shared.Unlock()
	if shared.cluster == nil && shared.err == nil {
		shared.dir, shared.err = os.MkdirTemp("", "farshore-kube-")
		if shared.err == nil {
			shared.cluster, shared.err = kube.Start(context.WithoutCancel(t.Context()), kube.Options{Dir: shared.dir})
		}
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.cluster
}

// New starts clusters for one test, which may kill and restart them, beside each other. They are gone when it ends; where it failed the
// ends of their logs are shown. The options' Dir may be left to it.
func New(t testing.TB, options ...kube.Options) []*kube.Cluster {
	t.Helper()
	Need(t)
	for i := range options {
		if options[i].Dir == "" {
			options[i].Dir = t.TempDir()
		}
	}
	clusters, err := kube.StartAll(t.Context(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range clusters {
			c.Kill()
			if t.Failed() {
				t.Log(c.Logs(15))
			}
		}
	})
	return clusters
}

// Namespace makes a namespace with its default service account, which Pods need, and returns its name: the prefix and
// something that makes it unique. It is left behind: without controllers none would go away.
func Namespace(t testing.TB, c *kube.Cluster, prefix string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	client := Client(t, c)
	prefix = strings.TrimSuffix(prefix, "-") + "-"
	made, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: prefix}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("make a namespace: %v", err)
	}
	DefaultAccount(t, c, made.Name)
	return made.Name
}

// DefaultAccount makes a namespace's default service account where no controllers do.
func DefaultAccount(t testing.TB, c *kube.Cluster, namespace string) {
	t.Helper()
	if c.Controllers() {
		return
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := Client(t, c).CoreV1().ServiceAccounts(namespace).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatalf("make the default service account of %s: %v", namespace, err)
	}
}

// Client returns an administrator's client.
func Client(t testing.TB, c *kube.Cluster) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(c.Config())
	if err != nil {
		t.Fatal(err)
	}
	return client
}
