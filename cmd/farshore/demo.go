package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/farshore/farshore/cmd/farshore/internal/demo"
	"github.com/farshore/farshore/cmd/internal/daemon"
)

func demoCommand() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Lose a primary site under load on this machine, and recover it",
		Long: `Demo starts a primary and a DR site as processes of this machine and runs two SQLite databases, a ledger and a
settlement, on a volume each. Then it makes two things happen that one recovers from: a DELETE without WHERE, and the
loss of the whole primary site in mid-write. It recovers the newest recovery point and the one labelled before the
DELETE, checks both databases, alone and against each other, and reports what was lost.

It needs no root and no network, listens on loopback addresses only, and removes what it made. The exit code is 1 when a check fails.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Duration < 2*time.Second {
				return daemon.Usagef("--duration must be at least 2s")
			}
			if o.Rate <= 0 || o.Rate > 100_000 {
				return daemon.Usagef("--rate must be more than 0 and at most 100000")
			}
			if o.Seed == 0 {
				o.Seed = uint64(time.Now().UnixNano())
			}
			o.Out, o.Err = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return demo.Run(cmd.Context(), o)
		},
	}
	s := cmd.Flags()
	s.DurationVar(&o.Duration, "duration", 30*time.Second, "length of the load before the disaster")
	s.Uint64Var(&o.Seed, "seed", 0, "seed of the workload; 0: another one each time")
	s.Float64Var(&o.Rate, "rate", 400, "transfers per second at most")
	s.BoolVar(&o.Keep, "keep", false, "leave the directory with logs, journals and recovered volumes")
	s.StringVar(&o.Dir, "dir", "", "new `DIR` to work in (default: a temporary one)")
	s.StringVar(&o.Bin, "bin", "", "`DIR` of the programs (default: beside this one, else built with go)")
	_ = cmd.MarkFlagDirname("dir")
	_ = cmd.MarkFlagDirname("bin")
	return cmd
}
