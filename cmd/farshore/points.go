package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/cmd/internal/cluster"
	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/replay"
)

func pointsCommand() *cobra.Command {
	var r reach
	var f format
	var limit int
	var fromArchive bool
	var identities []string
	cmd := &cobra.Command{
		Use:   "points",
		Short: "List the recovery points: time, kind, label, size, volumes, objects",
		Long: `Points lists the recovery points that the DR site holds, oldest first: the newest ones and every labelled one. Points that are in the
archive are among them, those that the journal has lost included; with --from-archive those alone, without asking a NATS server.
The size is what the journal gained since the point before. Of Kubernetes objects it tells the resourceVersion of the API server
that they had been proven to have reached: all of them for points that were asked for (app, labeled), what was proven so far for others.`,
		Example: `  farshore points --group bank.yaml
  farshore points --group bank.yaml --from-archive --limit 0`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := f.json()
			if err != nil {
				return err
			}
			if limit < 0 {
				return daemon.Usagef("--limit must not be negative")
			}
			g, err := r.load()
			if err != nil {
				return err
			}
			keys, err := cluster.Identities(identities)
			if err != nil {
				return daemon.Usagef("--identity: %w", err)
			}
			from, err := r.sources(cmd, g, fromArchive, keys)
			if err != nil {
				return err
			}
			defer from.close()
			points, err := listPoints(cmd.Context(), from, g, limit)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), points)
			}
			return printPoints(cmd.OutOrStdout(), points)
		},
	}
	r.register(cmd.Flags())
	f.register(cmd)
	cmd.Flags().IntVar(&limit, "limit", 20, "list the newest `N` points and all labelled ones; 0: all")
	cmd.Flags().BoolVar(&fromArchive, "from-archive", false, "list what is in the archive, and ask no NATS server")
	registerArchiveIdentities(cmd, &identities)
	return cmd
}

// directory is the group's directory at the DR site.
func directory(g *group.Group) string {
	return filepath.Join(g.Spec.Recovery.Directory, g.Metadata.Name)
}

func listPoints(ctx context.Context, from *sources, g *group.Group, limit int) ([]replay.Point, error) {
	sized := limit
	if limit == 0 {
		const all = 1 << 30
		sized = all
	}
	points, err := replay.Points(ctx, replay.Options{
		Site: from.site, Archive: from.archive, Group: g.Metadata.Name, Dir: directory(g), Notice: from.notice,
	}, sized)
	if err != nil {
		return nil, err
	}
	return newest(points, limit), nil
}

// newest returns the limit newest points and all labelled ones; with limit 0 all.
func newest(points []replay.Point, limit int) []replay.Point {
	out := make([]replay.Point, 0, len(points))
	for i, p := range points {
		if limit == 0 || i >= len(points)-limit || p.Label != "" {
			out = append(out, p)
		}
	}
	return out
}

// objectsOf tells whether a point has Kubernetes objects, and what their capturer had proven.
func objectsOf(p replay.Point) string {
	switch {
	case !p.Objects:
		return "-"
	case p.Revision == "":
		return "yes"
	}
	return "revision " + p.Revision
}

func printPoints(out io.Writer, points []replay.Point) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "BARRIER\tTIME (UTC)\tKIND\tLABEL\tSIZE\tRESTORABLE\tARCHIVED\tVOLUMES\tOBJECTS")
	for _, p := range points {
		size := "-"
		if p.Bytes != nil {
			size = human.Bytes(int64(*p.Bytes))
		}
		volumes := dash(strings.Join(p.Volumes, ","))
		restorable := "yes"
		if !p.Restorable {
			restorable = "no, " + p.Reason
		}
		archived := "-"
		if p.Archived {
			archived = "yes"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Barrier, p.Time.UTC().Format("2006-01-02T15:04:05.000000Z"), p.Kind, dash(p.Label), size, restorable, archived, volumes, objectsOf(p))
	}
	return w.Flush()
}
