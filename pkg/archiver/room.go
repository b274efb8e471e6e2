package archiver

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// What of the replicas' file system is left to them: one of so many parts, and at most so many bytes.
const (
	leftParts = 20
	leftMost  = 1 << 30
)

// roomLeft fails where the file system of a directory is so full that what is built there might keep the replicas from going on.
func roomLeft(dir string) error {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return fmt.Errorf("read the free space of %s: %w", dir, err)
	}
	return enough(dir, int64(s.Bavail)*s.Bsize, int64(s.Blocks)*s.Bsize)
}

func enough(dir string, free, all int64) error {
	if left := min(all/leftParts, leftMost); free < left {
		return fmt.Errorf("the file system of %s has %d MiB free, and %d MiB are left to the replicas: %w", dir, free>>20, left>>20, unix.ENOSPC)
	}
	return nil
}

// whileRoom runs work as long as check, which it is asked before and then from time to time, doesn't fail. Where it does the work is called off.
func whileRoom(ctx context.Context, every time.Duration, check func() error, work func(context.Context) error) error {
	if err := check(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var short error
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := check(); err != nil {
				short = err
				cancel(err)
				return
			}
		}
	}()
	err := work(ctx)
	cancel(nil)
	<-watched
	if err != nil && short != nil {
		return short // what was called off for it says less
	}
	return err
}
