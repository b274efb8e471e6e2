package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/replica"
)

const (
	resticVersion = "v0.18.1"
	resticModule  = "github.com/restic/restic/cmd/restic"
)

func init() {
	parts["archive-write"] = archiveWrite
	parts["archive-restore"] = archiveRestore
}

// openBenchArchive opens the archive in a directory, or makes it: STORE CACHE IDENTITY.
func openBenchArchive(ctx context.Context, args []string) (*archive.Archive, error) {
	s, err := store.NewDir(args[0])
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(args[2])
	if err != nil {
		return nil, err
	}
	identity, err := age.ParseX25519Identity(strings.TrimSpace(string(raw)))
	if err != nil {
		return nil, err
	}
	return archive.Create(ctx, archive.Options{
		Store: s, Group: "bench", Cache: args[1], Recipients: []age.Recipient{identity.Recipient()}, Identities: []age.Identity{identity},
	})
}

// archiveWrite archives an image: STORE CACHE IDENTITY IMAGE BARRIER CHANGED. Where the last one isn't empty it names a file of the ranges that
// changed since the newest point, which the applier knows from the journal.
func archiveWrite(ctx context.Context, args []string) (err error) {
	defer profiled("archive-write")()
	a, err := openBenchArchive(ctx, args)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	image, err := os.Open(args[3])
	if err != nil {
		return err
	}
	defer image.Close()
	info, err := image.Stat()
	if err != nil {
		return err
	}
	barrier, err := strconv.ParseUint(args[4], 10, 64)
	if err != nil {
		return err
	}
	s := archive.Source{Name: "image", Size: info.Size(), Image: image}
	if args[5] != "" {
		points, _, err := a.Points(ctx)
		if err != nil {
			return err
		}
		if len(points) == 0 {
			return errors.New("there is no point before")
		}
		s.Before = points[len(points)-1].Part(s.Name)
		if s.Changed, err = readChanged(args[5], s.Size); err != nil {
			return err
		}
	}
	r, err := a.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	part, err := r.Add(ctx, s)
	if err != nil {
		return err
	}
	_, err = r.Commit(ctx, archive.Point{Barrier: barrier, Time: time.Now(), Parts: []archive.Part{part}, Set: []byte("{}")})
	return err
}

func readChanged(path string, size int64) (*grid.Set, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var ranges [][2]int64
	if err := json.Unmarshal(raw, &ranges); err != nil {
		return nil, err
	}
	set := grid.New(size)
	for _, r := range ranges {
		set.Mark(r[0], r[1])
	}
	return set, nil
}

// archiveRestore restores the newest point into a new file, as replay does; with SYNC 0 it leaves it in the page cache: STORE CACHE IDENTITY INTO SYNC.
func archiveRestore(ctx context.Context, args []string) (err error) {
	defer profiled("archive-restore")()
	a, err := openBenchArchive(ctx, args)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	points, _, err := a.Points(ctx)
	if err != nil {
		return err
	}
	if len(points) == 0 {
		return errors.New("there is no point")
	}
	part := points[len(points)-1].Parts[0]
	t, err := replica.OpenFile(args[3], part.Size, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	o := archive.RestoreOptions{Sink: blank{t}}
	if args[4] == "1" {
		o.Done = func(int64) error { return t.Sync() }
	}
	return a.Restore(ctx, part, o)
}

// blank is a new file: all of it reads as zero already. Replay's is like this.
type blank struct{ replica.Target }

// Zero implements archive.Sink.
func (blank) Zero(int64, int64) error { return nil }

// profiled writes a profile of this process into the folder that FARSHORE_BENCH_PROFILES names, when its result is called.
func profiled(name string) func() {
	dir := os.Getenv("FARSHORE_BENCH_PROFILES")
	if dir == "" {
		return func() {}
	}
	f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s-%d.prof", name, os.Getpid())))
	if err == nil {
		err = pprof.StartCPUProfile(f)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "profile:", err)
		return func() {}
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close() // what is missing is seen by who reads it
	}
}

// resticProgram finds restic, and builds it once where it isn't in the cache of tools, as scripts/test.sh does.
func resticProgram(ctx context.Context) (string, error) {
	cache := os.Getenv("FARSHORE_TOOLS")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(user, "farshore", "tools")
	}
	dir := filepath.Join(cache, resticVersion+"-"+runtime.Version())
	path := filepath.Join(dir, "restic")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	fmt.Println("  building restic", resticVersion)
	build := exec.CommandContext(ctx, "go", "install", resticModule+"@"+resticVersion)
	build.Env = append(os.Environ(), "GOBIN="+dir)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build restic: %w: %s", err, out)
	}
	return path, nil
}

// measured is what a process took.
type measured struct {
	took   time.Duration
	cpu    time.Duration
	memory int64 // resident at the peak, bytes
	own    int64 // of them without what is mapped of files, as the index is, which the kernel takes back when it likes
}

// runMeasured runs a command to its end.
func runMeasured(ctx context.Context, env []string, args ...string) (measured, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Env = append(os.Environ(), env...)
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return measured{}, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var m measured
	for {
		select {
		case err := <-done:
			if err != nil {
				return m, fmt.Errorf("%s %s: %w: %s", filepath.Base(args[0]), args[1], err, said.String())
			}
			m.took = time.Since(begun)
			m.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			return m, nil
		case <-time.After(20 * time.Millisecond):
			if _, peak, err := memoryOf(cmd.Process.Pid); err == nil { // it may have ended
				m.memory = max(m.memory, peak)
			}
			if own, err := ownMemory(cmd.Process.Pid); err == nil {
				m.own = max(m.own, own)
			}
		}
	}
}

// ownMemory is a process's resident memory that is no file's, in bytes.
func ownMemory(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, is := strings.CutPrefix(line, "RssAnon:"); is {
			var kib int64
			_, err := fmt.Sscanf(rest, "%d kB", &kib)
			return kib << 10, err
		}
	}
	return 0, errors.New("the kernel doesn't tell")
}
