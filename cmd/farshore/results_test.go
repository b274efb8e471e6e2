package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal/journaltest"
	"github.com/farshore/farshore/pkg/replay"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 123456000, time.UTC)

func number[T any](v T) *T { return &v }

func points() []replay.Point {
	both := []string{"orders", "stock"}
	return []replay.Point{
		{Barrier: 1, Time: noon, Kind: "crash", Volumes: both, Reason: "trimmed: the base is at barrier 2"},
		{Barrier: 2, Time: noon.Add(time.Second), Kind: "labeled", Label: "before-upgrade", Volumes: both, Bytes: number[uint64](5 << 20), Restorable: true, Objects: true, Revision: "81223"},
		{Barrier: 3, Time: noon.Add(2 * time.Second), Kind: "crash", Volumes: both, Bytes: number[uint64](0), Restorable: true, Objects: true},
		{Barrier: 4, Time: noon.Add(3 * time.Second), Kind: "crash", Volumes: both, Reason: "volume stock: 7 of 9 arrived"},
		{Barrier: 5, Time: noon.Add(4 * time.Second), Kind: "crash", Volumes: []string{}, Restorable: true, Objects: true, Revision: "81240"},
	}
}

func TestPointsForms(t *testing.T) {
	var text, js bytes.Buffer
	list := points()
	list[1].Archived = true
	if err := printPoints(&text, list); err != nil {
		t.Fatal(err)
	}
	golden(t, "points.txt", text.String())
	if err := printJSON(&js, newest(list, 1)); err != nil {
		t.Fatal(err)
	}
	golden(t, "points.json", js.String())
}

func TestNewest(t *testing.T) {
	for limit, want := range map[int]string{0: "12345", 1: "25", 2: "245", 9: "12345"} {
		got := ""
		for _, p := range newest(points(), limit) {
			got += string(rune('0' + p.Barrier))
		}
		if got != want {
			t.Errorf("newest %d: barriers %s, want %s", limit, got, want)
		}
	}
}

func TestMarkForms(t *testing.T) {
	m := markOf(&events.Commit{
		Token: events.Token{Epoch: 3, Barrier: 231}, Label: "before-upgrade", Time: noon, Hold: 3100 * time.Microsecond,
		Vector: []events.VectorEntry{{Volume: "orders"}, {Volume: "stock"}},
	})
	golden(t, "mark.txt", m.String()+"\n")
	var js bytes.Buffer
	if err := printJSON(&js, m); err != nil {
		t.Fatal(err)
	}
	golden(t, "mark.json", js.String())
}

func TestReplayForm(t *testing.T) {
	var text bytes.Buffer
	err := (&replayed{Result: &replay.Result{
		Point: points()[1], From: replay.Base, Base: 1, Bytes: 5 << 20, Elapsed: 1500 * time.Millisecond,
		Volumes: []replay.Volume{{Name: "orders", Path: "/srv/r/volumes/orders.img", Size: 10 << 30}, {Name: "stock", Path: "/srv/r/volumes/stock.img", Size: 1 << 30}},
	}}).print(&text)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "replay.txt", text.String())
}

func TestStatusOfASite(t *testing.T) {
	pair := journaltest.Sites(t)
	site := pair.DR
	g := document(t, nowhere, pair.DRURL())
	if _, errs, code := invoke(t, "status", "--group", g); code != 1 || !strings.Contains(errs, "is the group's applier running?") {
		t.Errorf("without a bucket: exit code %d, %s", code, errs)
	}
	kv, err := site.KV(t.Context(), group.StatusBucket, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, errs, code := invoke(t, "status", "--group", g); code != 1 || !strings.Contains(errs, "is the group's applier running?") {
		t.Errorf("without a status: exit code %d, %s", code, errs)
	}
	want := group.Status{Group: "shop", Applier: "a-1", Time: noon, Phase: group.PhaseFollowing, Volumes: []group.VolumeStatus{{Name: "orders", State: "member"}}}
	doc, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(t.Context(), "shop", doc); err != nil {
		t.Fatal(err)
	}
	out, errs, code := invoke(t, "status", "--group", g, "-o", "json")
	var got group.Status
	if err := json.Unmarshal([]byte(out), &got); code != 0 || err != nil || got.Volumes[0].Name != "orders" || !got.Time.Equal(noon) {
		t.Errorf("exit code %d, %v, %s%s", code, err, out, errs)
	}
	out, errs, code = invoke(t, "status", "--group", g)
	if code != 0 || !strings.Contains(out, "group shop   Following") || !strings.Contains(out, "is the applier running? (a-1 wrote it)") || errs != "" {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	if _, errs, code := invoke(t, "points", "--group", g); code != 1 || !strings.Contains(errs, "no journal of the group") {
		t.Errorf("points of a site without mirrors: exit code %d, %s", code, errs)
	}
	if _, errs, code := invoke(t, "replay", "--group", g, "--to", "latest", "--into", t.TempDir()); code != 1 || !strings.Contains(errs, "no journal of the group") {
		t.Errorf("replay at a site without mirrors: exit code %d, %s", code, errs)
	}
	if _, errs, code := invoke(t, "mark", "--group", g, "--label", "x", "--timeout", "300ms"); code != 1 || !strings.Contains(errs, "no snapshotter answers") {
		t.Errorf("mark through the DR site, no snapshotter: exit code %d, %s", code, errs)
	}
}
