package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/farshore/farshore/cmd/internal/daemon"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// invoke runs the command as main does and returns what it wrote and its exit code.
func invoke(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := command()
	daemon.Prepare(cmd)
	var out, errs bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetArgs(append([]string{}, args...)) // nil would mean the test's own
	err := cmd.ExecuteContext(t.Context())
	if err != nil {
		errs.WriteString(err.Error())
	}
	return out.String(), errs.String(), daemon.ExitCode(err)
}

// golden compares got with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// document writes a valid group document and returns its path.
func document(t *testing.T, primary, dr string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "group.yaml")
	text := `apiVersion: farshore.dev/v1alpha1
kind: ProtectionGroup
metadata: {name: shop}
spec:
  sites:
    primary: {url: "` + primary + `", domain: ` + primaryDomain + `}
    dr: {url: "` + dr + `", domain: ` + drDomain + `}
  volumes:
    - {name: orders, uid: u-1, capturer: c, path: /dev/null, listen: "unix:/run/orders.sock"}
  recovery: {directory: ` + t.TempDir() + `}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const (
	nowhere       = "nats://127.0.0.1:1"
	primaryDomain = "primary"
	drDomain      = "dr"
)

func TestMistakes(t *testing.T) {
	g := document(t, nowhere, nowhere)
	broken := filepath.Join(t.TempDir(), "broken.yaml")
	if err := os.WriteFile(broken, []byte("apiVersion: farshore.dev/v1alpha1\nspec: {colour: red}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		says []string
	}{
		"unknown command":      {[]string{"statsu"}, 2, []string{`unknown command "statsu"`, "did you mean status?"}},
		"unknown flag":         {[]string{"status", "--colour"}, 2, []string{"unknown flag: --colour", `farshore status --help`}},
		"no document":          {[]string{"status"}, 2, []string{"--group FILE", "FARSHORE_GROUP"}},
		"document missing":     {[]string{"points", "--group", "/nonexistent.yaml"}, 2, []string{"/nonexistent.yaml"}},
		"document broken":      {[]string{"status", "--group", broken}, 2, []string{"spec.colour", "kind", "metadata.name"}},
		"output form":          {[]string{"points", "--group", g, "-o", "xml"}, 2, []string{`"xml" is not one of text and json`}},
		"extra argument":       {[]string{"status", "shop", "--group", g}, 2, []string{`unexpected argument "shop"`}},
		"limit":                {[]string{"points", "--group", g, "--limit", "-1"}, 2, []string{"--limit"}},
		"timeout":              {[]string{"points", "--group", g, "--timeout", "0s"}, 2, []string{"--timeout"}},
		"mark without label":   {[]string{"mark", "--group", g}, 2, []string{"--label"}},
		"mark, bad label":      {[]string{"mark", "--group", g, "--label", "a\nb"}, 2, []string{"--label", "control characters"}},
		"replay without to":    {[]string{"replay", "--group", g, "--into", "/x"}, 2, []string{"--to"}},
		"replay without into":  {[]string{"replay", "--group", g, "--to", "latest"}, 2, []string{"--into"}},
		"replay, no archive":   {[]string{"replay", "--group", g, "--to", "latest", "--into", "/x", "--from-archive"}, 2, []string{"--from-archive", "no spec.recovery.archive"}},
		"replay, bad device":   {[]string{"replay", "--group", g, "--to", "latest", "--into", "/x", "--device", "/dev/null"}, 2, []string{"--device /dev/null", "VOLUME="}},
		"replay, device twice": {[]string{"replay", "--group", g, "--to", "latest", "--into", "/x", "--device", "a=/dev/x", "--device", "a=/dev/y"}, 2, []string{"a is named twice"}},
		"replay, objects dry":  {[]string{"replay", "--group", g, "--to", "latest", "--into", "/x", "--objects-only", "--dry-run"}, 2, []string{"--objects-only", "--dry-run"}},
		"bus without domain":   {[]string{"bus", "--store", "/x"}, 2, []string{"--domain"}},
		"bus config and more":  {[]string{"bus", "--config", "/x", "--domain", "d"}, 2, []string{"--config stands alone"}},
		"bus address":          {[]string{"bus", "--domain", "d", "--store", "/x", "--listen", "4222"}, 2, []string{`"4222" is not HOST:PORT`}},
		"bus port":             {[]string{"bus", "--domain", "d", "--store", "/x", "--listen", "h:99999"}, 2, []string{"is not HOST:PORT"}},
		"bus hosts":            {[]string{"bus", "--domain", "d", "--store", "/x", "--leaf-listen", "10.0.0.1:1"}, 2, []string{"must have the host of --listen"}},
		"completion":           {[]string{"completion", "fish"}, 2, []string{"bash or zsh"}},
		"demo duration":        {[]string{"demo", "--duration", "1s"}, 2, []string{"--duration"}},
		"demo rate":            {[]string{"demo", "--rate", "0"}, 2, []string{"--rate"}},
		"demo programs":        {[]string{"demo", "--bin", full}, 1, []string{"no program", "make build"}},
		"demo directory":       {[]string{"demo", "--dir", full}, 1, []string{"is not empty"}},
		"no server":            {[]string{"status", "--group", g, "--timeout", "300ms"}, 1, []string{"DR site", nowhere, "is the server running?"}},
		"no primary, no DR":    {[]string{"mark", "--group", g, "--label", "x", "--timeout", "300ms"}, 1, []string{"primary site", "DR site"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, errs, code := invoke(t, c.args...)
			if code != c.code {
				t.Errorf("exit code %d, want %d (%s)", code, c.code, errs)
			}
			for _, s := range c.says {
				if !strings.Contains(errs, s) {
					t.Errorf("%q is not in: %s", s, errs)
				}
			}
			if out != "" {
				t.Errorf("standard output is not for errors: %q", out)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(full, "x")); err != nil {
		t.Errorf("a directory that was refused was touched: %v", err)
	}
}

func TestHelpVersionCompletion(t *testing.T) {
	for _, c := range []struct {
		args []string
		says string
	}{
		{nil, "Usage:"},
		{[]string{"--help"}, "replay"},
		{[]string{"version"}, daemon.Version() + "\n"},
		{[]string{"completion", "bash"}, "__start_farshore"},
		{[]string{"completion", "zsh"}, "#compdef farshore"},
		{[]string{"__complete", "replay", "--to", ""}, "latest"},
		{[]string{"__complete", "points", "-o", ""}, "json"},
	} {
		out, errs, code := invoke(t, c.args...)
		if code != 0 || !strings.Contains(out, c.says) {
			t.Errorf("%q: exit code %d, %q not in output (stderr %q)", c.args, code, c.says, errs)
		}
	}
}

// Every setting is reachable by environment, and the flag wins.
func TestEnvironment(t *testing.T) {
	t.Setenv("FARSHORE_GROUP", document(t, nowhere, nowhere))
	t.Setenv("FARSHORE_TIMEOUT", "200ms")
	if _, errs, code := invoke(t, "status"); code != 1 || !strings.Contains(errs, nowhere) {
		t.Errorf("document by environment: exit code %d, %s", code, errs)
	}
	if _, errs, code := invoke(t, "status", "--nats", "nats://127.0.0.1:2"); code != 1 || !strings.Contains(errs, "127.0.0.1:2") {
		t.Errorf("--nats overrides the document: exit code %d, %s", code, errs)
	}
}
