package kube

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The module that is built is the one of the version that is promised.
func TestSourceIsOfTheVersion(t *testing.T) {
	dir, err := source()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	client := "k8s.io/client-go => k8s.io/client-go v0" + strings.TrimPrefix(Version, "v1")
	if !strings.Contains(string(text), client) {
		t.Errorf("no %q in %s/go.mod", client, dir)
	}
}

// Where nothing is built and there is no source, the error says what to do. A directory that is named is taken, if it is whole.
func TestElsewhere(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv(Environment, "")
	t.Chdir(t.TempDir())
	if Built() {
		t.Error("an empty cache is called built")
	}
	if _, err := Binaries(t.Context(), nil); !errors.Is(err, ErrNoSource) {
		t.Errorf("got %v, want %v", err, ErrNoSource)
	}
	dir := t.TempDir()
	t.Setenv(Environment, dir)
	for _, p := range programs {
		if _, err := Binaries(t.Context(), nil); err == nil || !strings.Contains(err.Error(), p.name) {
			t.Errorf("without %s: %v", p.name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, p.name), nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := Binaries(t.Context(), nil); err != nil || got != dir {
		t.Errorf("got %s, %v, want %s", got, err, dir)
	}
}

// The go command's failure is told, without the packages that it compiled before, and nothing is left in the cache.
func TestBuildThatFails(t *testing.T) {
	module := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module broken\n\ngo 1.26\n", "etcd/main.go": "package main\n\nfunc main() { missing() }\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(module, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(module, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cache := t.TempDir()
	var steps []string
	b := &builder{source: module, into: filepath.Join(cache, "programs"), progress: func(p Progress) { steps = append(steps, p.Step) }}
	err := b.run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "undefined: missing") {
		t.Errorf("got %v", err)
	}
	left, err := filepath.Glob(filepath.Join(cache, "*"))
	if err != nil || len(left) != 1 || left[0] != b.into+".lock" {
		t.Errorf("left in the cache: %v, %v", left, err)
	}
	if len(steps) == 0 || steps[len(steps)-1] != "build etcd" {
		t.Errorf("told %q", steps)
	}
}
