package statusview_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/farshore/farshore/cmd/farshore/internal/statusview"
	"github.com/farshore/farshore/pkg/group"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func p(v float64) *float64 { return &v }

var noon = time.Date(2026, 5, 4, 12, 0, 0, 123456000, time.UTC)

var scrubbed = noon.Add(-90 * time.Minute)

func full() *group.Status {
	return &group.Status{
		Group: "shop", Applier: "applier-1", Time: noon, Phase: group.PhaseFollowing,
		RecoveryPoint: &group.Point{Barrier: 231, Time: noon.Add(-700 * time.Millisecond), Kind: "crash"},
		Oldest:        &group.Point{Barrier: 3, Time: noon.Add(-time.Hour), Kind: "labeled", Label: "before-upgrade"},
		Applied:       &group.Point{Barrier: 230, Time: noon.Add(-1700 * time.Millisecond), Kind: "crash"},
		Applying:      &group.Point{Barrier: 231, Time: noon.Add(-700 * time.Millisecond), Kind: "crash"},
		Lags: group.Lags{
			RecoverableRPOSeconds: p(0.7), TransitLagSeconds: p(0.0123),
			ReplayDebt:  &group.Debt{Seconds: 0.2, Bytes: 1 << 20, Messages: 1234},
			CaptureDebt: &group.Debt{},
		},
		ClockOffsetSeconds: p(-0.00025),
		Mirrors:            group.MirrorsStatus{Bytes: 3 << 30, Limit: 4 << 30, AlertAt: 80},
		Volumes: []group.VolumeStatus{
			{Name: "orders", State: "member", Size: 64 << 20, Generation: 2, Incarnation: 3, Scrubbed: &scrubbed, Lags: group.Lags{TransitLagSeconds: p(0.0123), ReplayDebt: &group.Debt{Seconds: 0.2, Bytes: 1 << 20, Messages: 1234}, CaptureDebt: &group.Debt{Seconds: 0.1, Bytes: 4096}}},
			{Name: "stock", State: "joining", Size: 10 << 30, Pass: &group.PassProgress{Kind: "seed", Done: 3 << 30, Total: 10 << 30}, RegionMismatches: 2, Generation: 1, Incarnation: 1, Mismatches: []group.RegionMismatch{{Healed: true}}},
		},
		Objects: &group.ObjectsStatus{
			State: "member", Generation: 1, Incarnation: 1, Count: 5021, Revision: "812231", StoredSeq: 9000, AppliedSeq: 8990,
			Lags:    group.Lags{TransitLagSeconds: p(0.02), ReplayDebt: &group.Debt{Seconds: 0.1, Bytes: 20480, Messages: 10}, CaptureDebt: &group.Debt{}},
			Applied: &group.Point{Barrier: 229, Time: noon.Add(-2700 * time.Millisecond), Kind: "crash"}, Current: 4900, HeldBack: 110, Refusals: 11,
			Refused: []group.Refusal{
				{Group: "apps", Version: "v1", Resource: "deployments", Namespace: "bank", Name: "teller", Reason: "spec.selector: field is immutable", Since: noon.Add(-time.Minute)},
				{Version: "v1", Resource: "persistentvolumes", Name: "pv-1", Held: true, Reason: "storage class fast is unknown", Since: noon.Add(-time.Hour)},
			},
		},
		Archive: &group.ArchiveStatus{
			Points: 31, Newest: &group.Point{Barrier: 200, Time: noon.Add(-30 * time.Second), Kind: "labeled", Label: "before-upgrade"}, LagSeconds: p(27.3),
			Running: &group.ArchiveRun{Point: group.Point{Barrier: 228}, Bytes: 3 << 20, Total: 12 << 20}, Pruned: &scrubbed,
			Lost: []group.Point{{Barrier: 12, Time: noon.Add(-time.Hour), Kind: "labeled", Label: "too-late"}},
		},
		MissingVotes: []string{"stock"},
		Conditions: []group.Condition{
			{Type: group.ConditionConnected, OK: true},
			{Type: group.ConditionObjects, Message: "the DR API server refuses 11 objects", Since: noon.Add(-time.Minute)},
			{Type: group.ConditionStorage, Message: "no room on /var/lib/farshore: free 3 GiB", Since: noon.Add(-time.Minute)},
		},
	}
}

func TestText(t *testing.T) {
	for name, c := range map[string]struct {
		status *group.Status
		now    time.Time
	}{
		"full.txt":  {full(), noon.Add(400 * time.Millisecond)},
		"stale.txt": {full(), noon.Add(42 * time.Second)},
		"objects.txt": {&group.Status{
			Group: "shop", Applier: "applier-1", Time: noon, Phase: group.PhaseSeeding,
			Objects: &group.ObjectsStatus{State: "joining", Generation: 1, Incarnation: 1, Refused: []group.Refusal{}},
		}, noon},
		"empty.txt": {&group.Status{Group: "shop", Applier: "applier-1", Time: noon, Phase: group.PhaseStarting}, noon},
	} {
		t.Run(name, func(t *testing.T) {
			got := statusview.Text(c.status, c.now)
			path := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}
