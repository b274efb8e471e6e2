package demo

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/farshore/farshore/internal/kube"
	"github.com/farshore/farshore/internal/kube/kubetest"
)

// buildPrograms builds the real programs once for all tests. FARSHORE_TEST_TAGS adds build tags.
var buildPrograms = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(buildDir, "bin")
	args := []string{"build", "-o", dir + string(filepath.Separator)}
	if tags := os.Getenv("FARSHORE_TEST_TAGS"); tags != "" {
		args = append(args, "-tags", tags)
	}
	for _, name := range programNames {
		args = append(args, module+"/cmd/"+name)
	}
	build := exec.Command("go", args...)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	return dir, build.Run()
})

var buildDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "farshore-demo-test-")
	if err != nil {
		panic(err)
	}
	buildDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func built(t *testing.T) string {
	t.Helper()
	bin, err := buildPrograms()
	if err != nil {
		t.Fatalf("build the programs: %v", err)
	}
	return bin
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// The demo, short: every check holds, and nothing is left.
func TestRun(t *testing.T) {
	bin, temp := built(t), t.TempDir()
	t.Setenv("TMPDIR", temp)
	var out, errs bytes.Buffer
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	err := Run(t.Context(), Options{Duration: 3 * time.Second, Seed: seed, Rate: 400, Bin: bin, Out: &out, Err: &errs})
	if err != nil {
		t.Errorf("run: %v\n%s%s", err, out.String(), errs.String())
	}
	for _, want := range []string{"DISASTER", "recoverable RPO    p50 ", "really lost", "barrier hold", "recovery time", "SECOND DISASTER", "✓ every byte is as it was written", "All 46 checks hold."} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in the output:\n%s", want, out.String())
		}
	}
	if left := entries(t, temp); left != nil {
		t.Errorf("left behind: %q", left)
	}
}

// The same with Kubernetes objects.
func TestRunWithObjects(t *testing.T) {
	kubetest.Need(t)
	bin, temp := built(t), t.TempDir()
	t.Setenv("TMPDIR", temp)
	var out, errs bytes.Buffer
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	err := Run(t.Context(), Options{Duration: 3 * time.Second, Seed: seed, Rate: 400, Kube: KubeOn, Bin: bin, Out: &out, Err: &errs})
	if err != nil {
		t.Errorf("run: %v\n%s%s", err, out.String(), errs.String())
	}
	for _, want := range []string{
		"changes of a ConfigMap", "Taken over at the DR site", "✓ no debit beyond the ConfigMap's limit", "✓ the deleted ConfigMap is back",
		"✓ nothing acts before the release", "✓ the application acts", "All 70 checks hold.",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in the output:\n%s", want, out.String())
		}
	}
	if left := append(entries(t, temp), relatives(t, temp)...); left != nil {
		t.Errorf("left behind: %q", left)
	}
}

// In clusters that exist the demo works in namespaces of its own and leaves none; one cluster can play both sites.
func TestRunInClustersThatExist(t *testing.T) {
	cluster := kubetest.New(t, kube.Options{Name: "mine", ControllerManager: true})[0]
	bin, temp := built(t), t.TempDir()
	t.Setenv("TMPDIR", temp)
	var out, errs bytes.Buffer
	err := Run(t.Context(), Options{
		Duration: 2 * time.Second, Seed: 1, Rate: 200, Kube: KubeAuto, Bin: bin, Out: &out, Err: &errs,
		Kubeconfig: cluster.Kubeconfig, PrimaryContext: "mine", DRContext: "mine",
	})
	if err != nil || !strings.Contains(out.String(), "All 70 checks hold.") {
		t.Errorf("run: %v\n%s%s", err, out.String(), errs.String())
	}
	namespaces, err := kubetest.Client(t, cluster).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range namespaces.Items {
		if strings.Contains(n.Name, "demo") {
			t.Errorf("namespace %s is left", n.Name)
		}
	}
	if left := entries(t, temp); left != nil {
		t.Errorf("left behind: %q", left)
	}
	err = Run(t.Context(), Options{
		Duration: 2 * time.Second, Seed: 1, Rate: 200, Bin: bin, Out: &out, Err: &errs,
		Kube: KubeAuto, Kubeconfig: cluster.Kubeconfig, PrimaryContext: "mine", DRContext: "theirs",
	})
	if err == nil || !strings.Contains(err.Error(), "use context theirs: the kubeconfig has no such context") {
		t.Errorf("a context that isn't there: %v", err)
	}
}

// With Keep the directory stays as it is, else a directory that was there is emptied.
func TestDirectory(t *testing.T) {
	bin := built(t)
	for _, keep := range []bool{false, true} {
		dir := t.TempDir()
		var out bytes.Buffer
		if err := Run(t.Context(), Options{Duration: time.Second, Seed: 1, Rate: 400, Keep: keep, Dir: dir, Bin: bin, Out: &out, Err: &out}); err != nil {
			t.Errorf("run: %v\n%s", err, out.String())
		}
		left := entries(t, dir)
		if keep && (!slices.Contains(left, "acknowledged.log") || !slices.Contains(left, "recovered")) {
			t.Errorf("kept: %q", left)
		}
		if !keep && left != nil {
			t.Errorf("left behind: %q", left)
		}
	}
}

// command starts the demo as a process and waits until its load runs.
func startDemo(t *testing.T, temp, with string) (*exec.Cmd, *process) {
	t.Helper()
	bin := built(t)
	n := newNursery(t.TempDir())
	t.Cleanup(n.close)
	t.Setenv("TMPDIR", temp)
	p, err := n.start("demo", filepath.Join(bin, "farshore"), "demo", "--bin", bin, "--duration", "60s", "--rate", "100", "--kube="+with)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.waitFor(t.Context(), "the load begins"); err != nil {
		t.Fatal(err)
	}
	return p.cmd, p
}

// relatives are the processes that have text in their command line.
func relatives(t *testing.T, text string) []string {
	t.Helper()
	out, err := exec.Command("ps", "-A", "-o", "pid=,args=").Output()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, text) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

func TestInterruptLeavesNothing(t *testing.T) {
	for _, c := range []struct {
		signal syscall.Signal
		kube   string
		least  int // processes
	}{
		{syscall.SIGINT, KubeOff, 5}, {syscall.SIGTERM, KubeOff, 5}, {syscall.SIGHUP, KubeOff, 5}, {syscall.SIGINT, KubeOn, 11},
	} {
		signal := c.signal
		t.Run(signal.String()+", kube "+c.kube, func(t *testing.T) {
			if c.kube == KubeOn {
				kubetest.Need(t)
			}
			temp := t.TempDir()
			cmd, p := startDemo(t, temp, c.kube)
			if n := len(relatives(t, temp)); n < c.least {
				t.Errorf("%d processes work in the directory, want at least %d", n, c.least)
			}
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			<-p.done
			if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(p.tail(), "farshore: interrupted") {
				t.Errorf("exit code %d, want 1%s", code, p.tail())
			}
			if left := relatives(t, temp); left != nil {
				t.Errorf("processes left behind: %q", left)
			}
			if left := entries(t, temp); left != nil {
				t.Errorf("files left behind: %q", left)
			}
		})
	}
}

// The kernel ends the children of a demo that could not: it was killed itself.
func TestKillLeavesNoProcess(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skipf("%s has no parent death signal", runtime.GOOS)
	}
	temp := t.TempDir()
	with := KubeOff
	if !testing.Short() {
		with = KubeAuto
	}
	cmd, p := startDemo(t, temp, with)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.done
	for len(relatives(t, temp)) > 0 {
		if t.Context().Err() != nil {
			t.Fatalf("processes left behind: %q", relatives(t, temp))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// A daemon that dies before the disaster is named, with the end of its log.
func TestUnexpectedDeathEndsTheDemo(t *testing.T) {
	temp := t.TempDir()
	cmd, p := startDemo(t, temp, KubeOff)
	victims := relatives(t, "capturer-"+ledger+" --state "+temp)
	if len(victims) != 1 {
		t.Fatalf("capturers of the ledger: %q", victims)
	}
	pid, _, _ := strings.Cut(victims[0], " ")
	if err := exec.Command("kill", "-9", pid).Run(); err != nil {
		t.Fatal(err)
	}
	<-p.done
	log, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(string(log), "farshore: capturer-ledger ended: signal: killed") {
		t.Errorf("exit code %d:\n%s", code, log)
	}
	if left := append(relatives(t, temp), entries(t, temp)...); left != nil {
		t.Errorf("left behind: %q", left)
	}
}
