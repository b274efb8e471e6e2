package statusview

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/pkg/group"
)

// archive writes how the archive stands.
func archive(b *strings.Builder, a *group.ArchiveStatus, now time.Time) {
	if a == nil {
		return
	}
	w := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "\nARCHIVED POINTS\tNEWEST\tBEHIND\tARCHIVING\tPRUNED")
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", human.Count(int64(a.Points)), Point(a.Newest), Seconds(a.LagSeconds), archiving(a), Ago(a.Pruned, now))
	_ = w.Flush()
	for _, p := range a.Lost {
		fmt.Fprintf(b, "! %s was not archived: its history went before\n", Point(&p))
	}
}

// archiving tells what is being archived; - where nothing is.
func archiving(a *group.ArchiveStatus) string {
	if a.Running == nil {
		if a.Waiting > 0 {
			return fmt.Sprintf("%d labelled points wait", a.Waiting)
		}
		return "-"
	}
	r := a.Running
	s := fmt.Sprintf("#%d", r.Point.Barrier)
	if r.Total > 0 {
		s += fmt.Sprintf(" %d %% of %s", 100*r.Bytes/r.Total, human.Bytes(r.Total))
	}
	return s
}
