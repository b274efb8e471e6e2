package archiver

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"
)

// A twentieth of a file system is left to the replicas, at most a GiB.
func TestEnough(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	for _, c := range []struct {
		free, all int64
		ok        bool
	}{{gib, 1000 * gib, true}, {gib - 1, 1000 * gib, false}, {gib / 20, gib, true}, {gib/20 - 1, gib, false}, {0, gib, false}} {
		if err := enough("dir", c.free, c.all); (err == nil) != c.ok || err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%d of %d are free: %v", c.free, c.all, err)
		}
	}
	if err := roomLeft(t.TempDir() + "/none"); !errors.Is(err, syscall.ENOENT) {
		t.Error(err)
	}
}

// Work is called off when room gets short meanwhile, and the error is that; what succeeded in spite of it did.
func TestWhileRoom(t *testing.T) {
	t.Parallel()
	untilShort := func() func() error {
		asked := 0
		return func() error {
			if asked++; asked > 2 {
				return syscall.ENOSPC
			}
			return nil
		}
	}
	wait := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	if err := whileRoom(t.Context(), time.Millisecond, untilShort(), wait); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	done := func(ctx context.Context) error { <-ctx.Done(); return nil }
	if err := whileRoom(t.Context(), time.Millisecond, untilShort(), done); err != nil {
		t.Error(err)
	}
	failed := errors.New("failed")
	if err := whileRoom(t.Context(), time.Hour, untilShort(), func(context.Context) error { return failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	never := func(context.Context) error { t.Error("worked without room"); return nil }
	if err := whileRoom(t.Context(), time.Hour, func() error { return syscall.ENOSPC }, never); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := whileRoom(ended, time.Hour, func() error { return nil }, wait); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
