// Command applier keeps the replicas of one protection group at the DR site: it mirrors the group's
// streams, rebuilds its volumes and objects from them commit by commit, and tells how far behind they are.
//
// It runs at the DR site, once per group; a second one waits. Where the group's document gives no URL for
// the DR site the applier runs the site's NATS server, too.
package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/cmd/internal/cluster"
	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/release"
	"github.com/farshore/farshore/pkg/replica"
)

const scope = "github.com/farshore/farshore/pkg/replica"

func main() { daemon.Main(command()) }

func command() *cobra.Command {
	var api cluster.Flags
	cmd := daemon.Command(daemon.Spec{
		Use:   "applier",
		Short: "Rebuild the volumes and objects of a protection group",
		Long: `Applier mirrors the streams of a protection group at the DR site and rebuilds its volumes from them, always at a
commit: what it has is what all volumes held at one instant. It publishes how far behind it is for "farshore status" and
keeps the history that "farshore replay" needs, and points of the group in an archive where the document has one. Run one per group, at the DR site; a second one waits until the first is gone.
Where the document gives no URL for the DR site, applier runs the site's NATS server.

Where the document captures objects, applier keeps them at the DR site's API server, too, in a form that doesn't act, until
"farshore release" asks for a takeover.`,
		Hosts: daemon.DR,
		Flags: func(set *pflag.FlagSet) { api.Register(set, "the DR site's") },
		Run:   func(ctx context.Context, env *daemon.Env) error { return run(ctx, env, api) },
	})
	api.Complete(cmd)
	return cmd
}

func run(ctx context.Context, env *daemon.Env, api cluster.Flags) error {
	site, err := env.DR(ctx)
	if err != nil {
		return err
	}
	a, err := newApplied(env, site, api)
	if err != nil {
		return err
	}
	working := make(chan struct{}) // closed once this applier is the one that works
	o := replica.FollowerOptions{
		Site: site, Group: env.Group, Instance: env.Instance,
		Log: env.Log, Meter: env.Telemetry.Meter(scope),
		Ready: func() {
			env.Log.Info("ready", "volumes", len(env.Group.Spec.Volumes))
			close(working)
		},
	}
	if a != nil {
		o.Applied, o.Objects = a.want, a.rebuild.Status
	}
	archiving, err := newArchiver(env, site)
	if err != nil {
		return err
	}
	o.Archiver = archiving
	f, err := replica.NewFollower(o)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.Run(ctx) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-working:
		}
		if a != nil {
			return a.run(ctx)
		}
		return release.Serve(ctx, site.Conn(), env.Group.Metadata.Name, withoutObjects(env.Group))
	})
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-working:
		}
		return archiving.Run(ctx, f)
	})
	g.Go(func() error {
		return env.Follow(ctx, func(changed *group.Group) error {
			f.Update(changed)
			archiving.Update(changed)
			if a != nil {
				a.update(changed)
			}
			return nil
		})
	})
	return g.Wait()
}

func withoutObjects(g *group.Group) noObjects {
	if g.Spec.Objects == nil {
		return noObjects{"the group captures no objects (spec.objects)"}
	}
	return noObjects{"this applier keeps the durable copy alone (spec.recovery.objects.apply is false)"}
}
