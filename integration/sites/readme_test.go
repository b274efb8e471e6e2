package sites

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/farshore/farshore/pkg/journal/bus"
)

func deployed(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "nats", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every variable of the files is in the README with its site, and no other is.
func TestReadmeNamesEveryVariable(t *testing.T) {
	sites := make(map[string]string)
	for _, m := range regexp.MustCompile("(?m)^\\| `(FARSHORE_[A-Z_]+)` \\| (both|primary|DR) \\|").FindAllStringSubmatch(deployed(t, "README.md"), -1) {
		sites[m[1]] = m[2]
	}
	used := make(map[string]string)
	for file, site := range map[string]string{"primary.conf": "primary", "dr.conf": "DR"} {
		for _, v := range regexp.MustCompile(`\$(FARSHORE_[A-Z_]+)`).FindAllStringSubmatch(deployed(t, file), -1) {
			if before, ok := used[v[1]]; ok && before != site {
				used[v[1]] = "both"
			} else {
				used[v[1]] = site
			}
		}
	}
	for v, site := range used {
		if sites[v] != site {
			t.Errorf("%s is used at %q, README.md says %q", v, site, sites[v])
		}
	}
	for v := range sites {
		if used[v] == "" {
			t.Errorf("README.md has %s, which neither file uses", v)
		}
	}
}

// A server whose variables are incomplete doesn't start, and says which one is missing.
func TestMissingVariableIsNamed(t *testing.T) {
	p := preparePair(t)
	for variable, value := range p.variables["primary"] {
		t.Setenv(variable, value)
	}
	if err := os.Unsetenv("FARSHORE_NKEY_LEAF"); err != nil {
		t.Fatal(err)
	}
	_, err := bus.Start(bus.Options{ConfigFile: filepath.Join("..", "..", "deploy", "nats", "primary.conf")})
	if err == nil || !strings.Contains(err.Error(), "FARSHORE_NKEY_LEAF") {
		t.Errorf("got %v", err)
	}
}
