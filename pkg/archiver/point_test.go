package archiver

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/objects"
)

// [I] A manifest can't name files outside of the set that is made of it, nor a device.
func TestPointsHavePlainNames(t *testing.T) {
	t.Parallel()
	at := time.Unix(7, 0).UTC()
	point := func(volume, file, part string) archive.Point {
		cp := replica.Checkpoint{Group: "g", Commit: replica.Commit{Barrier: 7, Time: at}, Volumes: map[string]replica.Volume{
			volume:          {State: replica.Member, Generation: 1, Seq: 3, Barrier: 7, Size: 4096, Time: at, Device: "/dev/sda"},
			journal.Objects: {State: replica.Member, Generation: 1, Seq: 3, Barrier: 7, Time: at, Log: objects.Place{File: file, Length: 9}},
		}}
		body, err := json.Marshal(cp)
		if err != nil {
			t.Fatal(err)
		}
		return archive.Point{Barrier: 7, Time: at, Set: body, Parts: []archive.Part{{Name: volume, Size: 4096}, {Name: journal.Objects, Size: 9}, {Name: part}}}
	}
	cp, err := Checkpoint(point("v", "log-1", "w"))
	if err != nil || cp.Volumes["v"].Device != "" {
		t.Fatalf("plain names: %+v, %v", cp, err)
	}
	for _, name := range []string{"../v", "..", ".", "/v", "/", "v/w", "v/../w"} {
		for where, p := range map[string]archive.Point{"volume": point(name, "log", "w"), "log": point("v", name, "w"), "part": point("v", "log", name)} {
			if _, err := Checkpoint(p); err == nil {
				t.Errorf("%s %q is taken", where, name)
			}
		}
	}
	for _, name := range []string{"", journal.Control} {
		if _, err := Checkpoint(point(name, "log", "w")); err == nil {
			t.Errorf("volume %q is taken", name)
		}
	}
}
