package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/cmd/farshore/internal/statusview"
	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/rebuild"
	"github.com/farshore/farshore/pkg/release"
)

func releaseCommand() *cobra.Command {
	var r reach
	var f format
	var dryRun, yes bool
	cmd := &cobra.Command{
		Use:   "release",
		Short: "Let a group's Kubernetes objects act at the DR site: take over",
		Long: `Release undoes what keeps the group's objects at the DR site from acting: workloads get their replicas back, jobs and
schedules run, services their load balancers, webhooks their rules, and what was only rehearsed (claims, volumes, bare Pods,
Ingresses, custom resources) is created. It goes in an order in which what is needed comes first; what the API server refuses is
named, tried again and holds nothing else up. The group's applier does the work: this command asks it and shows how far it is,
and ending the command doesn't end the release.

There is no way back to standby: from the first object on the DR site's objects are the application's own, and what the primary
still sends is not applied to them. Release does not bring volumes back; "farshore replay" does.

It asks before it does anything, unless --yes is given. With --dry-run it tells what it would do, every step tried by the
API server, and does nothing. It exits with 0 when everything was released (or would be), and with 1 when anything was refused.`,
		Example: `  farshore release --group bank.yaml --dry-run
  farshore release --group bank.yaml`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := f.json()
			if err != nil {
				return err
			}
			g, err := r.loadObjects()
			if err != nil {
				return err
			}
			site, err := r.site(cmd.Context(), g, daemon.DR)
			if err != nil {
				return err
			}
			defer site.Close()
			t := takeover{
				applier: release.ApplierOf(site.Conn(), g.Metadata.Name), group: g.Metadata.Name,
				out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr(), json: asJSON,
			}
			if dryRun {
				return t.explain(t.rehearse(cmd.Context()))
			}
			t.confirm = func(question string) error {
				return confirm(cmd.InOrStdin(), cmd.ErrOrStderr(), question, g.Metadata.Name)
			}
			if yes {
				t.confirm = func(string) error { return nil }
			}
			t.heard = func(ctx context.Context) string { return heard(ctx, site, g.Metadata.Name) }
			return t.explain(t.run(cmd.Context()))
		},
	}
	r.register(cmd.Flags())
	f.register(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "tell what a release would do, and do nothing")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask")
	return cmd
}

// errRefused is the end of a release that the API server refused a part of.
var errRefused = errors.New("the API server refuses a part of it")

// errDeclined is a question that was not answered with yes.
var errDeclined = errors.New("nothing was done")

// takeover is one run of the command.
type takeover struct {
	applier   release.Applier
	group     string
	out, errs io.Writer
	json      bool

	confirm func(question string) error      // returns nil where the operator agrees
	heard   func(ctx context.Context) string // a warning where the primary seems to be alive; "": none
}

// explain adds to an error what an operator can do about it.
func (t *takeover) explain(err error) error {
	switch {
	case err == nil, errors.Is(err, errDeclined):
		return err
	case errors.Is(err, release.ErrUnavailable):
		return fmt.Errorf("release: %w: is the group's applier running at the DR site, with a --kubeconfig or in its cluster?", err)
	}
	return fmt.Errorf("release: %w", err)
}

// rehearse shows what a release would do.
func (t *takeover) rehearse(ctx context.Context) error {
	plan, err := t.applier.Plan(ctx)
	if err != nil {
		return err
	}
	if t.json {
		err = printJSON(t.out, plan)
	} else {
		err = printPlan(t.out, plan)
	}
	if err == nil && refused(plan.Steps) > 0 {
		err = errRefused
	}
	return err
}

// run releases, or goes on watching a release that was asked for before.
func (t *takeover) run(ctx context.Context) error {
	now, err := t.applier.Progress(ctx)
	if err != nil {
		return err
	}
	switch now.Mode {
	case rebuild.ModeReleased:
		fmt.Fprintf(t.errs, "group %s was released at %s\n", t.group, now.Since.UTC().Format(time.RFC3339))
		if len(now.Failed) == 0 {
			return t.finish(&now)
		}
		fmt.Fprintln(t.errs, "what was refused is tried again")
	case rebuild.ModeReleasing:
		fmt.Fprintf(t.errs, "a release was asked for at %s and goes on\n", now.Since.UTC().Format(time.RFC3339))
	default:
		if err := t.ask(ctx); err != nil {
			return err
		}
	}
	lines := releaseLines{out: t.errs}
	now, err = release.Run(ctx, t.applier, lines.update)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: the release goes on; `farshore release` shows how far it is: %w", err)
		}
		return err
	}
	return t.finish(&now)
}

// ask shows the plan and what it means, and lets the operator decide.
func (t *takeover) ask(ctx context.Context) error {
	plan, err := t.applier.Plan(ctx)
	if err != nil {
		return err
	}
	if err := printPlan(t.errs, plan); err != nil {
		return err
	}
	if t.heard != nil {
		if warning := t.heard(ctx); warning != "" {
			fmt.Fprintln(t.errs, warning)
		}
	}
	return t.confirm(fmt.Sprintf("Release group %s at the DR site? Its objects act from then on, and there is no way back to standby.", t.group))
}

func (t *takeover) finish(p *rebuild.Progress) error {
	var err error
	if t.json {
		err = printJSON(t.out, p)
	} else {
		err = printReleased(t.out, t.group, p)
	}
	if err == nil && len(p.Failed) > 0 {
		err = errRefused
	}
	return err
}

// confirm asks a question; only the given word means yes. Where nobody can answer it is a *daemon.UsageError.
func confirm(in io.Reader, out io.Writer, question, word string) error {
	if file, ok := in.(*os.File); ok && !term.IsTerminal(int(file.Fd())) {
		return daemon.Usagef("nobody can be asked here: give --yes, or --dry-run to see what would be done")
	}
	fmt.Fprintf(out, "%s\nType %q to go on: ", question, word)
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(answer) != word {
		return errDeclined
	}
	return nil
}

// recently is how young the primary's newest event must be for the primary to seem alive.
const recently = 15 * time.Second

// heard warns where the primary was heard of a moment ago.
func heard(ctx context.Context, site *journal.Site, name string) string {
	st, err := statusview.Read(ctx, site, name)
	if err != nil {
		return "" // the applier answers, it only never told how the group stands
	}
	return heardIn(st, time.Now())
}

func heardIn(st *group.Status, now time.Time) string {
	lag := st.Lags.TransitLagSeconds
	if lag == nil {
		return ""
	}
	ago := now.Sub(st.Time) + time.Duration(*lag*float64(time.Second))
	if ago > recently {
		return ""
	}
	return fmt.Sprintf("\nWARNING: the primary site was heard of %s ago. If the application still runs there, it will run at both sites.", human.Duration(ago))
}

// releaseLines shows a release, one line for each phase.
type releaseLines struct {
	out   io.Writer
	phase string
}

func (l *releaseLines) update(p rebuild.Progress) {
	if p.Phase == "" || p.Phase == l.phase {
		return
	}
	l.phase = p.Phase
	fmt.Fprintf(l.out, "releasing %s: %d of %d objects done\n", p.Phase, p.Done, p.Total)
}

func refused(steps []rebuild.Step) (n int) {
	for _, s := range steps {
		if s.Refused != "" {
			n++
		}
	}
	return n
}

func printPlan(out io.Writer, p *rebuild.Plan) error {
	fmt.Fprintf(out, "objects of %s\n", describePoint(p.Point))
	if err := printSteps(out, p.Steps); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, summary(p.Steps))
	return err
}

func printSteps(out io.Writer, steps []rebuild.Step) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "ORDER\tACTION\tOBJECT\tDETAIL")
	for _, s := range steps {
		detail := s.Detail
		if s.Refused != "" {
			detail = "REFUSED: " + s.Refused
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Phase, s.Action, s.Object, orDash(detail))
	}
	return w.Flush()
}

func summary(steps []rebuild.Step) string {
	count := make(map[rebuild.Action]int)
	for _, s := range steps {
		if s.Refused == "" {
			count[s.Action]++
		}
	}
	var parts []string
	for _, a := range []struct {
		action rebuild.Action
		what   string
	}{{rebuild.ActionRelease, "released"}, {rebuild.ActionCreate, "created"}, {rebuild.ActionKeep, "kept as they are"}, {rebuild.ActionDone, "released before"}} {
		if n := count[a.action]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", human.Count(int64(n)), a.what))
		}
	}
	text := "nothing to do"
	if len(parts) > 0 {
		text = strings.Join(parts, ", ")
	}
	if n := refused(steps); n > 0 {
		text += fmt.Sprintf("; %s refused", human.Count(int64(n)))
	}
	return text
}

func printReleased(out io.Writer, name string, p *rebuild.Progress) error {
	fmt.Fprintf(out, "released %s of %s objects of %s, those of %s\n", human.Count(int64(p.Done)), human.Count(int64(p.Total)), name, describePoint(p.Point))
	if len(p.Failed) == 0 {
		return nil
	}
	fmt.Fprintln(out, "refused; `farshore release` tries it again:")
	return printSteps(out, p.Failed)
}

func describePoint(p group.Point) string {
	label := ""
	if p.Label != "" {
		label = fmt.Sprintf(" %q", p.Label)
	}
	return fmt.Sprintf("barrier %d (%s%s) of %s", p.Barrier, p.Kind, label, p.Time.UTC().Format(time.RFC3339Nano))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
