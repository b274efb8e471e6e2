// Package archives opens the archive of a group where its document says that it is.
package archives

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/farshore/farshore/cmd/internal/cluster"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/group"
)

// ErrNotConfigured means that a group's document has no archive.
var ErrNotConfigured = errors.New("the group's document has no spec.recovery.archive")

// Options shape an Open or a Create.
type Options struct {
	Identities []age.Identity // beside the document's
	Cache      string         // directory for what can be had from the store again; "": one that is gone after Close
	// Patience is how long an object store that is out of reach is waited for, in each operation; 0: until the context is done.
	Patience time.Duration
	// Background lets runs give way to other work.
	Background bool
	Log        *slog.Logger // nil: silent
}

// Open opens a group's archive. Where none was made yet the error wraps archive.ErrNone.
func Open(ctx context.Context, g *group.Group, o Options) (*archive.Archive, error) {
	return with(ctx, g, o, archive.Open)
}

// Create opens a group's archive, and makes it where there is none.
func Create(ctx context.Context, g *group.Group, o Options) (*archive.Archive, error) {
	return with(ctx, g, o, archive.Create)
}

func with(ctx context.Context, g *group.Group, o Options, open func(context.Context, archive.Options) (*archive.Archive, error)) (*archive.Archive, error) {
	s, err := Store(g, o)
	if err != nil {
		return nil, err
	}
	a := g.Spec.Recovery.Archive
	options := archive.Options{Store: s, Group: g.Metadata.Name, Identities: o.Identities, Cache: o.Cache, Background: o.Background, Log: o.Log}
	if len(a.Recipients) > 0 {
		if options.Recipients, err = age.ParseRecipients(strings.NewReader(strings.Join(a.Recipients, "\n"))); err != nil {
			return nil, fmt.Errorf("read spec.recovery.archive.recipients: %w", err)
		}
	}
	// The document's identity may be a file of the applier's alone: where it can't be read those of the options may do.
	var unreadable error
	if a.Identities != "" {
		var own []age.Identity
		own, unreadable = cluster.Identities([]string{a.Identities})
		options.Identities = append(own, options.Identities...)
	}
	opened, err := open(ctx, options)
	switch {
	case errors.Is(err, archive.ErrKey) && unreadable != nil:
		err = fmt.Errorf("%w; the document's can't be used: %w", err, unreadable)
	case err == nil:
		return opened, nil
	}
	return nil, fmt.Errorf("open the archive of %s in %s: %w", g.Metadata.Name, s, err)
}

// Store returns the store that a group's archive alone is in, or is to be.
func Store(g *group.Group, o Options) (store.Store, error) {
	a := g.Spec.Recovery.Archive
	if a == nil {
		return nil, fmt.Errorf("%w: nothing of %s is archived", ErrNotConfigured, g.Metadata.Name)
	}
	if a.S3 == nil {
		dir, err := store.NewDir(g.ArchiveDirectory())
		if err != nil {
			return nil, err
		}
		return store.Sub(dir, g.Metadata.Name), nil
	}
	s3, err := store.NewS3(store.S3Options{
		Endpoint: a.S3.Endpoint, Bucket: a.S3.Bucket, Prefix: a.S3.Prefix, Region: a.S3.Region,
		Insecure: a.S3.Insecure, CAFile: a.S3.CAFile, Credentials: a.S3.Credentials,
	})
	if err != nil {
		return nil, err
	}
	return store.Sub(store.NewRetry(s3, store.RetryOptions{Limit: o.Patience, Log: o.Log}), g.Metadata.Name), nil
}
