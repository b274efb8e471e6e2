package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replay"
	"github.com/farshore/farshore/pkg/replica/replicatest"
)

func TestPlanForms(t *testing.T) {
	plan := &replay.Plan{
		Point: points()[1], From: replay.Archived, Base: 1,
		Archive: replay.Reading{Bytes: 3 << 30, Rate: 100 << 20, Time: 30720 * time.Millisecond}, Requests: 402,
		Journal: replay.Reading{Bytes: 5 << 20, Rate: 50 << 20, Time: 100 * time.Millisecond}, Time: 30820 * time.Millisecond,
	}
	var text, js bytes.Buffer
	if err := errors.Join(printReading(&text, plan), printJSON(&js, plan)); err != nil {
		t.Fatal(err)
	}
	plan = &replay.Plan{Point: points()[2], From: replay.Replicas, Base: 3, Copy: replay.Reading{Bytes: 9 << 20}, Resumes: true}
	if err := printReading(&text, plan); err != nil {
		t.Fatal(err)
	}
	golden(t, "replay_plan.txt", text.String())
	golden(t, "replay_plan.json", js.String())
}

// archived makes a group with objects that has two archived points, at barriers 2 and 4, and a journal of 5. It returns its document.
func archived(t *testing.T) (*replicatest.Rig, string) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := replicatest.NewRig(t, "shop", seed)
	r.Volume("orders", 1<<20)
	if err := errors.Join(r.Frame("orders", 8), r.Seed("orders")); err != nil {
		t.Fatal(err)
	}
	r.Join("orders")
	r.Objects()
	dir, err := store.NewDir(filepath.Join(filepath.Dir(r.Dir()), "archive", "shop"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := archive.Create(t.Context(), archive.Options{Store: dir, Group: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	stop := r.Follow(nil)
	for range 2 {
		r.AppliedTo(r.Fill(2, 4, "orders", journal.Objects))
		replicatest.Archive(t, a, r.Dir())
	}
	r.AppliedTo(r.Fill(1, 4, "orders", journal.Objects))
	stop()
	path := document(t, nowhere, r.Pair.DRURL())
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(text, []byte("  recovery:"))
	more := "  objects: {namespaces: [shop]}\n  recovery: {directory: " + filepath.Dir(r.Dir()) + ", archive: {}}\n"
	if err := os.WriteFile(path, append(text[:i:i], more...), 0o600); err != nil {
		t.Fatal(err)
	}
	return r, path
}

// With an archive the command reaches its points without any NATS server, and says so where that is what would help.
func TestReplayWithArchive(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	r, g := archived(t)
	replayed := func(want uint64, args ...string) string {
		t.Helper()
		into := filepath.Join(t.TempDir(), "into")
		out, errs, code := invoke(t, append([]string{"replay", "--group", g, "--into", into, "-o", "json"}, args...)...)
		if code != 0 {
			t.Fatalf("%v: exit code %d, %s", args, code, errs)
		}
		var result replay.Result
		if err := json.Unmarshal([]byte(out), &result); err != nil || result.Point.Barrier != want {
			t.Fatalf("%v: %v, %s", args, err, out)
		}
		paths := make(map[string]string)
		for _, v := range result.Volumes {
			paths[v.Name] = v.Path
		}
		if len(paths) > 0 {
			replicatest.SameFiles(t, r.State(want), func(v string) string { return paths[v] })
		}
		if result.Objects == nil || result.Objects.Count != len(r.ObjectsAt(want)) || !strings.Contains(out, `"manifests"`) {
			t.Errorf("%v: %s", args, out)
		}
		if _, err := os.Stat(filepath.Join(into, "unfinished.json")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it is left unfinished: %v", err)
		}
		return out
	}
	replayed(5, "--to", "latest")
	replayed(4, "--to", "latest", "--from-archive", "--nats", nowhere)
	replayed(2, "--to", "2", "--from-archive", "--nats", nowhere)
	replayed(4, "--to", "latest", "--from-archive", "--nats", nowhere, "--objects-only")

	if _, errs, code := invoke(t, "objects", "list", "--group", g, "--at", "2"); code != 0 {
		t.Errorf("objects of an archived point: exit code %d, %s", code, errs)
	}
	into := filepath.Join(t.TempDir(), "into")
	out, errs, code := invoke(t, "replay", "--group", g, "--to", "4", "--into", into, "--from-archive", "--dry-run")
	if code != 0 || !strings.Contains(out, "would recover barrier 4") || !strings.Contains(out, "read from the archive") {
		t.Errorf("dry run: exit code %d, %s%s", code, out, errs)
	}
	if _, err := os.Stat(into); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dry run made something: %v", err)
	}
	_, errs, code = invoke(t, "replay", "--group", g, "--to", "4", "--into", into, "--nats", nowhere, "--timeout", "300ms")
	if code != 1 || !strings.Contains(errs, "is the server running?") || !strings.Contains(errs, "--from-archive") {
		t.Errorf("no server: exit code %d, %s", code, errs)
	}
	_, errs, code = invoke(t, "replay", "--group", g, "--to", "4", "--into", into, "--from-archive", "--device", "orders=/dev/null")
	if code != 2 || !strings.Contains(errs, "no block device") {
		t.Errorf("no device: exit code %d, %s", code, errs)
	}
	if err := os.RemoveAll(filepath.Join(filepath.Dir(r.Dir()), "archive")); err != nil {
		t.Fatal(err)
	}
	_, errs, code = invoke(t, "replay", "--group", g, "--to", "4", "--into", into, "--from-archive")
	if code != 1 || !strings.Contains(errs, archive.ErrNone.Error()) {
		t.Errorf("no archive: exit code %d, %s", code, errs)
	}
	replayed(4, "--to", "4")
}
