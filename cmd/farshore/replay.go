package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/cmd/farshore/internal/progress"
	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/replay"
)

func replayCommand() *cobra.Command {
	var r reach
	var f format
	var to, into string
	cmd := &cobra.Command{
		Use:   "replay --to POINT --into DIR",
		Short: "Recover a group's volumes to any recovery point, into a new directory",
		Long: `Replay rebuilds every volume of the group as it was at a recovery point, in files below a new directory. Replication goes
on meanwhile, and what exists is not touched. POINT is one of

  latest                          the newest recovery point
  before-upgrade                  a label (where it was given more than once, the newest)
  4711                            a barrier's number, as "farshore points" lists them
  2026-05-04T11:22:33Z            a time: the newest point at or before it

A label that reads like one of the others is reached by its barrier's number.`,
		Example: `  farshore replay --group bank.yaml --to latest --into /srv/recovered`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := f.json()
			if err != nil {
				return err
			}
			if to == "" || into == "" {
				return daemon.Usagef("name the recovery point with --to and a new directory with --into\ntry %q", cmd.CommandPath()+" --help")
			}
			if into, err = filepath.Abs(into); err != nil {
				return err
			}
			g, err := r.load()
			if err != nil {
				return err
			}
			site, err := r.site(cmd.Context(), g, daemon.DR)
			if err != nil {
				return err
			}
			defer site.Close()
			p := &phases{out: os.Stderr, began: time.Now()}
			result, err := replay.Run(cmd.Context(), replay.Options{
				Site: site, Group: g.Metadata.Name, Dir: directory(g), Target: to, Into: into, Progress: p.update,
			})
			p.end(err)
			switch {
			case errors.Is(err, replay.ErrNotEmpty):
				return daemon.Usagef("--into: %w", err)
			case err != nil:
				return fmt.Errorf("replay: %w", err)
			case asJSON:
				return printJSON(cmd.OutOrStdout(), result)
			}
			return printResult(cmd.OutOrStdout(), result)
		},
	}
	r.register(cmd.Flags())
	f.register(cmd)
	cmd.Flags().StringVar(&to, "to", "", "the `POINT`: latest, a label, a barrier's number or an RFC 3339 time")
	cmd.Flags().StringVar(&into, "into", "", "`DIR` to fill; it must be empty or not exist")
	_ = cmd.RegisterFlagCompletionFunc("to", cobra.FixedCompletions([]string{replay.Latest}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.MarkFlagDirname("into")
	return cmd
}

// phases shows the progress of a replay, one display for each phase.
type phases struct {
	out     *os.File
	began   time.Time // the phase
	phase   replay.Phase
	printer *progress.Printer
}

func (p *phases) update(now replay.Progress) {
	if p.printer == nil || p.phase != now.Phase {
		p.end(nil)
		if p.printer != nil {
			p.began = time.Now()
		}
		o := progress.For(p.out, string(now.Phase))
		o.Started = p.began
		p.phase, p.printer = now.Phase, progress.New(o)
	}
	p.printer.Update(int64(now.Bytes), int64(now.Total))
}

func (p *phases) end(err error) {
	switch {
	case p.printer == nil:
	case err != nil:
		p.printer.Abort()
	default:
		p.printer.Done()
	}
}

func printResult(out io.Writer, r *replay.Result) error {
	label := ""
	if r.Point.Label != "" {
		label = fmt.Sprintf(" %q", r.Point.Label)
	}
	from := "blank volumes"
	if r.Base != 0 {
		from = fmt.Sprintf("the base at barrier %d", r.Base)
	}
	fmt.Fprintf(out, "recovered barrier %d (%s%s) of %s from %s in %s\n", r.Point.Barrier, r.Point.Kind, label,
		r.Point.Time.UTC().Format(time.RFC3339Nano), from, human.Duration(r.Elapsed))
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	for _, v := range r.Volumes {
		fmt.Fprintf(w, "  %s\t%s\t%s\n", v.Name, human.Bytes(v.Size), v.Path)
	}
	return w.Flush()
}
