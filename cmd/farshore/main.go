// Command farshore is the operator's command: it shows how protection groups stand, marks recovery
// points and recovers to them.
//
// Standard output carries results only, as text or as JSON; progress, hints and errors go to standard
// error. Exit codes: 0 success, 1 failure, 2 bad usage or configuration.
package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/farshore/farshore/cmd/internal/daemon"
)

func main() { daemon.Main(command()) }

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "farshore",
		Short: "Recover the volumes and Kubernetes objects of a lost site to any second",
		Long: `Farshore keeps a second site ready to take over: writes to volumes arrive there in order, and barriers cut all
volumes of a group at one instant, about once a second. Each cut is a recovery point.

A first look, on this machine alone:  farshore demo`,
		Version: daemon.Version(),
		Args:    noSubcommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(statusCommand(), pointsCommand(), markCommand(), replayCommand(), verifyCommand(), releaseCommand(), objectsCommand(), archiveCommand(), busCommand(), demoCommand(), versionCommand())
	return root
}

// noSubcommand refuses an argument of the root command: it was meant to be a subcommand.
func noSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "; did you mean " + near[0] + "?"
	}
	return daemon.Usagef("unknown command %q%s\ntry \"farshore --help\"", args[0], hint)
}

// noArgs refuses any argument.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return daemon.Usagef("unexpected argument %q\ntry %q", args[0], cmd.CommandPath()+" --help")
	}
	return nil
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), daemon.Version())
			return err
		},
	}
}
