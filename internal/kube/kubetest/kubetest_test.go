package kubetest

import (
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/farshore/farshore/internal/kube"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func configMap(t *testing.T, c *kube.Cluster, namespace, name string) *corev1.ConfigMap {
	t.Helper()
	m, err := Client(t, c).CoreV1().ConfigMaps(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func makeConfigMap(t *testing.T, c *kube.Cluster, namespace, name string) *corev1.ConfigMap {
	t.Helper()
	m, err := Client(t, c).CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What was confirmed before a cluster was killed is there after it was started again, under the same address and uid. The controllers
// of one that has them work; nothing of the other's is seen.
func TestRestart(t *testing.T) {
	clusters := New(t, kube.Options{Name: "primary"}, kube.Options{Name: "dr", ControllerManager: true})
	primary, dr := clusters[0], clusters[1]
	before := makeConfigMap(t, primary, Namespace(t, primary, "bank"), "kept")
	for _, end := range []func(){primary.Kill, primary.Stop} {
		end()
		if _, err := Client(t, primary).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err == nil {
			t.Fatal("a cluster that was ended answers")
		}
		if err := primary.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if after := configMap(t, primary, before.Namespace, "kept"); after.UID != before.UID || after.ResourceVersion != before.ResourceVersion {
			t.Errorf("after a restart %s/%s, before it %s/%s", after.UID, after.ResourceVersion, before.UID, before.ResourceVersion)
		}
	}
	if _, err := Client(t, dr).CoreV1().Namespaces().Get(t.Context(), before.Namespace, metav1.GetOptions{}); !errors.IsNotFound(err) {
		t.Errorf("the other cluster knows %s: %v", before.Namespace, err)
	}
	// The controllers fill a namespace.
	namespace, client := Namespace(t, dr, "acts"), Client(t, dr)
	for made := false; !made; time.Sleep(50 * time.Millisecond) {
		if t.Context().Err() != nil {
			t.Fatal("no default service account")
		}
		_, err := client.CoreV1().ServiceAccounts(namespace).Get(t.Context(), "default", metav1.GetOptions{})
		made = err == nil
	}
	version, err := client.Discovery().ServerVersion()
	if err != nil || version.GitVersion != kube.Version {
		t.Errorf("version %v, %v, want %s", version, err, kube.Version)
	}
}

// A user without a binding may do nothing, and the API server says what is missing; nobody comes in without credentials.
func TestUsersWithoutRights(t *testing.T) {
	c := Shared(t)
	path, err := c.User("nobody", "idlers")
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = kubernetes.NewForConfigOrDie(config).CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
	if !errors.IsForbidden(err) || !strings.Contains(err.Error(), `User "nobody" cannot list resource "secrets"`) {
		t.Errorf("got %v", err)
	}
	config.CertFile, config.KeyFile = "", ""
	_, err = kubernetes.NewForConfigOrDie(config).CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
	if !errors.IsUnauthorized(err) {
		t.Errorf("without credentials: %v", err)
	}
}

// Tests that share a cluster don't meet in a namespace.
func TestNamespacesAreTestsOwn(t *testing.T) {
	c := Shared(t)
	a, b := Namespace(t, c, "same"), Namespace(t, c, "same")
	if a == b {
		t.Errorf("two tests got namespace %s", a)
	}
	makeConfigMap(t, c, a, "x")
	makeConfigMap(t, c, b, "x")
}

// Servers of a killed process are killed by the kernel.
func TestServersDieWithTheProcess(t *testing.T) {
	const inside = "FARSHORE_TEST_KUBE_DIR"
	Need(t)
	if dir := os.Getenv(inside); dir != "" {
		c, err := kube.Start(t.Context(), kube.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/url", []byte(c.URL), 0o600); err != nil {
			t.Fatal(err)
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // it doesn't return
	}
	dir := t.TempDir()
	out := again(t, inside+"="+dir)
	url, err := os.ReadFile(dir + "/url")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for gone := false; !gone; time.Sleep(20 * time.Millisecond) {
		if t.Context().Err() != nil {
			t.Fatal("the API server lives on")
		}
		response, err := http.Get(string(url))
		gone = err != nil && strings.Contains(err.Error(), "connection refused")
		if err == nil {
			_ = response.Body.Close()
		}
	}
}

// again runs the calling test in a process of its own and returns what it wrote.
func again(t *testing.T, env string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), env)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("the process was not killed: %s", out)
	}
	return string(out)
}
