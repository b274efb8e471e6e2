package main

import (
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/farshore/farshore/cmd/farshore/internal/demo"
	"github.com/farshore/farshore/cmd/internal/daemon"
)

func demoCommand() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Lose a primary site under load on this machine, recover it, and once more from the archive alone",
		Long: `Demo starts a primary and a DR site as processes of this machine and runs two SQLite databases, a ledger and a
settlement, on a volume each. Then it makes two things happen that one recovers from: a DELETE without WHERE, and the
loss of the whole primary site in mid-write. It recovers the newest recovery point and the one labelled before the
DELETE, checks both databases, alone and against each other, and reports what was lost. Then the DR site is lost, too: its
processes are killed, its journal and its replicas deleted. The labelled point comes back from the archive alone, a directory
here, and is compared with the journal's events byte by byte.

Kubernetes objects go with the volumes: the demo starts an API server at each site (built once, which takes about five
minutes on two cores), installs a small application and deletes one of its objects by mistake. A limit in a ConfigMap, which
every debit waits for, must fit the databases at the recovered points; nothing of the application may act at the DR site before
"farshore release". --kube=off does without. With --primary-context and --dr-context clusters that exist are used instead, in
namespaces of the demo's own, which it removes; the primary's API server can't be lost then, everything else is.

It needs no root and no network (but for what a first build fetches), listens on loopback addresses only, and removes what it made. The exit code is 1 when a check fails.`,
		Example: `  farshore demo
  farshore demo --kube=off --duration 10s
  farshore demo --primary-context kind-a --dr-context kind-b`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Duration < 2*time.Second {
				return daemon.Usagef("--duration must be at least 2s")
			}
			if o.Rate <= 0 || o.Rate > 100_000 {
				return daemon.Usagef("--rate must be more than 0 and at most 100000")
			}
			if err := kubernetesFlags(&o); err != nil {
				return err
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
	s.StringVar(&o.Kube, "kube", demo.KubeAuto, "with Kubernetes objects: on, off, or auto: where the API servers can be built")
	s.StringVar(&o.PrimaryContext, "primary-context", "", "`NAME` of a kubeconfig's context: use this cluster as the primary's")
	s.StringVar(&o.DRContext, "dr-context", "", "`NAME` of a kubeconfig's context: use this cluster as the DR site's")
	s.StringVar(&o.Kubeconfig, "kubeconfig", "", "kubeconfig `FILE` with these contexts (default: the one that kubectl uses)")
	_ = cmd.MarkFlagFilename("kubeconfig")
	_ = cmd.RegisterFlagCompletionFunc("kube", cobra.FixedCompletions([]string{demo.KubeAuto, demo.KubeOn, demo.KubeOff}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.MarkFlagDirname("dir")
	_ = cmd.MarkFlagDirname("bin")
	return cmd
}

// kubernetesFlags checks what the command line says about Kubernetes.
func kubernetesFlags(o *demo.Options) error {
	if !slices.Contains([]string{demo.KubeAuto, demo.KubeOn, demo.KubeOff}, o.Kube) {
		return daemon.Usagef("--kube: %q is not one of auto, on and off", o.Kube)
	}
	switch {
	case (o.PrimaryContext == "") != (o.DRContext == ""):
		return daemon.Usagef("--primary-context and --dr-context go together; they may name one cluster, which plays both sites then")
	case o.PrimaryContext != "" && o.Kube == demo.KubeOff:
		return daemon.Usagef("--kube=off leaves out Kubernetes objects: it doesn't go with --primary-context")
	}
	return nil
}
