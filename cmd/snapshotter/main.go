// Command snapshotter makes the barriers of one protection group: it cuts all volumes and Kubernetes objects at one
// instant, about once a second, and commits each cut to the group's control stream.
//
// It runs at the primary site, once per group. A second one takes over from the first, which ends
// with exit code 3. Where the group's document gives no URL for the primary site the snapshotter runs
// the site's NATS server, too.
package main

import (
	"context"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/barrier"
	"github.com/farshore/farshore/pkg/barrier/clock"
	"github.com/farshore/farshore/pkg/group"
)

const scope = "github.com/farshore/farshore/pkg/barrier"

func main() { daemon.Main(command()) }

func command() *cobra.Command {
	return daemon.Command(daemon.Spec{
		Use:   "snapshotter",
		Short: "Make the barriers of a protection group",
		Long: `Snapshotter cuts all volumes and Kubernetes objects of a protection group at one instant, on schedule and when "farshore mark"
asks for it, and commits each cut to the group's control stream: every commit is a recovery point once the DR site has it.
Run one per group, at the primary site. A newer one takes over from an older one, which ends with exit code 3.
Where the document gives no URL for the primary site, snapshotter runs the site's NATS server.`,
		Hosts: daemon.Primary,
		Run:   run,
	})
}

func run(ctx context.Context, env *daemon.Env) error {
	site, err := env.Primary(ctx)
	if err != nil {
		return err
	}
	o := options(env.Group)
	o.Site = site
	o.Writer = env.Instance + "/" + strconv.Itoa(os.Getpid()) + "/" + strconv.FormatInt(time.Now().UnixNano(), 36)
	o.Log, o.Meter, o.Tracer = env.Log, env.Telemetry.Meter(scope), env.Telemetry.Tracer(scope)
	coordinator, err := barrier.NewCoordinator(o)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return coordinator.Run(ctx) })
	g.Go(func() error { return clock.Serve(ctx, site.Conn(), o.Group, nil) })
	g.Go(func() error {
		return env.Follow(ctx, func(changed *group.Group) error {
			coordinator.SetParts(volumes(changed), changed.Spec.Objects != nil)
			return nil
		})
	})
	g.Go(func() error {
		select {
		case <-ctx.Done():
		case <-coordinator.Ready():
			env.Log.Info("ready", "interval", o.Interval, "volumes", len(o.Volumes), "objects", o.Objects)
		}
		return nil
	})
	return g.Wait()
}

// options are what the document says about barriers.
func options(g *group.Group) barrier.Options {
	b := g.Spec.Barriers
	o := barrier.Options{
		Group:       g.Metadata.Name,
		Interval:    time.Duration(b.Interval),
		HoldLimit:   time.Duration(b.HoldLimit),
		VoteTimeout: time.Duration(b.VoteTimeout),
		MaxBytes:    int64(g.Spec.Journal.MaxBytes),
		Replicas:    g.Spec.Journal.Replicas,
	}
	o.Volumes, o.Objects = volumes(g), g.Spec.Objects != nil
	return o
}

func volumes(g *group.Group) []barrier.Volume {
	var out []barrier.Volume
	for _, v := range g.Spec.Volumes {
		out = append(out, barrier.Volume{Name: v.Name, UID: v.UID})
	}
	return out
}
