package group

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestUpdate(t *testing.T) {
	for _, tt := range []struct {
		name     string
		old, new string // replaced in minimal
		volumes  string // names and sizes afterwards
		later    []string
		problems []string
	}{
		{name: "a volume more", old: ledger, new: ledger + "\n  - {name: extra, uid: u3, capturer: a, path: /v/extra, listen: \"unix:/run/extra\"}",
			volumes: "orders:0 ledger:1Gi extra:0"},
		{name: "a volume less", old: "  - {name: orders, uid: u1, capturer: a, path: /v/orders, listen: \"unix:/run/orders\"}\n", volumes: "ledger:1Gi"},
		{name: "growth", old: "size: 1Gi", new: "size: 2Gi", volumes: "orders:0 ledger:2Gi"},
		{name: "a size where there was none", old: `"unix:/run/orders"`, new: `"unix:/run/orders", size: 1Gi`, volumes: "orders:1Gi ledger:1Gi"},
		{name: "a move", old: `capturer: a, path: /v/orders, listen: "unix:/run/orders"`, new: `capturer: c, path: /v/x, listen: "unix:/run/x"`,
			volumes: "orders:0 ledger:1Gi"},
		{name: "settings of the start", old: "spec:\n", new: "spec:\n  journal: {margin: 2m}\n  recovery: {directory: /else, retention: 1h, journal: {alertAt: 70}, archive: {every: 2h}}\n",
			volumes: "orders:0 ledger:1Gi", later: []string{"spec.journal.margin", "spec.recovery.directory"}},
		{name: "shrinking", old: "size: 1Gi", new: "size: 512Mi", problems: []string{"spec.volumes[1].size"}},
		{name: "another group", old: "name: shop", new: "name: bank", problems: []string{"metadata.name"}},
		{name: "another site", old: "spec:\n", new: "spec:\n  sites: {dr: {domain: else}}\n", problems: []string{"spec.sites"}},
		{name: "a running volume's identity and places", old: `uid: u1, capturer: a, path: /v/orders, listen: "unix:/run/orders"`,
			new:      `uid: u9, capturer: a, path: /v/x, listen: "unix:/run/x", replica: {path: /dev/x}`,
			problems: []string{"spec.volumes[0].uid", "spec.volumes[0].replica.path", "spec.volumes[0].path", "spec.volumes[0].listen"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before, err := Parse([]byte(minimal))
			if err != nil {
				t.Fatal(err)
			}
			next, err := Parse([]byte(strings.Replace(minimal, tt.old, tt.new, 1)))
			if err != nil {
				t.Fatal(err)
			}
			merged, later, err := before.Update(next)
			var problems *ProblemsError
			if errors.As(err, &problems) != (tt.problems != nil) {
				t.Fatalf("got %v", err)
			}
			if tt.problems != nil {
				var paths []string
				for _, p := range problems.Problems {
					paths = append(paths, p.Path)
				}
				if !slices.Equal(paths, tt.problems) {
					t.Errorf("problems at %v, want %v", paths, tt.problems)
				}
				return
			}
			var volumes []string
			for _, v := range merged.Spec.Volumes {
				volumes = append(volumes, v.Name+":"+v.Size.String())
			}
			if got := strings.Join(volumes, " "); got != tt.volumes {
				t.Errorf("volumes are %s, want %s", got, tt.volumes)
			}
			if !slices.Equal(later, tt.later) {
				t.Errorf("later: %v, want %v", later, tt.later)
			}
			if merged.Spec.Journal != before.Spec.Journal || merged.Spec.Recovery.Directory != before.Spec.Recovery.Directory {
				t.Error("a setting that is read at a start changed")
			}
			if merged.Spec.Recovery.Retention != next.Spec.Recovery.Retention || merged.Spec.Recovery.Journal != next.Spec.Recovery.Journal ||
				merged.Spec.Recovery.Archive != next.Spec.Recovery.Archive {
				t.Error("what the applier follows did not change")
			}
			if _, _, err := merged.Update(next); err != nil {
				t.Errorf("the same document again: %v", err)
			}
		})
	}
}
