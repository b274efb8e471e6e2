package replicatest

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
)

// Archive archives what the set at dir holds, which nothing may change meanwhile, as the DR site's archiver does.
func Archive(t testing.TB, a *archive.Archive, dir string) archive.Point {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	cp, err := replica.ReadCheckpoint(dir)
	must(err)
	set, err := json.Marshal(cp)
	must(err)
	run, err := a.Begin(t.Context())
	must(err)
	c := cp.Commit
	p := archive.Point{Barrier: c.Barrier, Time: c.Time, Kind: c.Kind, Label: c.Label, Set: set}
	for _, name := range slices.Sorted(maps.Keys(cp.Volumes)) {
		v := cp.Volumes[name]
		path, size := replica.VolumePath(dir, name), v.Size
		if name == journal.Objects {
			path, size = replica.LogPath(dir, v), v.Log.Length
		}
		if v.Seq == 0 || path == "" {
			continue
		}
		f, err := os.Open(path)
		must(err)
		part, err := run.Add(t.Context(), archive.Source{Name: name, Size: size, Image: f})
		must(errors.Join(err, f.Close()))
		p.Parts = append(p.Parts, part)
	}
	p, err = run.Commit(t.Context(), p)
	must(errors.Join(err, run.Close()))
	return p
}
