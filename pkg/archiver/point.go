package archiver

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
)

// maxFormat is the newest format of checkpoints that is understood.
const maxFormat = 2

// Checkpoint returns what the set held whose parts a point has: what replica.Plant needs once they are in place. No volume of it is on a
// device, and its names are safe as names of files. An error means that the point was made by a newer Farshore, isn't whole, or has other names.
func Checkpoint(p archive.Point) (replica.Checkpoint, error) {
	var cp replica.Checkpoint
	if err := json.Unmarshal(p.Set, &cp); err != nil {
		return cp, fmt.Errorf("archived point %d: its checkpoint: %w", p.Barrier, err)
	}
	if cp.Format > maxFormat {
		return cp, fmt.Errorf("archived point %d: its checkpoint's format %d is newer than %d; use a newer Farshore", p.Barrier, cp.Format, maxFormat)
	}
	if !cp.Whole() || cp.Commit.Barrier != p.Barrier {
		return cp, fmt.Errorf("archived point %d: its checkpoint is one of barrier %d, or between two", p.Barrier, cp.Commit.Barrier)
	}
	if err := plain(p, cp); err != nil {
		return cp, fmt.Errorf("archived point %d: %w", p.Barrier, err)
	}
	for _, name := range Parts(cp) {
		v := cp.Volumes[name]
		part := p.Part(name)
		if part == nil || part.Size != size(name, v) {
			return cp, fmt.Errorf("archived point %d: it has no part %s of %d bytes, which its checkpoint names", p.Barrier, name, size(name, v))
		}
	}
	return withoutDevices(cp), nil
}

// plain refuses names that lead out of a set's directories. Whoever can write to an archive without encryption can write any name into a manifest.
func plain(p archive.Point, cp replica.Checkpoint) error {
	names := slices.Collect(maps.Keys(cp.Volumes))
	for _, part := range p.Parts {
		names = append(names, part.Name)
	}
	for _, name := range names {
		if name == journal.Objects {
			continue
		}
		if err := journal.ValidVolume(name); err != nil {
			return fmt.Errorf("a part of it: %w", err)
		}
	}
	for _, v := range cp.Volumes {
		if f := v.Log.File; f != "" && (f == "." || !filepath.IsLocal(f) || filepath.Base(f) != f) {
			return fmt.Errorf("the log of its objects is named %q, which is no plain name of a file", f)
		}
	}
	return nil
}

// Parts returns the names of what a set at a checkpoint has in archives, sorted: volumes that hold something, and journal.Objects
// where there is a log of them.
func Parts(cp replica.Checkpoint) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(cp.Volumes)), func(name string) bool {
		v := cp.Volumes[name]
		return v.Seq == 0 || name == journal.Objects && v.Log.File == ""
	})
}

// size returns how many bytes of a part count.
func size(name string, v replica.Volume) int64 {
	if name == journal.Objects {
		return v.Log.Length
	}
	return v.Size
}

// pointOf returns the point of a set, without its parts. On which devices the set has volumes is nothing that lasts.
func pointOf(cp replica.Checkpoint) (archive.Point, error) {
	body, err := json.Marshal(withoutDevices(cp))
	c := cp.Commit
	return archive.Point{Barrier: c.Barrier, Time: c.Time, Kind: c.Kind, Label: c.Label, Set: body}, err
}

// commitOf returns the commit that a point is of.
func commitOf(p *archive.Point) replica.Commit {
	return replica.Commit{Barrier: p.Barrier, Time: p.Time, Kind: p.Kind, Label: p.Label}
}

// withoutDevices returns a copy of a checkpoint whose volumes are all files.
func withoutDevices(cp replica.Checkpoint) replica.Checkpoint {
	cp = cp.Clone()
	for name, v := range cp.Volumes {
		v.Device = ""
		cp.Volumes[name] = v
	}
	return cp
}
