package repair

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/farshore/farshore/pkg/journal"
)

// Incarnate is Capture's for any stream of a site, the primary.
func Incarnate(ctx context.Context, site *journal.Site, id journal.StreamID, n int, from uint64) error {
	err := site.EnsureIncarnation(ctx, id, n, from)
	var gap *journal.GapError
	var config *journal.ConfigError
	switch {
	case errors.As(err, &gap):
		return fmt.Errorf("%w: %w", ErrGone, err)
	case errors.As(err, &config):
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}

// Pause is Capture's for any stream of a site, the primary.
func Pause(ctx context.Context, site *journal.Site, id journal.StreamID, until time.Time) error {
	return site.PauseMirror(ctx, id, until)
}
