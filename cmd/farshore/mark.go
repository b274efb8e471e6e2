package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/farshore/farshore/cmd/farshore/internal/human"
	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/barrier"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

func markCommand() *cobra.Command {
	var r reach
	var f format
	var label string
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "mark --label LABEL",
		Short: "Make a labelled recovery point now",
		Long: `Mark cuts all volumes and Kubernetes objects of the group now and gives the cut a name, for example before an upgrade. It
returns once the cut is committed at the primary site; it is a recovery point as soon as the DR site has it, see "farshore points".
It asks the primary site, or, where that can't be reached from here, asks it through the DR site.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := f.json()
			if err != nil {
				return err
			}
			if err := barrier.CheckLabel(label); err != nil {
				return daemon.Usagef("--label: %w", err)
			}
			if wait <= 0 {
				return daemon.Usagef("--wait must be more than 0")
			}
			g, err := r.load()
			if err != nil {
				return err
			}
			site, err := r.either(cmd.Context(), g)
			if err != nil {
				return err
			}
			defer site.Close()
			commit, err := barrier.RequestMark(cmd.Context(), site.Conn(), g.Metadata.Name, label, wait)
			if err != nil {
				return err
			}
			m := markOf(commit)
			if asJSON {
				return printJSON(cmd.OutOrStdout(), m)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), m)
			return err
		},
	}
	r.register(cmd.Flags())
	f.register(cmd)
	cmd.Flags().StringVar(&label, "label", "", "name of the recovery point, 1 to 100 bytes")
	cmd.Flags().DurationVar(&wait, "wait", 30*time.Second, "longest wait for the commit")
	return cmd
}

// either connects to the primary site, or to the DR site, whose leafnode leads there.
func (r *reach) either(ctx context.Context, g *group.Group) (*journal.Site, error) {
	site, err := r.site(ctx, g, daemon.Primary)
	if err == nil || r.nats != "" || ctx.Err() != nil {
		return site, err
	}
	site, again := r.site(ctx, g, daemon.DR)
	if again != nil {
		return nil, errors.Join(err, again)
	}
	return site, nil
}

// mark is the result of the mark command.
type mark struct {
	Barrier     uint64    `json:"barrier"`
	Time        time.Time `json:"time"`
	Kind        string    `json:"kind"`
	Label       string    `json:"label"`
	Volumes     []string  `json:"volumes"`
	HoldSeconds float64   `json:"holdSeconds"` // longest time a volume withheld writes
}

func markOf(c *events.Commit) mark {
	m := mark{Barrier: c.Token.Barrier, Time: c.Time.UTC(), Kind: "labeled", Label: c.Label, HoldSeconds: c.Hold.Seconds()}
	for _, v := range c.Vector {
		m.Volumes = append(m.Volumes, v.Volume)
	}
	return m
}

// String writes the mark for people.
func (m mark) String() string {
	return fmt.Sprintf("%s: barrier %d at %s over %d volumes, writes held for %s",
		m.Label, m.Barrier, m.Time.Format(time.RFC3339Nano), len(m.Volumes), human.Seconds(m.HoldSeconds))
}
