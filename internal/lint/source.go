// Package lint holds the repository's own rules and the tests that enforce them: which package may
// import which, how long a file or a function may be, what must be documented, and what must not
// be written at all. The general rules are gofmt's, vet's and staticcheck's.
package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// module is the import path of the repository's root.
const module = "github.com/farshore/farshore"

// source is one Go file.
type source struct {
	path string // slash-separated, from the repository's root
	text string
	set  *token.FileSet
	file *ast.File
}

func parse(path, text string) (*source, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	return &source{path, text, set, file}, nil
}

// test tells whether the file is compiled only for tests.
func (s *source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

// dir is the file's directory from the repository's root, the package's path in the module.
func (s *source) dir() string { return path.Dir(s.path) }

// imports lists the paths the file imports.
func (s *source) imports() []string {
	var out []string
	for _, spec := range s.file.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// at describes a place in the file and what is wrong there.
func (s *source) at(pos token.Pos, format string, args ...any) string {
	return fmt.Sprintf("%s:%d: %s", s.path, s.set.Position(pos).Line, fmt.Sprintf(format, args...))
}

// file is one file of the repository, of whatever kind.
type file struct {
	path string // slash-separated, from the repository's root
	text string
}

// files reads the repository's files below root, without what is built or belongs to git.
func files(root string) ([]file, error) {
	var out []file
	err := filepath.WalkDir(root, func(p string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if entry.IsDir() {
			if rel == ".git" || rel == "bin" || rel == "out" {
				return filepath.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		out = append(out, file{rel, string(text)})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read repository: %w", err)
	}
	return out, nil
}
