// Command capturer serves volumes of one protection group over NBD and records what is written to
// them in the group's streams; and it records the group's Kubernetes objects.
//
// It runs at the primary site, next to the volumes' backing devices; each volume of the group's document
// names the capturer that serves it. Of the capturers that reach the API server one is elected to watch the objects;
// when it ends, or another one takes the objects stream over, the others compete again. A second capturer that takes a volume over fences the
// first one, which answers EIO from then on and ends with exit code 3. On SIGTERM it closes
// its fronts, waits until everything acknowledged is stored in the journal, and ends with exit code 0.
package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/farshore/farshore/cmd/internal/cluster"
	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/group"
)

func main() { daemon.Main(command()) }

func command() *cobra.Command {
	var name, state, leaseNamespace string
	var api cluster.Flags
	cmd := daemon.Command(daemon.Spec{
		Use:   "capturer",
		Short: "Serve volumes over NBD and record what is written to them, and the Kubernetes objects",
		Long: `Capturer serves the volumes whose "capturer" in the document is its name, each at its "listen" address, and records every write
in the volume's stream at the primary site. Run it where the volumes' files or block devices are. It locks them, so that no second
capturer can serve one at the same time. It serves at once, whether or not it reaches the primary site's servers: what is written
without them is noted in the activity logs (see --state) and sent later, as is what a crash left. Until that is done the volume
takes no part in barriers. It follows the document: volumes may come, go and grow while it runs.

Where the document has objects and the capturer reaches the primary site's Kubernetes API server (see --kubeconfig), it competes with
other capturers to be the one that watches them. It may serve no volume then. The rights it needs are in deploy/kubernetes.`,
		Flags: func(f *pflag.FlagSet) {
			f.StringVar(&name, "name", "", "the `NAME` by which volumes in the document refer to this capturer")
			f.StringVar(&state, "state", "", "`DIR` of the volumes' activity logs: it must outlive the process (default: below the state directory)")
			api.Register(f, "the primary site's")
			f.StringVar(&leaseNamespace, "lease-namespace", "", "`NAMESPACE` of the Lease that elects who watches the objects (default: the first one of the objects')")
		},
		Instance: func() string { return name },
		Run: func(ctx context.Context, env *daemon.Env) error {
			config, err := api.Config()
			if err != nil && !errors.Is(err, cluster.ErrNone) {
				return err
			}
			volumes, err := volumesOf(env.Group, name, config != nil)
			if err != nil {
				return err
			}
			dir, err := stateOf(state, env.Group.Metadata.Name)
			if err != nil {
				return err
			}
			c := &capturer{env: env, name: name, writer: identity(name), state: dir}
			if config != nil {
				c.objects = newWatching(c, config, leaseNamespace)
			}
			return c.run(ctx, volumes)
		},
	})
	api.Complete(cmd)
	return cmd
}

// volumesOf returns the volumes that the capturer serves. There may be none where it can watch the objects.
func volumesOf(g *group.Group, name string, api bool) ([]group.Volume, error) {
	if name == "" {
		return nil, daemon.Usagef("name this capturer with --name or FARSHORE_NAME")
	}
	volumes := g.VolumesOf(name)
	switch {
	case len(volumes) > 0 || api && g.Spec.Objects != nil:
		return volumes, nil
	case g.Spec.Objects != nil:
		return nil, daemon.Usagef("no volume of group %s has the capturer %q, and to watch the group's objects it needs an API server: %w",
			g.Metadata.Name, name, cluster.ErrNone)
	}
	return nil, daemon.Usagef("no volume of group %s has the capturer %q", g.Metadata.Name, name)
}

// stateOf makes the directory of a group's activity logs below --state, or where that isn't given, below
// the state directory.
func stateOf(state, group string) (string, error) {
	if state == "" {
		dir, err := daemon.StateDirectory()
		if err != nil {
			return "", daemon.Usagef("name a directory with --state: %w", err)
		}
		state = filepath.Join(dir, "capture")
	}
	dir := filepath.Join(state, group)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", daemon.Usagef("make the directory of the activity logs, see --state: %w", err)
	}
	return dir, nil
}

// identity is unique for each start of a process.
func identity(name string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return name + "@" + host + "/" + strconv.Itoa(os.Getpid()) + "/" + strconv.FormatInt(time.Now().UnixNano(), 36)
}
