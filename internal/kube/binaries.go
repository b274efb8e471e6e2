package kube

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/farshore/farshore/internal/durable"
)

// Version is the release of Kubernetes that is built. integration/kubernetes/go.mod requires it.
const Version = "v1.37.2"

// Environment names the directory with the programs etcd, kube-apiserver and kube-controller-manager for
// who has them already; nothing is built then.
const Environment = "FARSHORE_KUBERNETES"

// ErrNoSource is returned where the programs would have to be built and there is nothing to build them from.
var ErrNoSource = errors.New("the Kubernetes servers are not built yet and integration/kubernetes is not here: run this in Farshore's source tree once, " +
	"or name a directory that holds etcd, kube-apiserver and kube-controller-manager in " + Environment)

// program is built from the module integration/kubernetes.
type program struct {
	name, path string
	ldflags    string
}

// programs are ordered by how soon they are built.
var programs = []program{
	{"etcd", "./etcd", "-s -w"},
	{"kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", ldflags},
	{"kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", ldflags},
}

// Without a version in them the programs call themselves v0.0.0, which they refuse in places.
const ldflags = "-s -w -X k8s.io/component-base/version.gitVersion=" + Version

// Progress is how far a build is.
type Progress struct {
	Step    string // what is done: "build kube-apiserver"
	Done    int    // packages of the step that are compiled
	Total   int    // packages of the step; 0: not known
	Elapsed time.Duration
}

// String is a line for people.
func (p Progress) String() string {
	s := p.Step
	if p.Total > 0 {
		s += fmt.Sprintf(": %d of %d packages", p.Done, p.Total)
	}
	return fmt.Sprintf("%s (%s)", s, p.Elapsed.Round(time.Second))
}

// Built tells whether Binaries has nothing to build: it returns at once.
func Built() bool {
	if os.Getenv(Environment) != "" {
		return true
	}
	dir, err := cache()
	return err == nil && complete(dir) == nil
}

// Binaries returns the directory that holds etcd, kube-apiserver and kube-controller-manager. The first time it builds them,
// which takes about five minutes on two cores and 250 MB in the user's cache directory
// (farshore/kubernetes/<version>-<go>), outside of any checkout; progress, which may be nil, is told about it, a few times a
// second at most. Several processes may call it: one builds, the others wait. What is in the cache is always whole.
//
// The source is the module integration/kubernetes, looked for in the working directory and the one of the running program, and in
// all that contain them; ErrNoSource is wrapped where it is not found.
func Binaries(ctx context.Context, progress func(Progress)) (string, error) {
	if dir := os.Getenv(Environment); dir != "" {
		if err := complete(dir); err != nil {
			return "", fmt.Errorf("find the Kubernetes servers in %s (%s): %w", dir, Environment, err)
		}
		return filepath.Abs(dir)
	}
	dir, err := cache()
	if err != nil {
		return "", fmt.Errorf("find the user's cache directory: %w", err)
	}
	if complete(dir) == nil {
		return dir, nil
	}
	source, err := source()
	if err != nil {
		return "", err
	}
	b := &builder{source: source, into: dir, began: time.Now(), progress: progress}
	if err := b.run(ctx); err != nil {
		return "", fmt.Errorf("build the Kubernetes servers: %w", err)
	}
	return dir, nil
}

func cache() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "farshore", "kubernetes", Version+"-"+goVersion()), nil
}

// goVersion names the compiler without what an experiment adds to it.
func goVersion() string {
	version, _, _ := strings.Cut(runtime.Version(), " ")
	return version
}

// complete checks that dir holds every program.
func complete(dir string) error {
	for _, p := range programs {
		if _, err := exec.LookPath(filepath.Join(dir, p.name)); err != nil {
			return err
		}
	}
	return nil
}

// source is the directory of the module integration/kubernetes.
func source() (string, error) {
	var starts []string
	if dir, err := os.Getwd(); err == nil {
		starts = append(starts, dir)
	}
	if self, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(self))
	}
	for _, dir := range starts {
		for {
			module := filepath.Join(dir, "integration", "kubernetes")
			if text, err := os.ReadFile(filepath.Join(module, "go.mod")); err == nil && bytes.Contains(text, []byte("k8s.io/kubernetes "+Version+"\n")) {
				return module, nil
			}
			if filepath.Dir(dir) == dir {
				break
			}
			dir = filepath.Dir(dir)
		}
	}
	return "", ErrNoSource
}

type builder struct {
	source   string // directory of the module
	into     string // directory in the cache
	began    time.Time
	progress func(Progress)
}

func (b *builder) tell(step string, done, total int) {
	if b.progress != nil {
		b.progress(Progress{Step: step, Done: done, Total: total, Elapsed: time.Since(b.began)})
	}
}

func (b *builder) run(ctx context.Context) error {
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("%w: install Go, or name a directory that holds the programs in %s", err, Environment)
	}
	if err := os.MkdirAll(filepath.Dir(b.into), 0o750); err != nil {
		return err
	}
	lock, err := b.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	if complete(b.into) == nil {
		return nil // somebody else has built them meanwhile
	}
	scratch, err := os.MkdirTemp(filepath.Dir(b.into), "building-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	for _, p := range programs {
		if err := b.build(ctx, p, scratch); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	if err := os.RemoveAll(b.into); err != nil { // what is there is not complete
		return err
	}
	return os.Rename(scratch, b.into)
}

// lock waits until no other process builds.
func (b *builder) lock(ctx context.Context) (io.Closer, error) {
	taken := errors.New("another process builds them")
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		lock, err := durable.Lock(b.into+".lock", false, taken)
		if err == nil || !errors.Is(err, taken) {
			return lock, err
		}
		b.tell("wait for another process that builds the Kubernetes servers", 0, 0)
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// packageLine is what `go build -v` says about a package that it compiles.
var packageLine = regexp.MustCompile(`^[a-zA-Z0-9_.~/-]+$`)

func (b *builder) build(ctx context.Context, p program, into string) error {
	step := "build " + p.name
	b.tell("download the source of "+p.name, 0, 0)
	flags := []string{"-mod=readonly", "-trimpath", "-ldflags", p.ldflags}
	// Counted is what has to be compiled, which says more about the time than what there is.
	total, err := b.goTool(ctx, append(append([]string{"list", "-deps", "-f", "{{if .Stale}}{{.ImportPath}}{{end}}"}, flags...), p.path), nil)
	if err != nil {
		return err
	}
	b.tell(step, 0, len(total))
	done, told := 0, time.Now()
	_, err = b.goTool(ctx, append(append([]string{"build", "-v", "-o", filepath.Join(into, p.name)}, flags...), p.path), func(line string) {
		if packageLine.MatchString(line) {
			done = min(done+1, len(total))
		}
		if time.Since(told) > 500*time.Millisecond {
			told = time.Now()
			b.tell(step, done, len(total))
		}
	})
	return err
}

// goTool runs the go command in the module and returns the lines that it writes to its standard output. Those of its standard error go
// to said; where it fails they are in the error.
func (b *builder) goTool(ctx context.Context, args []string, said func(line string)) ([]string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = b.source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=", "GOMAXPROCS="+strconv.Itoa(runtime.NumCPU()))
	var out bytes.Buffer
	cmd.Stdout = &out
	errs, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var last []string
	for lines := bufio.NewScanner(errs); lines.Scan(); {
		if said != nil {
			said(lines.Text())
		}
		last = append(last[max(0, len(last)-20):], lines.Text())
	}
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		last = slices.DeleteFunc(last, packageLine.MatchString)
		return nil, fmt.Errorf("go %s: %w: %s", args[0], err, strings.Join(last, "\n"))
	}
	return strings.Fields(out.String()), nil
}
