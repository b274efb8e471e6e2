package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/farshore/farshore/cmd/farshore/internal/statusview"
	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

func statusCommand() *cobra.Command {
	var r reach
	var f format
	var watch bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how a group stands: lags, recovery point, passes, conditions",
		Long: `Status shows how the DR site stands to the primary, per group and volume:

  recoverable RPO  what would be lost if the primary were gone now
  transit lag      what has not arrived at the DR site
  replay debt      what is there and not applied: recovery time, not data loss
  capture debt     what the application was told is written and is not in the journal yet

It reads the document that the group's applier writes about once a second at the DR site.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := f.json()
			if err != nil {
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
			s := status{site: site, group: g.Metadata.Name, out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr(), json: asJSON}
			if watch {
				return s.watch(cmd.Context())
			}
			return s.once(cmd.Context())
		},
	}
	r.register(cmd.Flags())
	f.register(cmd)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again each second until interrupted")
	return cmd
}

type status struct {
	site  *journal.Site
	group string
	out   io.Writer
	errs  io.Writer
	json  bool
}

func (s *status) once(ctx context.Context) error {
	st, err := statusview.Read(ctx, s.site, s.group)
	if err != nil {
		return err
	}
	if s.json {
		return printJSON(s.out, st)
	}
	_, err = io.WriteString(s.out, statusview.Text(st, time.Now()))
	return err
}

// watch shows the status each second: on a terminal in place, elsewhere one behind the other, as JSON
// one document a line.
func (s *status) watch(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	file, isFile := s.out.(*os.File)
	clear := ""
	if isFile && term.IsTerminal(int(file.Fd())) {
		clear = "\x1b[H\x1b[2J"
	}
	for shown := false; ; {
		st, err := statusview.Read(ctx, s.site, s.group)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !shown:
			return err
		case err != nil: // the site may come back
			fmt.Fprintf(s.errs, "%s  %v\n", time.Now().Format(time.TimeOnly), err)
		default:
			if err := s.show(st, clear); err != nil {
				return err
			}
			shown = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *status) show(st *group.Status, clear string) error {
	if s.json {
		return json.NewEncoder(s.out).Encode(st)
	}
	_, err := fmt.Fprintf(s.out, "%s%s\n", clear, statusview.Text(st, time.Now()))
	return err
}
