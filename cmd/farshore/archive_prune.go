package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/group"
)

func archivePruneCommand() *cobra.Command {
	var v vault
	var remove []string
	o := archive.PruneOptions{}
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove the points that are no longer to be kept, and what no point needs",
		Long: `Prune removes the archived points that the document's spec.recovery.archive.keep doesn't keep, then what no point needs. It says why each
point stays: of each of the last so many hours, days, weeks, months and years that have points the newest one does, as with restic, and
labelled ones do. The newest point of all always stays.

It runs beside archiving and replays of points that stay. What an archiving that goes on may still need is only condemned, and deleted by a
later prune. The applier prunes by itself, as often as spec.recovery.archive.prune says.

With --remove a point goes whatever is to be kept: a damaged one, of which it can't be told what it needs, keeps everything else from being
deleted as long as it stays.`,
		Example: `  farshore archive prune --group bank.yaml --dry-run
  farshore archive prune --group bank.yaml
  farshore archive prune --group bank.yaml --remove 4711`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Remove, err = parseBarriers(remove); err != nil {
				return err
			}
			if o.Unused <= 0 || o.Unused > 1 {
				return daemon.Usagef("--unused must be more than 0, and at most 1")
			}
			return v.use(cmd, func(ctx context.Context, a *archive.Archive, g *group.Group, asJSON bool) error {
				s := &stages{titles: map[string]string{"look": "looking at what points need", "repack": "writing packs anew", "delete": "deleting packs"}}
				o.Policy, o.Progress = policy(g.Spec.Recovery.Archive.Keep), s.update
				result, err := a.Prune(ctx, o)
				s.end(err)
				if err != nil {
					return err
				}
				p := prunedOf(result, o.DryRun)
				if asJSON {
					return printJSON(cmd.OutOrStdout(), p)
				}
				return p.print(cmd.OutOrStdout())
			})
		},
	}
	v.register(cmd)
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "tell what would be done, and do nothing")
	cmd.Flags().StringArrayVar(&remove, "remove", nil, "remove the point at `BARRIER`, too; may be repeated")
	cmd.Flags().Float64Var(&o.Unused, "unused", 0.3, "`PART` of a pack that may be unused before what is needed of it is written anew")
	_ = cmd.RegisterFlagCompletionFunc("remove", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return v.barriers(cmd), cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

// policy is what the document keeps.
func policy(k group.Keep) archive.Policy {
	return archive.Policy{
		Last: k.Last, Hourly: k.Hourly, Daily: k.Daily, Weekly: k.Weekly, Monthly: k.Monthly, Yearly: k.Yearly,
		Within: time.Duration(k.Within), Labels: k.Labels,
	}
}

func parseBarriers(texts []string) (out []uint64, err error) {
	for _, text := range texts {
		barrier, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, daemon.Usagef("--remove: %q is no barrier; \"farshore archive list\" tells those of the points", text)
		}
		out = append(out, barrier)
	}
	return out, nil
}

// barriers are those of the archived points, for completion.
func (v *vault) barriers(cmd *cobra.Command) (out []string) {
	_ = v.use(cmd, func(ctx context.Context, a *archive.Archive, _ *group.Group, _ bool) error {
		points, _, err := a.Points(ctx)
		for _, p := range points {
			out = append(out, fmt.Sprintf("%d\t%s %s", p.Barrier, seconds(p.Time), p.Label))
		}
		return err
	})
	return out
}

// pruned is the result of the prune command.
type pruned struct {
	DryRun bool          `json:"dryRun"`
	Points []prunedPoint `json:"points"`
	*archive.Pruned
}

type prunedPoint struct {
	Barrier uint64    `json:"barrier"`
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind"`
	Label   string    `json:"label,omitempty"`
	Reasons []string  `json:"reasons"` // why it stays; none: it goes
}

func prunedOf(p *archive.Pruned, dryRun bool) *pruned {
	out := &pruned{DryRun: dryRun, Points: []prunedPoint{}, Pruned: p}
	for _, k := range p.Points {
		out.Points = append(out.Points, prunedPoint{k.Point.Barrier, k.Point.Time.UTC(), k.Point.Kind, k.Point.Label, k.Reasons})
	}
	return out
}

func (p *pruned) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "BARRIER\tTIME (UTC)\tKIND\tLABEL\tSTAYS")
	for _, k := range p.Points {
		stays := strings.Join(k.Reasons, ", ")
		if len(k.Reasons) == 0 {
			stays = "no"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", k.Barrier, seconds(k.Time), k.Kind, dash(k.Label), stays)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	did, freed := "removed", "freed"
	if p.DryRun {
		did, freed = "would remove", "would free"
	}
	fmt.Fprintf(out, "%s %s points and %s packs, %s of them written anew where needed: %s %s of %s\n", did, human.Count(int64(p.Removed)), human.Count(int64(p.Packs)),
		human.Count(int64(p.Repacked)), freed, human.Bytes(p.Freed), human.Bytes(p.BytesBefore))
	if p.Condemned > 0 {
		fmt.Fprintf(out, "%s packs are deleted by a later prune, since something is being archived that may need them\n", human.Count(int64(p.Condemned)))
	}
	if p.AbandonedRuns > 0 {
		fmt.Fprintf(out, "%s archivings had died and were cleaned up after\n", human.Count(int64(p.AbandonedRuns)))
	}
	return nil
}
