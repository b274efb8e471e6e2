package objects

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/replay"
	"github.com/farshore/farshore/pkg/replica/objects"
)

// view recovers the objects of a point.
func (s *sites) view(point string) *objects.View {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	view, _, err := replay.Objects(ctx, replay.Options{Site: s.site(), Group: harness.Group, Dir: filepath.Join(s.Recovery, harness.Group), Target: point})
	if err != nil {
		s.t.Fatalf("recover the objects of %s: %v", point, err)
	}
	return view
}

// values are the ConfigMaps of a view by name, and what they hold.
func values(t *testing.T, view *objects.View) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for entry := range view.All() {
		if entry.Key.Resource != "configmaps" {
			continue
		}
		raw, err := view.Raw(events.ObjectKey{Version: "v1", Resource: "configmaps", Namespace: "bank", Name: entry.Key.Name})
		if err != nil {
			t.Fatal(err)
		}
		var obj unstructured.Unstructured
		if err := json.Unmarshal(raw, &obj.Object); err != nil {
			t.Fatal(err)
		}
		out[entry.Key.Name] = value(&obj)
	}
	return out
}

// Objects that were changed and lost since are in a replay to an older point, by its label, as they were then; those made later are
// not. The DR API server stays where it is, and the replay is the same after the applier started again.
func TestReplayToAnOlderPoint(t *testing.T) {
	s := start(t, options{volumes: 1})
	s.primary.apply(config("changed", "old") + config("lost", "kept") + config("same", "same"))
	s.Recovered("older", limit)
	s.primary.apply(config("changed", "new") + config("later", "later"))
	s.primary.delete(configMaps, "bank", "lost")
	s.applied("newer")
	for range 2 {
		for point, want := range map[string]map[string]string{
			"older": {"changed": "old", "lost": "kept", "same": "same"},
			"newer": {"changed": "new", "later": "later", "same": "same"},
		} {
			got := values(t, s.view(point))
			for name := range want {
				if got[name] != want[name] {
					t.Errorf("at %s, %s is %q, want %q", point, name, got[name], want[name])
				}
			}
			if len(got) != len(want) {
				t.Errorf("at %s there are %v, want %v", point, got, want)
			}
		}
		s.Applier.Kill()
		s.Applier.Start()
		s.Applier.WaitReady()
	}
	into := filepath.Join(s.Dir, "replayed")
	if out, err := s.Farshore("replay", "--to", "older", "--into", into); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if files := holding(t, filepath.Join(into, "manifests"), []string{"kept"}); len(files) != 1 || !strings.HasSuffix(files[0], ".yaml") {
		t.Errorf("the lost ConfigMap's manifest is in %q", files)
	}
	if value(s.dr.get(configMaps, "bank", "changed")) != "new" || s.dr.get(configMaps, "bank", "lost") != nil {
		t.Error("the replay changed the DR API server")
	}
}
