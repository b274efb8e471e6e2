package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// module is the Go module that holds the programs.
const module = "github.com/farshore/farshore"

var programNames = []string{"capturer", "snapshotter", "applier", "farshore"}

// programs finds the programs: in bin where it is given, else beside the running one, else it builds
// them into scratch.
func programs(ctx context.Context, bin, scratch string, log io.Writer) (string, error) {
	if bin != "" {
		if err := complete(bin); err != nil {
			return "", fmt.Errorf("%w: build them with `make build`", err)
		}
		return filepath.Abs(bin)
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if dir := filepath.Dir(self); complete(dir) == nil {
		return dir, nil
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	fmt.Fprintln(log, "building the programs …")
	args := []string{"build", "-o", scratch + string(filepath.Separator)}
	for _, name := range programNames {
		args = append(args, module+"/cmd/"+name)
	}
	build := exec.CommandContext(ctx, "go", args...)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the programs: %w\n%s", err, bytes.TrimSpace(out))
	}
	return scratch, nil
}

// complete checks that dir holds all programs.
func complete(dir string) error {
	var missing []error
	for _, name := range programNames {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			missing = append(missing, fmt.Errorf("no program %s", filepath.Join(dir, name)))
		}
	}
	return errors.Join(missing...)
}

// moduleRoot is the root of the source tree around the working directory.
func moduleRoot(ctx context.Context) (string, error) {
	hint := errors.New("capturer, snapshotter and applier are not beside this program: name their directory with --bin, or run `make demo` in the source tree")
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Path}}\n{{.Dir}}").Output()
	if err != nil {
		return "", hint
	}
	path, dir, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
	if string(path) != module {
		return "", hint
	}
	return string(dir), nil
}
