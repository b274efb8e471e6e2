// Package statusview writes a group's status for people.
package statusview

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/pkg/group"
)

// stale is the age at which a status tells little: the applier writes it about once a second.
const stale = 5 * time.Second

const clock = "2006-01-02 15:04:05.000"

// Text returns st as text of several lines. now tells how old it is.
func Text(st *group.Status, now time.Time) string {
	var b strings.Builder
	age := max(0, now.Sub(st.Time))
	fmt.Fprintf(&b, "group %s   %s   as of %s UTC, %s ago\n", st.Group, st.Phase, st.Time.UTC().Format(clock), human.Duration(age.Round(time.Millisecond)))
	if age > stale {
		fmt.Fprintf(&b, "! this is old: is the applier running? (%s wrote it)\n", st.Applier)
	}
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	row := func(name string, cells ...string) {
		if joined := strings.Join(cells, ""); joined != "" {
			fmt.Fprintf(w, "  %s\t%s\n", name, joined)
		}
	}
	row("recoverable RPO", Seconds(st.Lags.RecoverableRPOSeconds))
	row("transit lag", Seconds(st.Lags.TransitLagSeconds))
	row("replay debt", Debt(st.Lags.ReplayDebt))
	row("capture debt", Debt(st.Lags.CaptureDebt))
	row("last recovery point", Point(st.RecoveryPoint))
	row("oldest recovery point", Point(st.Oldest))
	row("applied", Point(st.Applied))
	if st.Applying != nil {
		row("applying", Point(st.Applying))
	}
	row("clock, primary - DR", Seconds(st.ClockOffsetSeconds))
	row("mirrors", Mirrors(st.Mirrors))
	if len(st.MissingVotes) > 0 {
		row("missing votes", strings.Join(st.MissingVotes, ", "))
	}
	_ = w.Flush()
	volumes(&b, st)
	objects(&b, st.Objects)
	archive(&b, st.Archive, st.Time)
	for _, c := range st.Conditions {
		if !c.OK && !(c.Type == group.ConditionObjects && told(st.Objects)) {
			fmt.Fprintf(&b, "! %s, since %s UTC: %s\n", c.Type, c.Since.UTC().Format(clock), c.Message)
		}
	}
	return b.String()
}

func volumes(b *strings.Builder, st *group.Status) {
	if len(st.Volumes) == 0 {
		return
	}
	w := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "\nVOLUME\tSTATE\tSIZE\tTRANSIT LAG\tREPLAY DEBT\tCAPTURE DEBT\tPASS\tSTREAM\tSCRUBBED")
	for _, v := range st.Volumes {
		pass := Pass(v.Pass)
		if v.RegionMismatches > 0 {
			pass += fmt.Sprintf(" (%d regions differed%s)", v.RegionMismatches, healed(v.Mismatches))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", v.Name, v.State, human.Bytes(v.Size),
			Seconds(v.Lags.TransitLagSeconds), Debt(v.Lags.ReplayDebt), Debt(v.Lags.CaptureDebt), pass, Stream(v), Ago(v.Scrubbed, st.Time))
	}
	_ = w.Flush()
}

// healed tells that all regions that differed were sent again.
func healed(regions []group.RegionMismatch) string {
	for _, r := range regions {
		if !r.Healed {
			return ""
		}
	}
	if len(regions) == 0 {
		return ""
	}
	return ", all healed"
}

// Stream writes which history a volume is in: its stream's generation, and its mirror's incarnation where it
// isn't the first.
func Stream(v group.VolumeStatus) string { return stream(v.Generation, v.Incarnation) }

func stream(generation uint32, incarnation int) string {
	if generation == 0 {
		return "-"
	}
	s := fmt.Sprintf("g%d", generation)
	if incarnation > 1 {
		s += fmt.Sprintf(" m%d", incarnation)
	}
	return s
}

// Ago writes how long ago something was; - where it never was.
func Ago(at *time.Time, now time.Time) string {
	if at == nil {
		return "-"
	}
	return human.Duration(max(0, now.Sub(*at)).Round(time.Second)) + " ago"
}

// Mirrors writes what the mirrors use.
func Mirrors(m group.MirrorsStatus) string {
	if m.Limit == 0 {
		return human.Bytes(int64(m.Bytes)) + ", no limit"
	}
	return fmt.Sprintf("%s of %s (%.0f %%, alert at %d %%)", human.Bytes(int64(m.Bytes)), human.Bytes(int64(m.Limit)),
		100*float64(m.Bytes)/float64(m.Limit), m.AlertAt)
}

// Seconds writes a lag; - where it is not known.
func Seconds(s *float64) string {
	if s == nil {
		return "-"
	}
	return human.Seconds(*s)
}

// Debt writes a debt; - where it is not known.
func Debt(d *group.Debt) string {
	switch {
	case d == nil:
		return "-"
	case d.Bytes == 0 && d.Messages == 0:
		return "none"
	case d.Messages == 0:
		return fmt.Sprintf("%s, %s", human.Seconds(d.Seconds), human.Bytes(int64(d.Bytes)))
	}
	return fmt.Sprintf("%s, %s, %s messages", human.Seconds(d.Seconds), human.Bytes(int64(d.Bytes)), human.Count(int64(d.Messages)))
}

// Point writes a recovery point; none where there is none.
func Point(p *group.Point) string {
	if p == nil {
		return "none"
	}
	s := fmt.Sprintf("#%d   %s UTC   %s", p.Barrier, p.Time.UTC().Format(clock), p.Kind)
	if p.Label != "" {
		s += fmt.Sprintf(" %q", p.Label)
	}
	return s
}

// Pass writes how far a region pass has come; - where none is open.
func Pass(p *group.PassProgress) string {
	if p == nil {
		return "-"
	}
	percent := 100.0
	if p.Total > 0 {
		percent = 100 * float64(p.Done) / float64(p.Total)
	}
	return fmt.Sprintf("%s %.0f %% of %s", p.Kind, percent, human.Bytes(p.Total))
}
