package harness

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// clockVariable names the file that a process built with clocks takes its clock's error from: eight bytes,
// nanoseconds, in the machine's order. The file is mapped: what is written there counts at once.
const clockVariable = "FARSHORE_TEST_CLOCK"

// The two places of the standard library's time.go that are changed.
const (
	importBefore = "\t_ \"unsafe\" // for go:linkname\n"
	importAfter  = "\t\"syscall\"\n\t\"unsafe\"\n"
	nowBefore    = "\tsec, nsec, mono := runtimeNow()\n\tif mono == 0 {\n\t\treturn Time{uint64(nsec), sec + unixToInternal, Local}"
	nowAfter     = "\tsec, nsec, mono := runtimeNow()\n\tsec, nsec = wrong(sec, nsec)\n\tif mono == 0 {\n\t\treturn Time{uint64(nsec), sec + unixToInternal, Local}"
)

const wrongClock = `
// wrongBy is the error of this process's wall clock in nanoseconds; nil: it has none.
var wrongBy = mapClock()

func mapClock() *int64 {
	path, ok := syscall.Getenv("` + clockVariable + `")
	if !ok {
		return nil
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		panic("open " + path + ": " + err.Error())
	}
	b, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("map " + path + ": " + err.Error())
	}
	_ = syscall.Close(fd)
	return (*int64)(unsafe.Pointer(&b[0]))
}

// wrong adds the clock's error to a reading of the wall clock.
func wrong(sec int64, nsec int32) (int64, int32) {
	if wrongBy == nil {
		return sec, nsec
	}
	by := *wrongBy
	sec, by = sec+by/1e9, by%1e9+int64(nsec)
	if by < 0 {
		sec, by = sec-1, by+1e9
	} else if by >= 1e9 {
		sec, by = sec+1, by-1e9
	}
	return sec, int32(by)
}
`

// overlay writes into dir a copy of the standard library's time.go whose wall clock can be wrong, and
// the file that makes `go build -overlay` use it. The monotonic clock and timers stay as they are,
// and so do the times of files: those are the kernel's.
func overlay(dir string) (string, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("find the standard library: %w", err)
	}
	original := filepath.Join(strings.TrimSpace(string(out)), "src", "time", "time.go")
	text, err := os.ReadFile(original)
	if err != nil {
		return "", err
	}
	changed := strings.Replace(string(text), nowBefore, nowAfter, 1)
	changed = strings.Replace(changed, importBefore, importAfter, 1)
	if !strings.Contains(changed, nowAfter) || !strings.Contains(changed, importAfter) {
		return "", fmt.Errorf("%s is not as expected: this Go version needs another patch", original)
	}
	patched, list := filepath.Join(dir, "time.go"), filepath.Join(dir, "overlay.json")
	b, err := json.Marshal(map[string]map[string]string{"Replace": {original: patched}})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(patched, []byte(changed+wrongClock), 0o600); err != nil {
		return "", err
	}
	return list, os.WriteFile(list, b, 0o600)
}

// clockBinaries returns the folder of the binaries whose wall clocks can be set wrong, built when a test first
// asks for them.
var clockBinaries = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(binaries, "clocks")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	list, err := overlay(dir)
	if err != nil {
		return "", err
	}
	return dir, Build(dir, os.Getenv("FARSHORE_TEST_TAGS"), "-overlay", list)
})

// Clock is the wall clock of one site's processes, its NATS server's included.
type Clock struct {
	t    testing.TB
	path string
}

func newClock(t testing.TB, path string) *Clock {
	t.Helper()
	c := &Clock{t, path}
	if err := os.WriteFile(path, make([]byte, 8), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// Set makes the clock wrong by d from now on: a step, while everything runs.
func (c *Clock) Set(d time.Duration) {
	c.t.Helper()
	f, err := os.OpenFile(c.path, os.O_WRONLY, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(d)), 0); err != nil {
		c.t.Fatal(err)
	}
}

// environment is what a process of the site is started with.
func (c *Clock) environment() []string { return []string{clockVariable + "=" + c.path} }
