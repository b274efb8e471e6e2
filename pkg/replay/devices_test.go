package replay_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/farshore/farshore/pkg/replay"
)

// loopDevice makes a block device that is full of other bytes.
func loopDevice(t *testing.T, size int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(path, []byte(strings.Repeat("x", size)), 0o600))
	out, err := exec.CommandContext(t.Context(), "losetup", "--find", "--show", path).CombinedOutput()
	if err != nil {
		t.Skipf("not run: losetup: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %v: %s", device, err, out)
		}
	})
	return device
}

// A volume goes onto a block device from wherever it comes; devices that can't take it are refused before anything is written.
func TestReplayOntoDevices(t *testing.T) {
	t.Parallel()
	fits, small := loopDevice(t, 2<<20), loopDevice(t, 512<<10)
	w := newTale(t)
	nowhere := filepath.Join(t.TempDir(), "none")
	check := func(o replay.Options, want uint64, from ...replay.Origin) {
		t.Helper()
		o.Devices = map[string]string{"a": fits}
		result, err := replay.Run(t.Context(), o)
		must(t, err)
		for _, v := range result.Volumes {
			if (v.Path == fits) != (v.Name == "a") {
				t.Errorf("volume %+v", v)
			}
			content, err := os.ReadFile(v.Path)
			must(t, err)
			if state := w.State(want)[v.Name]; string(content[:len(state)]) != string(state) {
				t.Fatalf("from %s: volume %s differs", result.From, v.Name)
			}
		}
		if result.Point.Barrier != want || len(from) > 0 && result.From != from[0] {
			t.Errorf("recovered %d from %s", result.Point.Barrier, result.From)
		}
		_, err = os.Stat(filepath.Join(o.Into, "volumes", "a.img"))
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("there is a file as well: %v", err)
		}
	}
	o := w.options(t, replay.Latest)
	o.Archive = nil
	check(o, w.last.Token.Barrier)
	o = w.options(t, "10")
	o.Dir, o.Site = nowhere, nil
	check(o, 10, replay.Archived)
	o = w.options(t, replay.Latest)
	o.Dir = nowhere
	check(o, w.last.Token.Barrier, replay.Archived)

	taken, err := os.OpenFile(fits, os.O_RDWR|unix.O_EXCL, 0)
	must(t, err)
	defer taken.Close()
	for says, devices := range map[string]map[string]string{
		"in use":         {"a": fits},
		"524288 bytes":   {"b": small},
		"same device":    {"a": small, "b": small},
		"no such volume": {"c": small},
		"no block":       {"a": "/dev/null"},
		"no such file":   {"a": "/dev/farshore-none"},
	} {
		o := w.options(t, "10")
		o.Dir, o.Devices = nowhere, devices
		_, err := replay.Run(t.Context(), o)
		var refused *replay.DeviceError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v", devices, err)
		}
		if _, err := os.Stat(o.Into); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v: something was made: %v", devices, err)
		}
		if _, err := replay.DryRun(t.Context(), o); !errors.As(err, &refused) {
			t.Errorf("%v: dry run: %v", devices, err)
		}
	}
	content, err := os.ReadFile(small)
	must(t, err)
	if strings.Trim(string(content), "x") != "" {
		t.Error("a device that was refused was written to")
	}
}

// [I] What goes on after a failure goes on with the very disk, whatever comes to have its path, and only while nobody else uses it.
func TestResumesOnTheSameDisk(t *testing.T) {
	t.Parallel()
	first, other := loopDevice(t, 2<<20), loopDevice(t, 2<<20)
	w := newTale(t)
	failure := errors.New("no API server")
	for _, again := range []string{"before-upgrade", "10"} { // the same point
		path := filepath.Join(t.TempDir(), "disk")
		lead := func(to string) {
			_ = os.Remove(path) // there may be none
			must(t, os.Symlink(to, path))
		}
		lead(first)
		o := w.options(t, "before-upgrade")
		o.Dir, o.Devices = filepath.Join(t.TempDir(), "none"), map[string]string{"a": path}
		o.Finish = func(*replay.Result) error { return failure }
		if _, err := replay.Run(t.Context(), o); !errors.Is(err, failure) {
			t.Fatal(err)
		}
		o.Finish, o.Target = nil, again
		refused := func(says string) {
			t.Helper()
			var refused *replay.DeviceError
			if _, err := replay.Run(t.Context(), o); !errors.As(err, &refused) || !strings.Contains(err.Error(), says) {
				t.Errorf("run: %v", err)
			}
			if _, err := replay.DryRun(t.Context(), o); !errors.As(err, &refused) || !strings.Contains(err.Error(), says) {
				t.Errorf("dry run: %v", err)
			}
		}
		lead(other)
		refused("another disk")
		content, err := os.ReadFile(other)
		must(t, err)
		if strings.Trim(string(content), "x") != "" {
			t.Error("the other disk was written to")
		}
		lead(first)
		taken, err := os.OpenFile(first, os.O_RDWR|unix.O_EXCL, 0)
		must(t, err)
		refused("in use")
		must(t, taken.Close())
		result, err := replay.Run(t.Context(), o)
		must(t, err)
		content, err = os.ReadFile(first)
		must(t, err)
		if state := w.State(10)["a"]; result.Point.Barrier != 10 || string(content[:len(state)]) != string(state) {
			t.Error("volume a differs")
		}
	}
}
