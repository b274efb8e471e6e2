package archive

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/group"
)

// The archive's store runs full, can't be written and is gone. Replication goes on meanwhile, the group's status says what is wrong, and
// once the store is back what was to be archived is, the labels of the bad times among it.
func TestStoreOutOfReach(t *testing.T) {
	t.Parallel()
	random := harness.Seeded(t)
	disk := t.TempDir()
	harness.Tmpfs(t, disk, 512<<20)
	p, load := begun(t, harness.Options{Archive: "{every: 1s, directory: " + disk + "/archive}"}, random)
	labels := []uint64{p.Mark("before", limit)}
	p.WaitArchived(limit, labels...)
	ballast, away := filepath.Join(disk, "ballast"), filepath.Join(disk, "away")
	for _, fault := range []struct {
		name  string
		says  string
		spoil func() error
		mend  func() error
	}{
		{"full", "no space", func() error { harness.Fill(t, ballast); return nil }, func() error { return os.Remove(ballast) }},
		{"read-only", "read-only", remount(t, disk, syscall.MS_RDONLY), remount(t, disk, 0)},
		{"gone", "mounted", func() error {
			// As an unmounted file system leaves it: the directory is there, and nothing in it.
			return errors.Join(os.Rename(filepath.Join(disk, "archive"), away), os.Mkdir(filepath.Join(disk, "archive"), 0o700))
		}, func() error {
			// A run that was under way may have stored something; it can't have listed a point.
			return errors.Join(os.RemoveAll(filepath.Join(disk, "archive")), os.Rename(away, filepath.Join(disk, "archive")))
		}},
	} {
		if err := fault.spoil(); err != nil {
			t.Fatalf("%s: %v", fault.name, err)
		}
		labels = append(labels, p.Mark(fault.name, limit))
		says(t, p, fault.says)
		if gone, _ := filepath.Glob(filepath.Join(disk, "archive", harness.Group, "points", "*")); fault.name == "gone" && len(gone) > 0 {
			t.Errorf("points were archived where there is no archive: %v", gone)
		}
		load.Progress(t, 100)
		p.NewPoint(limit)
		if err := fault.mend(); err != nil {
			t.Fatalf("mend %s: %v", fault.name, err)
		}
		p.WaitArchived(limit, labels...)
		says(t, p, "")
	}
	load.Stop()
	points, truth := truth(t, p)
	p.LoseDR()
	restorable(t, p, points, truth)
}

// remount changes how a file system is mounted, as soon as nobody is just writing to it.
func remount(t *testing.T, dir string, flags uintptr) func() error {
	return func() error {
		harness.Eventually(t, limit, "the file system is mounted anew", func() error {
			return syscall.Mount("", dir, "", syscall.MS_REMOUNT|flags, "")
		})
		return nil
	}
}

// says waits until the condition of the archive says something; "" means that all is well. No other condition may tell of trouble.
func says(t *testing.T, p *harness.Pair, what string) {
	t.Helper()
	harness.Eventually(t, limit, fmt.Sprintf("the archive's condition says %q", what), func() error {
		s, err := p.Status()
		if err != nil {
			return err
		}
		for _, c := range s.Conditions {
			switch {
			case c.Type != group.ConditionArchive:
				if !c.OK && c.Type == group.ConditionStorage {
					return fmt.Errorf("the replicas are told to have no room: %s", c.Message)
				}
			case (what == "") != c.OK || !strings.Contains(strings.ToLower(c.Message), what):
				return fmt.Errorf("it says %q (%s)", c.Message, harness.Describe(s))
			default:
				return nil
			}
		}
		return errors.New("there is no such condition")
	})
}
