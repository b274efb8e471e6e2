package main

import (
	"context"
	"path/filepath"
	"time"

	"github.com/farshore/farshore/cmd/internal/archives"
	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/archiver"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

// storePatience is how long an object store that is away is waited for before a run is given up, and the status says so.
const storePatience = 3 * time.Minute

// newArchiver returns what archives commits as the document says, which may have an archive from some time on only.
func newArchiver(env *daemon.Env, site *journal.Site) (*archiver.Archiver, error) {
	return archiver.New(archiver.Options{
		Site: site, Group: env.Group, Log: env.Log, Meter: env.Telemetry.Meter("github.com/farshore/farshore/pkg/archiver"),
		Open: func(ctx context.Context, g *group.Group) (*archive.Archive, error) {
			dir := filepath.Join(g.Spec.Recovery.Directory, g.Metadata.Name)
			return archives.Create(ctx, g, archives.Options{Cache: archiver.IndexDirectory(dir), Patience: storePatience, Background: true, Log: env.Log})
		},
	})
}
