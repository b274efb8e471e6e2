// Package postgres lets a real database judge what Farshore recovers. PostgreSQL runs on two protected
// volumes, its data on one and its write-ahead log on the other, as a pod would see them: the
// capturer's NBD socket, nbdfuse, a loop device, ext4. Clients commit and note outside of the volumes what
// was acknowledged and when. Then the site is lost, and PostgreSQL is started on the volumes as they
// were at many recovery points.
//
// Every point has to pass: PostgreSQL recovers by itself; each client's rows are a prefix of what
// it issued; every commit acknowledged before the point's time is there, and none that was issued after it;
// the sums hold; pg_amcheck finds tables and indexes sound. fsck is told for information only: it finds
// nothing where PostgreSQL finds lost writes.
//
// The tests need root, for mounts and loop devices, and skip without. They run in mount, PID and IPC
// namespaces of their own, so that the kernel removes every mount, loop device, process and shared memory
// segment whatever way they end.
package postgres

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/farshore/farshore/integration/harness"
)

// isolated marks the process that runs in namespaces of its own.
const isolated = "FARSHORE_TEST_ISOLATED"

func TestMain(m *testing.M) {
	switch {
	case os.Getuid() != 0:
		os.Exit(m.Run()) // the tests say why they skip
	case os.Getenv(isolated) == "":
		os.Exit(isolate())
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		fmt.Fprintln(os.Stderr, "mount /proc of the tests' PID namespace:", err)
		os.Exit(1)
	}
	os.Exit(harness.Main(m))
}

// isolate runs this program again, as the first process of its namespaces, and returns its exit code.
func isolate() int {
	runtime.LockOSThread() // Pdeathsig is about the thread that started the process
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig:    syscall.SIGKILL,
		Cloneflags:   unix.CLONE_NEWPID | unix.CLONE_NEWIPC,
		Unshareflags: unix.CLONE_NEWNS,
	}
	err := cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run the tests in namespaces of their own:", err)
		return 1
	}
	return 0
}

// needs is what the tests need of the machine.
type needs struct {
	bin  string              // folder of PostgreSQL's programs
	user *syscall.Credential // PostgreSQL doesn't run as root
}

func require(t *testing.T) needs {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("not run: mounts and loop devices need root")
	}
	for _, tool := range []string{"nbdfuse", "mkfs.ext4", "e2fsck", "fstrim"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, tool)
		}
	}
	for _, device := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(device); err != nil {
			missing(t, device)
		}
	}
	n := needs{bin: programs()}
	if n.bin == "" {
		missing(t, "PostgreSQL's server with pg_amcheck")
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errU := strconv.ParseUint(u.Uid, 10, 32)
		gid, errG := strconv.ParseUint(u.Gid, 10, 32)
		if errU == nil && errG == nil {
			n.user = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
			return n
		}
	}
	missing(t, "a user postgres or nobody")
	return n
}

// programs finds the newest PostgreSQL where Debian and others install it.
func programs() string {
	candidates, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is well formed
	version := func(dir string) int {
		n, _ := strconv.Atoi(strings.Split(dir, "/")[4])
		return n
	}
	slices.SortFunc(candidates, func(a, b string) int { return version(b) - version(a) })
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			candidates = append(candidates, filepath.Dir(path))
		}
	}
	for _, dir := range candidates {
		whole := true
		for _, name := range []string{"postgres", "initdb", "psql", "pg_amcheck"} {
			_, err := os.Stat(filepath.Join(dir, name))
			whole = whole && err == nil
		}
		if whole {
			return dir
		}
	}
	return ""
}

// missing reports the test as not run; with FARSHORE_REQUIRE_TOOLS=1 it fails.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("FARSHORE_REQUIRE_TOOLS") == "1" {
		t.Fatalf("not run: %s missing", what)
	}
	t.Skipf("not run: %s missing", what)
}
