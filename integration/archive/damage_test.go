package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/archive"
)

// One pack after the other is altered, cut off and deleted. `farshore archive check` names the points that this costs, and those alone: they are
// refused, and every other one restores as it was written.
func TestDamageCostsThePointsThatUseIt(t *testing.T) {
	t.Parallel()
	random := harness.Seeded(t)
	p, load := begun(t, harness.Options{Archive: "{every: 0s}"}, random)
	var labels []uint64
	for i := range 5 {
		load.Progress(t, 100)
		labels = append(labels, p.Mark(fmt.Sprintf("label-%d", i), limit))
		p.WaitArchived(limit, labels...)
	}
	load.Stop()
	points, truth := truth(t, p)
	p.LoseDR()
	if found := check(t, p); len(found.Damaged) > 0 {
		t.Fatalf("damaged before anything was done to it: %+v", found.Damaged)
	}
	some := false
	for _, pack := range packs(t, p) {
		whole, err := os.ReadFile(pack)
		if err != nil {
			t.Fatal(err)
		}
		how := harm(t, pack, whole, random)
		costs := make(map[uint64]bool)
		for _, d := range check(t, p).Damaged {
			for _, b := range d.Points {
				costs[b] = true
			}
		}
		t.Logf("%s %s costs %d of %d points", filepath.Base(pack)[:8], how, len(costs), len(points))
		some = some || len(costs) > 0 && len(costs) < len(points)
		for _, x := range points {
			err := p.FromArchive(x.Barrier, truth)
			switch {
			case costs[x.Barrier] && err == nil:
				t.Errorf("%s, %s: barrier %d is named as damaged and can be restored", pack, how, x.Barrier)
			case costs[x.Barrier] && errors.Is(err, harness.ErrWrong), !costs[x.Barrier] && err != nil:
				t.Errorf("%s, %s: barrier %d: %v", pack, how, x.Barrier, err)
			}
		}
		if err := os.WriteFile(pack, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if !some {
		t.Error("no pack was used by some of the points and not by others: nothing was seen of their independence")
	}
	restorable(t, p, points, truth)
}

// harm alters a byte of a file, cuts off its end or deletes it, and tells which.
func harm(t *testing.T, path string, whole []byte, random *rand.Rand) (how string) {
	t.Helper()
	var err error
	switch at := random.IntN(len(whole)); random.IntN(4) {
	case 0:
		how, err = "deleted", os.Remove(path)
	case 1:
		how, err = fmt.Sprintf("cut off at %d of %d", at, len(whole)), os.WriteFile(path, whole[:at], 0o600)
	default:
		altered := bytes.Clone(whole)
		altered[at] ^= 1 << random.IntN(8)
		how, err = fmt.Sprintf("altered at %d of %d", at, len(whole)), os.WriteFile(path, altered, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return how
}

func packs(t *testing.T, p *harness.Pair) (found []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(p.ArchiveStore(), "packs"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			found = append(found, path)
		}
		return err
	})
	if err != nil || len(found) < 2 {
		t.Fatalf("packs %v: %v", found, err)
	}
	slices.Sort(found)
	return found
}

// check runs `farshore archive check` over all data.
func check(t *testing.T, p *harness.Pair) (found archive.Checked) {
	t.Helper()
	out, err := p.Farshore("archive", "check", "--read-data", "-o", "json")
	if jsonErr := json.Unmarshal([]byte(out), &found); jsonErr != nil {
		t.Fatalf("check: %v: %q: %v", jsonErr, out, err)
	}
	if (err != nil) != (len(found.Damaged) > 0) {
		t.Fatalf("check found %d damaged objects and ended with %v", len(found.Damaged), err)
	}
	return found
}
