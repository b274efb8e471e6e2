// Command applier keeps the replicas of one protection group at the DR site: it mirrors the group's
// streams, rebuilds its volumes from them commit by commit, and tells how far behind they are.
//
// It runs at the DR site, once per group; a second one waits. Where the group's document gives no URL for
// the DR site the applier runs the site's NATS server, too.
package main

import (
	"context"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/replica"
)

const scope = "github.com/farshore/farshore/pkg/replica"

func main() { daemon.Main(command()) }

func command() *cobra.Command {
	return daemon.Command(daemon.Spec{
		Use:   "applier",
		Short: "Rebuild the volumes of a protection group",
		Long: `Applier mirrors the streams of a protection group at the DR site and rebuilds its volumes from them, always at a
commit: what it has is what all volumes held at one instant. It publishes how far behind it is for "farshore status" and
keeps the history that "farshore replay" needs. Run one per group, at the DR site; a second one waits until the first is gone.
Where the document gives no URL for the DR site, applier runs the site's NATS server.`,
		Hosts: daemon.DR,
		Run:   run,
	})
}

func run(ctx context.Context, env *daemon.Env) error {
	site, err := env.DR(ctx)
	if err != nil {
		return err
	}
	f, err := replica.NewFollower(replica.FollowerOptions{
		Site: site, Group: env.Group, Instance: env.Instance,
		Log: env.Log, Meter: env.Telemetry.Meter(scope),
		Ready: func() { env.Log.Info("ready", "volumes", len(env.Group.Spec.Volumes)) },
	})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.Run(ctx) })
	g.Go(func() error {
		return env.Follow(ctx, func(changed *group.Group) error {
			f.Update(changed)
			return nil
		})
	})
	return g.Wait()
}
