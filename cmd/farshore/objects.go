package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/cmd/internal/cluster"
	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/rebuild"
	"github.com/farshore/farshore/pkg/replay"
	"github.com/farshore/farshore/pkg/replica/objects"
)

func objectsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "objects",
		Short: "Look at a group's Kubernetes objects: what a recovery point has, how the DR site differs",
		Long: `Objects looks at the Kubernetes objects of a group as the DR site holds them, on one timeline with the volumes: at every
recovery point they are those of the same instant. "farshore replay" brings them back, "farshore release" lets them act.`,
	}
	cmd.AddCommand(objectsListCommand(), objectsDiffCommand())
	return cmd
}

// atHelp tells what --at takes.
const atHelp = `POINT is "latest", a label, a barrier's number or an RFC 3339 time, as "farshore replay" takes it.`

func registerAt(cmd *cobra.Command, at *string, usage string) {
	cmd.Flags().StringVar(at, "at", "", usage)
	_ = cmd.RegisterFlagCompletionFunc("at", cobra.FixedCompletions([]string{replay.Latest}, cobra.ShellCompDirectiveNoFileComp))
}

func objectsListCommand() *cobra.Command {
	var r reach
	var f format
	var at string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the objects that a recovery point has",
		Long: `List names the objects that the group had at a recovery point, read from the DR site's own copy, journal
and archive: no API server is asked. ` + atHelp,
		Example: `  farshore objects list --group bank.yaml
  farshore objects list --group bank.yaml --at before-upgrade`,
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
			from, err := r.sourcesAt(cmd, g, at, nil)
			if err != nil {
				return err
			}
			defer from.close()
			view, point, err := viewAt(cmd.Context(), from, g, at)
			if err != nil {
				return fmt.Errorf("list objects: %w", err)
			}
			list := listed(view, point)
			if asJSON {
				return printJSON(cmd.OutOrStdout(), list)
			}
			return list.print(cmd.OutOrStdout())
		},
	}
	r.register(cmd.Flags())
	f.register(cmd)
	registerAt(cmd, &at, "the `POINT` (default: the newest)")
	return cmd
}

// viewAt returns the group's objects at a target; "": the newest point.
func viewAt(ctx context.Context, from *sources, g *group.Group, target string) (*objects.View, replay.Point, error) {
	if target == "" {
		target = replay.Latest
	}
	return replay.Objects(ctx, replay.Options{
		Site: from.site, Archive: from.archive, Group: g.Metadata.Name, Dir: directory(g), Target: target, Notice: from.notice,
	})
}

// objectList is the result of the list command.
type objectList struct {
	Point    replay.Point   `json:"point"`
	Revision string         `json:"revision,omitempty"` // of the API server, proven to have been reached
	Objects  []listedObject `json:"objects"`
}

type listedObject struct {
	Group     string `json:"group,omitempty"`
	Version   string `json:"version"`
	Resource  string `json:"resource"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	Revision  string `json:"revision"`
}

func listed(view *objects.View, point replay.Point) *objectList {
	list := &objectList{Point: point, Revision: view.Revision(), Objects: []listedObject{}}
	for e := range view.All() {
		list.Objects = append(list.Objects, listedObject{e.Key.Group, e.Key.Version, e.Key.Resource, e.Key.Namespace, e.Key.Name, e.UID, e.Revision})
	}
	return list
}

func (l *objectList) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "KIND\tNAMESPACE\tNAME\tREVISION")
	for _, o := range l.Objects {
		kind := o.Resource
		if o.Group != "" {
			kind += "." + o.Group
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", kind, orDash(o.Namespace), o.Name, orDash(o.Revision))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "%s objects at %s\n", human.Count(int64(len(l.Objects))), describePoint(short(l.Point)))
	return err
}

// short is what a status says of a point.
func short(p replay.Point) group.Point {
	return group.Point{Barrier: p.Barrier, Time: p.Time, Kind: p.Kind, Label: p.Label}
}

func objectsDiffCommand() *cobra.Command {
	var r reach
	var f format
	var c cluster.Flags
	var at string
	var identities []string
	cmd := &cobra.Command{
		Use:   "diff",
		Short: "Compare the primary's objects at a recovery point with the DR site's API server",
		Long: `Diff compares the group's objects at a recovery point, mapped by the document's rules and in the form that they have before
a release (or behind one, where the group was released), with what the DR site's API server holds. It tells what is missing,
what differs and in which fields, what is there and shouldn't be, and what is held back until a release. It writes nothing, and
never shows what a Secret holds.

Without --at it compares with the point that the applier has applied, and looks again where something differs: what is only on its
way is not told. ` + atHelp + `

It exits with 0 where nothing differs, and with 1 where anything does; what is held back is no difference.`,
		Example: `  farshore objects diff --group bank.yaml --kubeconfig dr.kubeconfig
  farshore objects diff --group bank.yaml --kubeconfig dr.kubeconfig --at before-upgrade -o json`,
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
			d := comparison{group: g, at: at}
			if d.config, err = c.Need(); err != nil {
				return err
			}
			if d.rules, err = diffRules(g, identities, cmd.ErrOrStderr()); err != nil {
				return err
			}
			if d.from, err = r.sourcesAt(cmd, g, at, d.rules.Identities); err != nil {
				return err
			}
			defer d.from.close()
			result, err := d.run(cmd.Context())
			if err != nil {
				return fmt.Errorf("compare objects: %w", err)
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), result)
			} else {
				err = result.print(cmd.OutOrStdout())
			}
			if err == nil && !result.Equal {
				err = errObjectsDiffer
			}
			return err
		},
	}
	r.register(cmd.Flags())
	f.register(cmd)
	c.Register(cmd.Flags(), "the DR site's")
	c.Complete(cmd)
	registerAt(cmd, &at, "the `POINT` (default: the one that the applier has applied)")
	registerIdentities(cmd, &identities, "beside the document's")
	return cmd
}

func registerIdentities(cmd *cobra.Command, identities *[]string, more string) {
	cmd.Flags().StringArrayVar(identities, "identity", nil, "age identity `FILE` that opens Secrets, "+more+"; may be repeated")
	_ = cmd.MarkFlagFilename("identity")
}

// diffRules are the document's, with what the command line adds. An identity of the document that only the applier may read
// leaves its Secrets out, and that is told.
func diffRules(g *group.Group, more []string, errs io.Writer) (rebuild.Rules, error) {
	given, err := cluster.Identities(more)
	if err != nil {
		return rebuild.Rules{}, &daemon.UsageError{Err: fmt.Errorf("--identity: %w", err)}
	}
	rules, err := cluster.Rules(g.Spec.Recovery.Objects)
	if err != nil {
		fmt.Fprintf(errs, "Secrets that need it are not compared: %v\n", err)
	}
	rules.Identities = append(rules.Identities, given...)
	return rules, nil
}
