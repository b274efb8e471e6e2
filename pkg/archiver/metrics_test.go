package archiver

import (
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/telemetry"
)

// The metrics of the archive are those that docs/metrics.md lists.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	tel, err := telemetry.Start(t.Context(), telemetry.Options{Service: "applier", Instance: "a", Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tel.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	g := group.Default()
	g.Metadata.Name, g.Spec.Recovery.Archive = "g", &group.Archive{}
	a, err := New(Options{Group: g, Meter: tel.Meter("test")})
	if err != nil {
		t.Fatal(err)
	}
	a.points, a.at = []archive.Point{{Barrier: 1, Time: time.Unix(1, 0)}}, replica.Commit{Barrier: 2, Time: time.Unix(3, 0)}
	a.metrics.archived(t.Context(), 1, 1, time.Second)
	a.measure(t.Context())
	answer := httptest.NewRecorder()
	tel.Handler().ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	body := answer.Body.Bytes()
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	names := func(pattern string, text []byte) []string {
		found := make(map[string]bool)
		for _, m := range regexp.MustCompile(pattern).FindAllSubmatch(text, -1) {
			found[string(m[1])] = true
		}
		return slices.Sorted(maps.Keys(found))
	}
	exported := names(`(?m)^# TYPE (farshore_archive_[a-z_]+) `, body)
	documented := names("(?m)^\\| `(farshore_archive_[a-z_]+)` \\|", text)
	if !slices.Equal(exported, documented) || len(exported) == 0 {
		t.Errorf("exported are %v, documented %v", exported, documented)
	}
}
