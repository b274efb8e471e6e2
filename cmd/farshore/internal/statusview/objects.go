package statusview

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/pkg/group"
)

// named is how many of the objects that are refused are written.
const named = 8

func objects(b *strings.Builder, o *group.ObjectsStatus) {
	if o == nil {
		return
	}
	w := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "\nOBJECTS\tSTATE\tREVISION\tTRANSIT LAG\tREPLAY DEBT\tCAPTURE DEBT\tSTREAM")
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", human.Count(int64(o.Count)), o.State, Revision(o.Revision),
		Seconds(o.Lags.TransitLagSeconds), Debt(o.Lags.ReplayDebt), Debt(o.Lags.CaptureDebt), stream(o.Generation, o.Incarnation))
	_ = w.Flush()
	if o.Applied == nil && o.Problem == "" && o.Refusals == 0 {
		return
	}
	fmt.Fprintf(b, "  at the DR API server: %s\n", APIServer(o))
	for i := range o.Refused[:min(len(o.Refused), named)] {
		fmt.Fprintf(b, "  ! refused: %s\n", Refusal(&o.Refused[i]))
	}
	if n := o.Refusals - min(len(o.Refused), named); n > 0 && o.Refusals > n {
		fmt.Fprintf(b, "  ! and %s more\n", human.Count(int64(n)))
	}
}

// told tells that what is wrong with the objects is written with them.
func told(o *group.ObjectsStatus) bool { return o != nil && o.Problem == "" && len(o.Refused) > 0 }

// APIServer writes what the DR API server holds.
func APIServer(o *group.ObjectsStatus) string {
	mode := "standby"
	if o.Released {
		mode = "released"
	}
	cells := []string{Point(o.Applied), mode, human.Count(int64(o.Current)) + " as they should be"}
	if o.HeldBack > 0 {
		cells = append(cells, human.Count(int64(o.HeldBack))+" held back")
	}
	if o.Refusals > 0 {
		cells = append(cells, human.Count(int64(o.Refusals))+" refused")
	}
	return strings.Join(cells, ", ")
}

// Refusal writes an object that the DR API server doesn't take, and why.
func Refusal(r *group.Refusal) string {
	s := r.Resource
	if r.Group != "" {
		s += "." + r.Group
	}
	s += " "
	if r.Namespace != "" {
		s += r.Namespace + "/"
	}
	s += r.Name
	if r.Held {
		s += " (rehearsed)"
	}
	return fmt.Sprintf("%s, since %s UTC: %s", s, r.Since.UTC().Format(clock), r.Reason)
}

// Revision writes a resourceVersion; - where none is known.
func Revision(r string) string {
	if r == "" {
		return "-"
	}
	return r
}
