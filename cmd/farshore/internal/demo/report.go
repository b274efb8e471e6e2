package demo

import (
	"fmt"
	"strings"
	"time"

	"github.com/farshore/farshore/cmd/farshore/internal/bank"
	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/replay"
)

// report is what the demo found.
type report struct {
	seed       uint64
	load       time.Duration
	transfers  int64
	rpo, holds []time.Duration // sorted
	loss       bank.Loss
	disaster   time.Time
	points     []*recovered   // the newest first
	changes    int            // of the application's ConfigMap; 0: there were no objects
	release    time.Duration  // that the takeover took
	takeover   *takeover      // nil: there were no objects
	archive    *archive.Stats // behind the labelled point
}

// failed counts the checks that failed, and all.
func (r *report) failed() (failed, all int) {
	for _, checks := range r.checks() {
		for _, c := range checks {
			if all++; !c.OK {
				failed++
			}
		}
	}
	return failed, all
}

func (r *report) checks() (all [][]bank.Check) {
	for _, p := range r.points {
		all = append(all, p.checks)
	}
	if r.takeover != nil {
		all = append(all, r.takeover.checks)
	}
	return all
}

// read is what was read to bring a point back.
func (p *recovered) read() string {
	bytes := human.Bytes(int64(p.bytes))
	switch {
	case p.alone:
		return bytes + " of archive"
	case p.origin != replay.Archived:
		return bytes + " of journal"
	case p.bytes == 0:
		return "an archived point"
	}
	return fmt.Sprintf("an archived point and %s of journal", bytes)
}

// lost tells what was acknowledged and is gone.
func lost(l bank.Loss) string {
	if l.Debits+l.Credits == 0 {
		return "nothing that was acknowledged"
	}
	return fmt.Sprintf("%s acknowledged commits (debits %s, credits %s) of the last %s",
		human.Count(l.Debits+l.Credits), human.Count(l.Debits), human.Count(l.Credits), human.Duration(l.Span))
}

// String writes the report for people.
func (r *report) String() string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-18s %s\n", name, fmt.Sprintf(format, args...))
	}
	b.WriteString("\nMeasured\n")
	row("load", "%s transfers in %s, seed %d", human.Count(r.transfers), human.Duration(r.load), r.seed)
	if r.changes > 0 {
		row("objects", "%s changes of a ConfigMap that every debit waits for", human.Count(int64(r.changes)))
	}
	row("recoverable RPO", "p50 %s   p99 %s", human.Duration(percentile(r.rpo, 50)), human.Duration(percentile(r.rpo, 99)))
	newest := r.points[0]
	row("really lost", "%s", lost(r.loss))
	row("", "the newest recovery point is %s older than the disaster", human.Duration(r.disaster.Sub(newest.point.Time)))
	row("barrier hold", "p50 %s   p99 %s   (%d barriers)", human.Duration(percentile(r.holds, 50)), human.Duration(percentile(r.holds, 99)), len(r.holds))
	for i, p := range r.points {
		name := ""
		if i == 0 {
			name = "recovery time"
		}
		row(name, "%s to %s: %s, then %s until the databases are open", human.Duration(p.replay), p.target, p.read(), human.Duration(p.open))
	}
	if r.release > 0 {
		row("", "%s until the Kubernetes objects are released", human.Duration(r.release))
	}
	if a := r.archive; a != nil {
		row("archive", "%s in the store hold %s points that restore to %s in all", human.Bytes(a.Stored), human.Count(int64(a.Points)), human.Bytes(a.Restorable))
	}
	for _, p := range r.points {
		from := ""
		if p.alone {
			from = " from the archive alone"
		}
		fmt.Fprintf(&b, "\nRecovered %s%s: barrier %d of %s\n", p.target, from, p.point.Barrier, p.point.Time.Local().Format("15:04:05.000000"))
		writeChecks(&b, p.checks)
	}
	if r.takeover != nil {
		b.WriteString("\nTaken over at the DR site's Kubernetes API server\n")
		writeChecks(&b, r.takeover.checks)
	}
	failed, all := r.failed()
	if failed == 0 {
		fmt.Fprintf(&b, "\nAll %d checks hold.\n", all)
	} else {
		fmt.Fprintf(&b, "\n%d of %d checks failed.\n", failed, all)
	}
	return b.String()
}

func writeChecks(b *strings.Builder, checks []bank.Check) {
	for _, c := range checks {
		sign := "✓"
		if !c.OK {
			sign = "✗"
		}
		b.WriteString(strings.TrimRight(fmt.Sprintf("  %s %-46s %s", sign, c.Name, c.Detail), " ") + "\n")
	}
}
