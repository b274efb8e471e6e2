package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/objects"
)

// archiveDocument writes a document whose archive is a directory, and returns its path and that of the group's archive.
func archiveDocument(t *testing.T, more string) (doc, dir string) {
	t.Helper()
	at := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	doc = document(t, nowhere, nowhere)
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("recovery: {"), []byte("recovery: {archive: {directory: "+at+", keep: {hourly: 0, daily: 0, weekly: 0, monthly: 0, last: 2}"+more+"}, "), 1)
	if err := os.WriteFile(doc, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return doc, filepath.Join(at, "shop")
}

// archivePoints archives points at barriers 1 to n, the second of which is labelled.
func archivePoints(t *testing.T, dir string, n int, recipients ...age.Recipient) {
	t.Helper()
	s, err := store.NewDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	o := archive.Options{Store: s, Group: "shop", Recipients: recipients}
	if len(recipients) > 0 {
		o.Recipients, o.Identities = append(o.Recipients, id.Recipient()), []age.Identity{id}
	}
	a, err := archive.Create(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := archivePoint(t.Context(), a, uint64(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
}

func archivePoint(ctx context.Context, a *archive.Archive, barrier uint64) (err error) {
	r, err := a.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	p := archive.Point{Barrier: barrier, Time: noon.Add(time.Duration(barrier) * time.Hour), Kind: "crash"}
	if barrier == 2 {
		p.Kind, p.Label = "labeled", "before-upgrade"
	}
	content := bytes.Repeat([]byte{byte(barrier)}, 100<<10)
	set := replica.Checkpoint{
		Format: 2, Group: "shop", Commit: replica.Commit{Barrier: p.Barrier, Time: p.Time, Kind: p.Kind, Label: p.Label},
		Volumes: map[string]replica.Volume{
			"orders":        {State: replica.Member, Seq: 1, Size: int64(len(content))},
			journal.Objects: {State: replica.Member, Seq: 1, Log: objects.Place{File: "log", Length: int64(len(content))}},
		},
	}
	if p.Set, err = json.Marshal(set); err != nil {
		return err
	}
	for _, name := range []string{journal.Objects, "orders"} {
		part, err := r.Add(ctx, archive.Source{Name: name, Size: int64(len(content)), Image: bytes.NewReader(content)})
		if err != nil {
			return err
		}
		p.Parts = append(p.Parts, part)
	}
	_, err = r.Commit(ctx, p)
	return err
}

func TestArchiveCommands(t *testing.T) {
	doc, dir := archiveDocument(t, "")
	run := func(want int, args ...string) (out, errs string) {
		t.Helper()
		out, errs, code := invoke(t, append(append([]string{"archive"}, args...), "--group", doc)...)
		if code != want {
			t.Fatalf("archive %q: exit code %d, want %d: %s%s", args, code, want, out, errs)
		}
		return out, errs
	}
	has := func(text string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not in:\n%s", want, text)
			}
		}
	}
	_, errs := run(1, "list")
	has(errs, "no archive here", dir)
	archivePoints(t, dir, 5)

	out, _ := run(0, "list")
	has(out, "BARRIER", "before-upgrade", "2026-05-04T17:00:00Z", "200 KiB", "orders")
	var list archiveList
	out, _ = run(0, "list", "-o", "json")
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Points) != 5 || list.Points[1].Label != "before-upgrade" || list.Points[0].Data != 200<<10 || list.Damaged == nil {
		t.Errorf("%v: %s", err, out)
	}
	if out, _, _ := invoke(t, "__complete", "archive", "prune", "--group", doc, "--remove", ""); !strings.Contains(out, "2\t2026-05-04T14:00:00Z before-upgrade") {
		t.Errorf("completion: %s", out)
	}
	out, errs, code := invoke(t, "points", "--from-archive", "--group", doc)
	if code != 0 {
		t.Errorf("points of the archive: exit code %d, %s", code, errs)
	}
	has(out, "before-upgrade", "2026-05-04T17:00:00.123456Z", "ARCHIVED", "orders")
	out, _ = run(0, "stats")
	has(out, "points", "5, from 2026-05-04T13:00:00Z", "1000 KiB", "times smaller")
	out, _ = run(0, "check", "--read-data=50%", "-o", "json")
	var checked archive.Checked
	if err := json.Unmarshal([]byte(out), &checked); err != nil || checked.Points != 5 || checked.Read != (checked.Packs+1)/2 || len(checked.Damaged) > 0 {
		t.Errorf("%v: %s", err, out)
	}

	out, _ = run(0, "prune", "--dry-run")
	has(out, "would remove 2 points", "no", "label", "last")
	out, _ = run(0, "prune", "-o", "json")
	var done pruned
	if err := json.Unmarshal([]byte(out), &done); err != nil || done.Removed != 2 || len(done.Points) != 5 || len(done.Points[0].Reasons) != 0 || done.Freed <= 0 {
		t.Errorf("%v: %s", err, out)
	}
	out, _ = run(0, "check", "--read-data")
	has(out, "checked 3 points", "that of all was read", "every point can be restored")

	// Damage has an exit code, names the points, and can be given up.
	packs, err := filepath.Glob(filepath.Join(dir, "packs", "*", "*"))
	if err != nil || len(packs) == 0 {
		t.Fatal(packs, err)
	}
	if err := os.Truncate(packs[0], 100); err != nil {
		t.Fatal(err)
	}
	out, errs = run(1, "check")
	has(out, "DAMAGED", filepath.Base(packs[0]))
	has(errs, "the archive is damaged")
	out, _ = run(1, "check", "-o", "json")
	if err := json.Unmarshal([]byte(out), &checked); err != nil || len(checked.Damaged) != 1 || len(checked.Damaged[0].Points) != 1 {
		t.Fatalf("%v: %s", err, out)
	}
	_, errs = run(1, "prune")
	has(errs, "--remove BARRIER")
	lost := barriers(checked.Damaged[0].Points)
	out, _ = run(0, "prune", "--remove", lost)
	has(out, "removed 1 points")
	run(0, "check", "--read-data")
}

func TestEncryptedArchiveCommands(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	doc, dir := archiveDocument(t, ", recipients: ["+id.Recipient().String()+"], identities: "+filepath.Join(t.TempDir(), "unreadable"))
	archivePoints(t, dir, 1, id.Recipient())
	_, errs, code := invoke(t, "archive", "list", "--group", doc)
	if code != 1 || !strings.Contains(errs, "none of the identities opens it") || !strings.Contains(errs, "unreadable") || !strings.Contains(errs, "--identity") {
		t.Errorf("without a key: exit code %d, %s", code, errs)
	}
	out, errs, code := invoke(t, "archive", "list", "--group", doc, "--identity", key)
	if code != 0 || !strings.Contains(out, "crash") {
		t.Errorf("with the key: exit code %d, %s%s", code, out, errs)
	}
}

func TestArchiveMistakes(t *testing.T) {
	with, _ := archiveDocument(t, "")
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"no archive":       {[]string{"list", "--group", document(t, nowhere, nowhere)}, "no spec.recovery.archive"},
		"no document":      {[]string{"stats"}, "--group FILE"},
		"unknown command":  {[]string{"lst"}, `unknown command "lst"`},
		"extra argument":   {[]string{"check", "5%", "--group", with}, `unexpected argument "5%"`},
		"share":            {[]string{"check", "--group", with, "--read-data=150%"}, `"150%" is no share`},
		"no share":         {[]string{"check", "--group", with, "--read-data=0"}, `"0" is no share`},
		"barrier":          {[]string{"prune", "--group", with, "--remove", "x"}, `"x" is no barrier`},
		"unused":           {[]string{"prune", "--group", with, "--unused", "2"}, "--unused"},
		"form":             {[]string{"list", "--group", with, "-o", "yaml"}, `"yaml" is not one of`},
		"identity missing": {[]string{"list", "--group", with, "--identity", "/nonexistent"}, "--identity"},
	} {
		_, errs, code := invoke(t, append([]string{"archive"}, c.args...)...)
		if code != 2 || !strings.Contains(errs, c.says) {
			t.Errorf("%s: exit code %d, %q is not in: %s", name, code, c.says, errs)
		}
	}
}

func TestArchiveForms(t *testing.T) {
	var text bytes.Buffer
	list := archiveList{Points: []archivedPoint{
		{Barrier: 4711, Time: noon, Kind: "labeled", Label: "before-upgrade", Created: noon.Add(time.Minute), Data: 8 << 30, Added: 8 << 29, Parts: []archivedPart{{Name: journal.Objects}, {Name: "orders"}, {Name: "stock"}}},
		{Barrier: 8311, Time: noon.Add(time.Hour), Kind: "crash", Created: noon.Add(61 * time.Minute), Data: 8 << 30, Added: 3 << 20, Parts: []archivedPart{{Name: "orders"}, {Name: "stock"}}},
	}}
	prune := pruned{Pruned: &archive.Pruned{Removed: 1, Packs: 12, Repacked: 3, Condemned: 2, Freed: 100 << 20, BytesBefore: 1 << 30, AbandonedRuns: 1}, Points: []prunedPoint{
		{Barrier: 4711, Time: noon, Kind: "labeled", Label: "before-upgrade", Reasons: []string{"label"}},
		{Barrier: 5000, Time: noon.Add(time.Minute), Kind: "crash"},
		{Barrier: 8311, Time: noon.Add(time.Hour), Kind: "crash", Reasons: []string{"hourly", "daily"}},
	}}
	err := errors.Join(list.print(&text), prune.print(&text),
		printChecked(&text, &archive.Checked{Points: 2, Packs: 1400, Read: 70, Bytes: 15 << 30}),
		printChecked(&text, &archive.Checked{Points: 2, Packs: 1400, Bytes: 15 << 30, Orphans: 5 << 20, Damaged: []archive.Damage{
			{Object: "packs/ab/ab12", Reason: "3 of its 200 records are altered", Points: []uint64{4711, 8311}},
			{Object: "packs/cd/cd34", Reason: "its directory is altered", Points: []uint64{}},
		}}),
		printStats(&text, &archive.Stats{Points: 2, Oldest: noon, Newest: noon.Add(time.Hour), Restorable: 32 << 30, Data: 16 << 30, Unique: 8 << 30, Stored: 4 << 30, Packs: 350, Unused: 20 << 20, Encrypted: true}))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "archive.txt", text.String())
}
