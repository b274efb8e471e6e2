package lint

import (
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Limits of taste: beyond them a reader loses the thread.
const (
	maxFileLines     = 600
	maxFunctionLines = 80
)

// rules are checked on every Go file. Each returns what it finds wrong.
var rules = map[string]func(*source) []string{
	"file length":     fileLength,
	"function length": functionLength,
	"names":           names,
	"documentation":   documentation,
	"sleeps":          sleeps,
	"skips":           skips,
	"globals":         globals,
	"contexts":        contexts,
}

func fileLength(s *source) []string {
	if n := strings.Count(s.text, "\n"); n > maxFileLines {
		return []string{fmt.Sprintf("%s: %d lines, at most %d", s.path, n, maxFileLines)}
	}
	return nil
}

func functionLength(s *source) (found []string) {
	for _, d := range s.file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		lines := s.set.Position(f.End()).Line - s.set.Position(f.Pos()).Line + 1
		if lines > maxFunctionLines {
			found = append(found, s.at(f.Pos(), "%s has %d lines, at most %d", f.Name.Name, lines, maxFunctionLines))
		}
	}
	return found
}

// vague names say nothing about what belongs in a package, so everything ends up there.
var vague = []string{"base", "common", "helper", "helpers", "manager", "misc", "shared", "tool", "tools", "util", "utils"}

func names(s *source) (found []string) {
	if name := s.file.Name.Name; slices.Contains(vague, strings.TrimSuffix(name, "_test")) {
		found = append(found, s.at(s.file.Name.Pos(), "package %s: name what it is about", name))
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		if t, ok := n.(*ast.TypeSpec); ok && strings.HasSuffix(t.Name.Name, "Manager") {
			found = append(found, s.at(t.Pos(), "%s: name what it does", t.Name.Name))
		}
		return true
	})
	return found
}

// documentation: every exported name that another package can use has a comment. A group of constants
// or variables may have one for all.
func documentation(s *source) (found []string) {
	if s.test() || s.file.Name.Name == "main" {
		return nil
	}
	for _, d := range s.file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Doc == nil && d.Name.IsExported() && exportedReceiver(d) {
				found = append(found, s.at(d.Pos(), "%s has no comment", d.Name.Name))
			}
		case *ast.GenDecl:
			found = append(found, undocumented(s, d)...)
		}
	}
	return found
}

func undocumented(s *source, d *ast.GenDecl) (found []string) {
	for _, spec := range d.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			if spec.Name.IsExported() && spec.Doc == nil && (d.Doc == nil || d.Lparen.IsValid()) {
				found = append(found, s.at(spec.Pos(), "%s has no comment", spec.Name.Name))
			}
		case *ast.ValueSpec:
			if spec.Doc == nil && spec.Comment == nil && d.Doc == nil && slices.ContainsFunc(spec.Names, (*ast.Ident).IsExported) {
				found = append(found, s.at(spec.Pos(), "%s has no comment", spec.Names[0].Name))
			}
		}
	}
	return found
}

func exportedReceiver(f *ast.FuncDecl) bool {
	if f.Recv == nil {
		return true
	}
	t := f.Recv.List[0].Type
	for {
		switch inner := t.(type) {
		case *ast.StarExpr:
			t = inner.X
		case *ast.IndexExpr:
			t = inner.X
		case *ast.IndexListExpr:
			t = inner.X
		case *ast.Ident:
			return inner.IsExported()
		default:
			return true
		}
	}
}

// sleeps: a test that sleeps for a while is slow or flaky, and a program that does can't be cancelled
// meanwhile. A test may sleep between two looks at a condition, and where the time is
// testing/synctest's.
func sleeps(s *source) []string {
	if s.test() && slices.Contains(s.imports(), "testing/synctest") {
		return nil
	}
	polls := make(map[*ast.CallExpr]bool)
	if s.test() {
		ast.Inspect(s.file, func(n ast.Node) bool {
			if loop, ok := n.(*ast.ForStmt); ok {
				ast.Inspect(loop, func(n ast.Node) bool {
					call, ok := n.(*ast.CallExpr)
					if ok {
						polls[call] = true
					}
					return true
				})
			}
			return true
		})
	}
	return calls(s, "time", func(name string, call *ast.CallExpr) string {
		if name == "Sleep" && !polls[call] {
			return "time.Sleep: wait for a condition, or for a timer and the context"
		}
		return ""
	})
}

// skips: a test that skips in silence looks like one that passed.
func skips(s *source) (found []string) {
	if !s.test() {
		return nil
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if f, ok := call.Fun.(*ast.SelectorExpr); ok && len(call.Args) == 0 && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, f.Sel.Name) {
			found = append(found, s.at(call.Pos(), "%s without a message: say what was not run and why", f.Sel.Name))
		}
		return true
	})
	return found
}

// globals: loggers and meters are handed over, so that two of a kind can live in one process.
func globals(s *source) []string {
	if s.test() {
		return nil
	}
	found := calls(s, "log/slog", func(name string, _ *ast.CallExpr) string {
		level := regexp.MustCompile(`^(Default|SetDefault|(Debug|Info|Warn|Error)(Context)?|Log|LogAttrs|With)$`)
		if level.MatchString(name) {
			return "slog." + name + " uses the process's logger: take a *slog.Logger"
		}
		return ""
	})
	found = append(found, calls(s, "go.opentelemetry.io/otel", func(name string, _ *ast.CallExpr) string {
		return "otel." + name + " uses the process's providers: take a metric.Meter or a trace.Tracer"
	})...)
	if slices.Contains(s.imports(), "log") {
		found = append(found, s.path+": imports log: take a *slog.Logger")
	}
	return found
}

// calls reports what wrong says about each call of a function of the imported package.
func calls(s *source, importPath string, wrong func(name string, call *ast.CallExpr) string) (found []string) {
	local := ""
	for _, spec := range s.file.Imports {
		if spec.Path.Value == `"`+importPath+`"` {
			local = path.Base(importPath)
			if spec.Name != nil {
				local = spec.Name.Name
			}
		}
	}
	if local == "" {
		return nil
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		f, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if pkg, ok := f.X.(*ast.Ident); ok && pkg.Name == local {
			if message := wrong(f.Sel.Name, call); message != "" {
				found = append(found, s.at(call.Pos(), "%s", message))
			}
		}
		return true
	})
	return found
}

// contexts: a context belongs to a call, not to a value.
func contexts(s *source) (found []string) {
	ast.Inspect(s.file, func(n ast.Node) bool {
		t, ok := n.(*ast.StructType)
		if !ok {
			return true
		}
		for _, field := range t.Fields.List {
			sel, ok := field.Type.(*ast.SelectorExpr)
			if !ok || sel.Sel.Name != "Context" {
				continue
			}
			if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "context" {
				found = append(found, s.at(field.Pos(), "a struct holds a context: hand it to each call"))
			}
		}
		return true
	})
	return found
}

// packageComments: every package says what it is, in one of its files.
func packageComments(sources []*source) (found []string) {
	has, first := make(map[string]bool), make(map[string]token.Position)
	for _, s := range sources {
		if s.test() {
			continue
		}
		if _, ok := first[s.dir()]; !ok {
			first[s.dir()] = s.set.Position(s.file.Name.Pos())
		}
		has[s.dir()] = has[s.dir()] || s.file.Doc != nil
	}
	for dir := range first {
		if !has[dir] {
			found = append(found, dir+": the package has no comment")
		}
	}
	return found
}

// fixedTemp is a name in the temp folder: in code, one that two runs would share.
var fixedTemp = regexp.MustCompile(`["` + "`" + `:]/t[m]p/[a-zA-Z]`)

// unwanted is what no file of the repository may contain. The patterns are written so that they
// don't match themselves.
var unwanted = map[string]*regexp.Regexp{
	"a path of somebody's machine": regexp.MustCompile(`(^|[\s"'=(:` + "`" + `])/(work|root|home|Users)/`),
	"unfinished work":              regexp.MustCompile(`\b(TO[D]O|FIX[M]E|XX[X])\b`),
	"a merge conflict":             regexp.MustCompile(`(?m)^(<<<<<<<|>>>>>>>) `),
}

func unwantedText(f file) (found []string) {
	patterns := maps.Clone(unwanted)
	if strings.HasSuffix(f.path, ".go") {
		patterns["a fixed path in the temp folder"] = fixedTemp
	}
	for what, pattern := range patterns {
		for i, line := range strings.Split(f.text, "\n") {
			if pattern.MatchString(line) {
				found = append(found, fmt.Sprintf("%s:%d: %s: %s", f.path, i+1, what, strings.TrimSpace(line)))
			}
		}
	}
	return found
}
