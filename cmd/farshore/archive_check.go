package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/group"
)

// errDamaged is the end of a check that found damage.
var errDamaged = errors.New("the archive is damaged")

func archiveCheckCommand() *cobra.Command {
	var v vault
	var share string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Verify that every archived point can be restored",
		Long: `Check reads the directories of all packs and the trees of all points, and verifies that everything a point needs is there; it trusts
nothing but the store. With --read-data it reads the packs' content, too, and verifies every chunk by its name: all of it, or a share, whose packs are
chosen at random, so that a small share every night gets around.

It names what is damaged and the points that need it, and exits with 1 where there is any. The other points can be restored. What it found it notes
in the archive, so that the applier builds nothing on it: its next point stores anew what the replicas still have, and earlier points that share
that are whole again. A point that stays damaged is given up with "farshore archive prune --remove BARRIER".`,
		Example: `  farshore archive check --group bank.yaml
  farshore archive check --group bank.yaml --read-data=5%
  farshore archive check --group bank.yaml --read-data --identity age.key`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			part, err := parseShare(share)
			if err != nil {
				return err
			}
			return v.use(cmd, func(ctx context.Context, a *archive.Archive, _ *group.Group, asJSON bool) error {
				s := &stages{titles: map[string]string{"packs": "reading packs", "points": "looking at points"}}
				if part == 0 {
					s.titles["packs"] = "reading the packs' directories"
				}
				result, err := a.Check(ctx, archive.CheckOptions{ReadData: part, Progress: s.update})
				s.end(err)
				if err != nil {
					return err
				}
				if asJSON {
					err = printJSON(cmd.OutOrStdout(), result)
				} else {
					err = printChecked(cmd.OutOrStdout(), result)
				}
				if err == nil && len(result.Damaged) > 0 {
					_, noting := a.Quarantine(ctx, result.Damaged, result.Whole)
					err = errDamaged
					if noting != nil {
						err = fmt.Errorf("%w, and that could not be noted in it, so the next points may need the same: %w", err, noting)
					}
				}
				return err
			})
		},
	}
	v.register(cmd)
	cmd.Flags().StringVar(&share, "read-data", "", "verify the packs' content, too: of `SHARE` of them, as 5% or 0.05; alone: of all")
	cmd.Flags().Lookup("read-data").NoOptDefVal = "100%"
	_ = cmd.RegisterFlagCompletionFunc("read-data", cobra.FixedCompletions([]string{"5%", "100%"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// parseShare reads a share as 5% or 0.05; empty: none.
func parseShare(text string) (float64, error) {
	if text == "" {
		return 0, nil
	}
	number, percent := strings.CutSuffix(text, "%")
	share, err := strconv.ParseFloat(number, 64)
	if percent {
		share /= 100
	}
	if err != nil || !(share > 0 && share <= 1) {
		return 0, daemon.Usagef("--read-data: %q is no share; write one as 5%% or 0.05, up to 100%%", text)
	}
	return share, nil
}

// barriers writes a list of barriers.
func barriers(list []uint64) string {
	var out []string
	for _, b := range list {
		out = append(out, strconv.FormatUint(b, 10))
	}
	return dash(strings.Join(out, ","))
}

func printChecked(out io.Writer, c *archive.Checked) error {
	read := "none was read"
	switch {
	case c.Read == c.Packs && c.Read > 0:
		read = "that of all was read"
	case c.Read > 0:
		read = fmt.Sprintf("that of %s was read", human.Count(int64(c.Read)))
	}
	fmt.Fprintf(out, "checked %s points and %s packs of %s; of their content %s\n", human.Count(int64(c.Points)), human.Count(int64(c.Packs)), human.Bytes(c.Bytes), read)
	if c.Orphans > 0 {
		fmt.Fprintf(out, "no point needs %s of that\n", human.Bytes(c.Orphans))
	}
	if len(c.Damaged) == 0 {
		_, err := fmt.Fprintln(out, "every point can be restored")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "DAMAGED\tPOINTS LOST\tREASON")
	for _, d := range c.Damaged {
		fmt.Fprintf(w, "%s\t%s\t%s\n", d.Object, barriers(d.Points), d.Reason)
	}
	return w.Flush()
}
