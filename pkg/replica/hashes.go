package replica

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

// lockPoll is how often a volume that is being worked on is looked at again.
const lockPoll = 2 * time.Millisecond

// Hashes returns the SHA-256 of what a volume holds, for each repair.HashUnit of a range, while it stands exactly at
// base: that is proven before the first byte is read, and nobody works on the volume until the last one is.
//
// repair.ErrGone says that it stands elsewhere, repair.ErrRefused that the range is none, repair.ErrBusy that the
// volume was being worked on until ctx ended, or has to be made whole first.
func (s *Set) Hashes(ctx context.Context, name string, base events.Base, off, length int64) ([][32]byte, error) {
	if name == journal.Objects {
		return nil, fmt.Errorf("%w: objects have none", repair.ErrRefused)
	}
	v := s.volume(name)
	for !v.mu.TryLock() {
		if !sleep(ctx, lockPoll) {
			return nil, fmt.Errorf("%w: volume %s is being worked on", repair.ErrBusy, name)
		}
	}
	defer v.mu.Unlock()
	hashes, err := s.hashes(ctx, v, base, off, length)
	if err != nil {
		return nil, &VolumeError{name, err}
	}
	return hashes, nil
}

func (s *Set) hashes(ctx context.Context, v *volume, base events.Base, off, length int64) ([][32]byte, error) {
	// The checkpoint, not only what was written: what is not durable can't be a base.
	at, _ := s.durable(v.name)
	if at != v.now || at.Generation != base.Generation || at.Seq != base.Seq || at.Barrier != base.Barrier || base.Barrier == 0 {
		return nil, fmt.Errorf("%w: the replica is at generation %d, sequence %d, barrier %d, not at %d, %d, %d",
			repair.ErrGone, at.Generation, at.Seq, at.Barrier, base.Generation, base.Seq, base.Barrier)
	}
	if off < 0 || length < 1 || off%repair.HashUnit != 0 || off > at.Size || length > at.Size-off ||
		length > repair.MaxHashes*repair.HashUnit {
		return nil, fmt.Errorf("%w: a range of %d bytes at %d of a volume of %d bytes", repair.ErrRefused, length, off, at.Size)
	}
	if !s.idle() {
		return nil, fmt.Errorf("%w: a commit is half applied", repair.ErrBusy)
	}
	if err := s.openVolume(v, at.Size); err != nil {
		return nil, err
	}
	if !v.whole {
		return nil, fmt.Errorf("%w: the replica holds something behind the base until the next commit", repair.ErrBusy)
	}
	out := make([][32]byte, 0, (length+repair.HashUnit-1)/repair.HashUnit)
	buf := make([]byte, repair.HashUnit)
	for end := off + length; off < end; off += repair.HashUnit {
		if ctx.Err() != nil {
			return nil, errors.Join(repair.ErrBusy, ctx.Err())
		}
		unit := buf[:min(repair.HashUnit, end-off)]
		if _, err := v.target.ReadAt(unit, off); err != nil {
			return nil, fmt.Errorf("read %d bytes at %d: %w", len(unit), off, err)
		}
		out = append(out, sha256.Sum256(unit))
	}
	return out, nil
}
