package lint

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func repository(t *testing.T) ([]file, []*source) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatal(err)
	}
	all, err := files(root)
	if err != nil {
		t.Fatal(err)
	}
	var sources []*source
	for _, f := range all {
		if !strings.HasSuffix(f.path, ".go") {
			continue
		}
		s, err := parse(f.path, f.text)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, s)
	}
	return all, sources
}

func TestRepository(t *testing.T) {
	all, sources := repository(t)
	for _, name := range slices.Sorted(maps.Keys(rules)) {
		t.Run(name, func(t *testing.T) {
			for _, s := range sources {
				for _, problem := range rules[name](s) {
					t.Error(problem)
				}
			}
		})
	}
	t.Run("package comments", func(t *testing.T) {
		for _, problem := range packageComments(sources) {
			t.Error(problem)
		}
	})
	t.Run("imports", func(t *testing.T) {
		for _, problem := range breaches(graph(sources), walls) {
			t.Error(problem)
		}
	})
	t.Run("unwanted text", func(t *testing.T) {
		for _, f := range all {
			if !utf8.ValidString(f.text) {
				continue
			}
			for _, problem := range unwantedText(f) {
				t.Error(problem)
			}
		}
	})
}

// A rule that finds nothing anywhere proves nothing: each must find what it is for.
func TestRulesFind(t *testing.T) {
	long := "package p\nfunc f() {\n" + strings.Repeat("\t_ = 1\n", maxFunctionLines-2)
	for _, tt := range []struct {
		rule, path, text string
		want             int
	}{
		{"file length", "a.go", "package p\n" + strings.Repeat("\n", maxFileLines-1), 0},
		{"file length", "a.go", "package p\n" + strings.Repeat("\n", maxFileLines), 1},
		{"function length", "a.go", long + "}", 0},
		{"function length", "a.go", long + "\t_ = 1\n}", 1},
		{"names", "a.go", "package util", 1},
		{"names", "a_test.go", "package helpers_test", 1},
		{"names", "a.go", "package p\ntype StreamManager struct{}", 1},
		{"names", "a.go", "package events", 0},
		{"documentation", "a.go", "package p\nfunc F() {}\ntype T int\nconst C = 1\nvar V, w int\nfunc (T) M() {}\ntype (\n\tG[K any] int\n)", 6},
		{"documentation", "a.go", "package p\n// F is.\nfunc F() {}\n// Both.\nconst (\n\tA = 1\n\tB = 2\n)\nvar V = 1 // V is.\nfunc (*t[K]) M() {}\ntype t[K any] int", 0},
		{"documentation", "a_test.go", "package p\nfunc F() {}", 0},
		{"documentation", "a.go", "package main\nfunc F() {}", 0},
		{"sleeps", "a_test.go", "package p\nimport \"time\"\nfunc f() { time.Sleep(1) }", 1},
		{"sleeps", "a.go", "package p\nimport clock \"time\"\nfunc f() { clock.Sleep(1) }", 1},
		{"sleeps", "a_test.go", "package p\nimport \"time\"\nfunc f() { for !done() { time.Sleep(1) } }", 0},
		{"sleeps", "a_test.go", "package p\nimport \"time\"\nfunc f() { for ; !done(); time.Sleep(1) {} }", 0},
		{"sleeps", "a.go", "package p\nimport \"time\"\nfunc f() { for !done() { time.Sleep(1) } }", 1},
		{"sleeps", "a_test.go", "package p\nimport \"time\"\nfunc f() { for range 5 { time.Sleep(1) } }", 1},
		{"sleeps", "a_test.go", "package p\nimport (\n\"testing/synctest\"\n\"time\"\n)\nfunc f() { time.Sleep(1) }", 0},
		{"sleeps", "a.go", "package p\nfunc f() { time.Sleep(1) }", 0},
		{"skips", "a_test.go", "package p\nfunc f() { t.Skip(); t.SkipNow(); t.Skip(\"why\") }", 2},
		{"globals", "a.go", "package p\nimport \"log/slog\"\nfunc f() { slog.Info(\"x\"); slog.Default(); slog.New(nil); slog.String(\"a\", \"b\") }", 2},
		{"globals", "a.go", "package p\nimport \"go.opentelemetry.io/otel\"\nfunc f() { otel.Meter(\"x\") }", 1},
		{"globals", "a.go", "package p\nimport \"log\"", 1},
		{"contexts", "a.go", "package p\nimport \"context\"\ntype t struct { ctx context.Context; f func(context.Context) }", 1},
	} {
		s, err := parse(tt.path, tt.text)
		if err != nil {
			t.Fatal(err)
		}
		if got := rules[tt.rule](s); len(got) != tt.want {
			t.Errorf("%s: found %q, want %d, in\n%s", tt.rule, got, tt.want, tt.text)
		}
	}
}

func TestPackageCommentsAreFound(t *testing.T) {
	var sources []*source
	for path, text := range map[string]string{
		"a/a.go": "// Package a is.\npackage a", "a/b.go": "package a",
		"b/b.go": "package b", "b/b_test.go": "// Package b is.\npackage b",
	} {
		s, err := parse(path, text)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, s)
	}
	if got := packageComments(sources); len(got) != 1 || !strings.HasPrefix(got[0], "b: ") {
		t.Errorf("found %q", got)
	}
}

func TestBreachesAreFound(t *testing.T) {
	m := func(p string) string { return module + "/" + p }
	imports := map[string][]string{
		m("pkg/events"):         {"fmt", m("pkg/events/wire")},
		m("pkg/journal"):        {"github.com/nats-io/nats.go", m("pkg/events")},
		m("pkg/resourcewatch"):  {m("pkg/journal")}, // knows NATS by way of the journal
		m("pkg/replica"):        {m("pkg/group"), m("pkg/between")},
		m("pkg/between"):        {m("pkg/cdc"), m("pkg/replica")}, // a circle must end, too
		m("pkg/cdc"):            {"k8s.io/api/core/v1"},
		m("pkg/group"):          {"sigs.k8s.io/yaml"},
		m("pkg/telemetry"):      {m("pkg/group")},
		m("pkg/barrier"):        {m("pkg/cdc")},
		m("cmd/capturer"):       {m("pkg/cdc/nbd"), "k8s.io/client-go"},
		m("pkg/eventsandmore"):  {"k8s.io/api/core/v1"}, // only looks as if below pkg/events
		m("pkg/replica/target"): {m("cmd/capturer")},
	}
	want := []string{
		"pkg must not import " + m("cmd/capturer"),
		"pkg/cdc must not import k8s.io/api/core/v1",
		"pkg/replica must not import " + m("pkg/cdc"),
		"pkg/replica must not import " + m("pkg/cdc/nbd"),
		"pkg/resourcewatch must not import github.com/nats-io/nats.go",
		"pkg/telemetry must not import " + m("pkg/group"),
	}
	var got []string
	for _, b := range breaches(imports, walls) {
		head, _, _ := strings.Cut(b, ": ")
		got = append(got, head)
	}
	slices.Sort(got)
	if got = slices.Compact(got); !slices.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestUnwantedTextIsFound(t *testing.T) {
	slash := "/"
	for line, want := range map[string]int{
		"cd " + slash + "work/main":           1,
		"x: \"" + slash + "root/key\"":        1,
		"unix:" + slash + "tmp/x.sock":        1,
		"// TO" + "DO: later":                 1,
		"<<<<" + "<<< HEAD":                   1,
		"https://example.org/work/":           0,
		"$TMPDIR/x, t.TempDir()/root/x, tmp/": 0,
	} {
		if got := unwantedText(file{"a.go", line}); len(got) != want {
			t.Errorf("%s: found %q, want %d", line, got, want)
		}
	}
}
