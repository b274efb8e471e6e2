package demo

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/cmd/farshore/internal/bank"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/replay"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestReportForm(t *testing.T) {
	time.Local = time.UTC
	noon := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	r := &report{
		seed: 7, load: 30 * time.Second, transfers: 12034, disaster: noon,
		rpo:   []time.Duration{600 * time.Millisecond, 700 * time.Millisecond, 1200 * time.Millisecond},
		holds: []time.Duration{time.Millisecond, 4 * time.Millisecond},
		loss:  bank.Loss{Debits: 312, Credits: 309, Span: 780 * time.Millisecond},
		points: []*recovered{
			{
				target: "latest", point: replay.Point{Barrier: 31, Time: noon.Add(-800 * time.Millisecond)}, bytes: 80 << 20,
				replay: 900 * time.Millisecond, open: 20 * time.Millisecond,
			},
			{target: label, origin: replay.Archived, point: replay.Point{Barrier: 16, Time: noon.Add(-15 * time.Second)}, bytes: 40 << 20, replay: 500 * time.Millisecond, open: 10 * time.Millisecond},
			{
				target: label, alone: true, point: replay.Point{Barrier: 16, Time: noon.Add(-15 * time.Second)}, bytes: 2 << 20,
				replay: 60 * time.Millisecond, open: 10 * time.Millisecond, sums: map[string]sum{ledger: {1}, settlement: {2}},
			},
		},
		archive: &archive.Stats{Points: 6, Stored: 9 << 20, Restorable: 6 * 256 << 20},
	}
	r.points[0].check("ledger: PRAGMA integrity_check", true, "ok")
	r.points[0].check("the DELETE is there", false, "%d customers", 2000)
	r.points[1].check("the DELETE never was", true, "%d of %d customers", 2000, 2000)
	r.points[2].compare(map[string]sum{ledger: {1}, settlement: {2}})
	r.points[2].compare(map[string]sum{ledger: {1}, settlement: {3}})
	r.points[2].compare(map[string]sum{ledger: {1}})
	if failed, all := r.failed(); failed != 3 || all != 6 {
		t.Errorf("%d of %d failed, want 3 of 6", failed, all)
	}
	got := r.String()
	path := filepath.Join("testdata", "report.txt")
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
}

func TestDuring(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(1_000_000 + int64(ms)) }
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	points := []arrival{
		{1, at(-100), at(0), ms(1), false, nil}, {2, at(900), at(1000), ms(9), false, nil}, {3, at(1900), at(2000), ms(5), false, nil}, {4, at(2900), at(3000), ms(7), false, nil},
	}
	rpo, holds := during(points, at(0), at(1999))
	// A saw from 100 ms to 1090 ms and again.
	if len(rpo) != 200 || rpo[0] != ms(100) || rpo[199] != ms(1090) || percentile(rpo, 50) != ms(590) {
		t.Errorf("%d samples from %s to %s, p50 %s", len(rpo), rpo[0], rpo[len(rpo)-1], percentile(rpo, 50))
	}
	if len(holds) != 2 || holds[0] != ms(1) || holds[1] != ms(9) {
		t.Errorf("holds %v", holds)
	}
	if rpo, _ := during(points, at(-500), at(-100)); rpo != nil {
		t.Errorf("RPO before the first point: %v", rpo)
	}
}

func TestPercentile(t *testing.T) {
	var sorted []time.Duration
	for i := range 100 {
		sorted = append(sorted, time.Duration(i+1))
	}
	for p, want := range map[float64]time.Duration{0: 1, 1: 1, 50: 50, 99: 99, 100: 100} {
		if got := percentile(sorted, p); got != want {
			t.Errorf("p%v = %d, want %d", p, got, want)
		}
	}
	if got := percentile(nil, 99); got != 0 {
		t.Errorf("percentile of nothing = %d", got)
	}
	if got := percentile(sorted[:1], 99); got != 1 {
		t.Errorf("percentile of one = %d", got)
	}
}

func TestScreen(t *testing.T) {
	v := view{
		at: time.Unix(100, 0), debits: 1005, credits: 1000, rate: 400, any: true,
		point: arrival{barrier: 7, committed: time.Unix(99, 300_000_000)},
		status: &group.Status{
			Lags:    group.Lags{ReplayDebt: &group.Debt{}},
			Volumes: []group.VolumeStatus{{Name: ledger}, {Name: settlement}},
			Archive: &group.ArchiveStatus{Points: 3, Newest: &group.Point{Barrier: 5}, Running: &group.ArchiveRun{Point: group.Point{Barrier: 7}}},
		},
	}
	var out bytes.Buffer
	s := &screen{out: &out, started: time.Unix(90, 0), width: func() int { return 60 }}
	s.draw(v)
	want := " 10.0 s  1,000 transfers (400/s), recovery point #7, RPO 700 ms, transit lag -, replay debt none, capture debt -\n"
	if got := out.String(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	out.Reset()
	s.terminal = true
	s.draw(v)
	if n := strings.Count(out.String(), "\n"); n != 7 || s.drawn != n {
		t.Errorf("%d lines drawn, %d remembered:\n%s", n, s.drawn, out.String())
	}
	for line := range strings.Lines(out.String()) {
		if n := len([]rune(line)); n > 60 {
			t.Errorf("line of %d columns wraps: %q", n, line)
		}
	}
	out.Reset()
	s.print("the end\n")
	if got := out.String(); got != "\x1b[7A\x1b[Jthe end\n" {
		t.Errorf("the live part is left behind: %q", got)
	}
}
