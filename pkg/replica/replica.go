// Package replica rebuilds a group's volumes at the recovery site, and keeps its Kubernetes objects.
//
// A Set is the replicas of one group at one vector: Advance brings all of them from the commit they
// are at to a later one. It prepares, then applies: every stream's interval is read, verified and
// given room before the first byte is written; the target is recorded durably; data is written in
// parallel over volumes and made durable; the checkpoint follows the data. What a crash leaves is
// either the old commit, or a set that says which commit it was being advanced to: the next Advance
// writes that interval again, which gives the same bytes, since operations are idempotent in order.
// A set is never rewound, never skips an event, and never claims a commit it does not hold. The objects
// are one more part of a set (pkg/replica/objects): the checkpoint advances them and the volumes at once.
//
// A Follower is a daemon around one Set: it follows the mirrors of a group at the recovery site,
// keeps a base behind them, trims what the retention no longer needs and tells how far behind it is.
package replica

import (
	"context"
	"errors"
	"fmt"

	"github.com/farshore/farshore/pkg/journal"
)

// Extent is a range of a volume.
type Extent struct {
	Offset int64 // bytes from the start of the volume
	Length int64 // bytes
}

// Target is a volume as the applier writes it. ReadAt may be called concurrently with itself and with everything else, other
// calls never are. An implementation is correct if it passes replicatest.Run.
//
// Ranges lie inside Size. Nothing is durable before Sync returned; what of it a crash leaves is
// arbitrary per sector, but never content that was not written there.
type Target interface {
	// ReadAt fills p from off. It sees every earlier call, durable or not, and of one that goes on any part. While Close goes on, and
	// behind it, it may fail, or fill p with anything.
	ReadAt(p []byte, off int64) (int, error)
	// WriteAt stores p at off. Within a range that Reserve was given since it last read as
	// never written, trimmed or zeroed it does not fail for lack of room, as far as the
	// implementation can promise.
	WriteAt(p []byte, off int64) (int, error)
	// Zero makes a range read as zero; it frees its space where that is possible.
	Zero(off, length int64) error
	// Trim is Zero for a range whose content nobody wants: it reads as zero, too.
	Trim(off, length int64) error
	// Reserve makes room for writes to extents, which are sorted and do not overlap. It changes
	// no content. Lack of room is an error that wraps syscall.ENOSPC.
	Reserve(extents []Extent) error
	// Resize grows the volume to size; what is new reads as zero. Shrinking is refused.
	Resize(size int64) error
	// Size returns the volume's size in bytes.
	Size() int64
	// Sync makes everything before it durable. After an error nothing since the last Sync is
	// known to be: the caller writes it again.
	Sync() error
	// Close releases the volume; it does not Sync.
	Close() error
}

// Reader gives the events of one stream in order, as *journal.Reader does.
type Reader interface {
	// Next blocks until the next event is there. A *journal.GapError or *events.MessageError
	// names stream and sequence of what is missing or damaged.
	Next(ctx context.Context) (journal.Message, error)
	// Close releases the reader.
	Close()
}

// Source opens streams. Its methods may be called concurrently.
type Source interface {
	// Name returns what the stream is called here, for errors.
	Name(id journal.StreamID) string
	// Open returns a reader whose first event is the one at sequence from.
	Open(ctx context.Context, id journal.StreamID, from uint64) (Reader, error)
}

// ErrLocked says that another process works on the set.
var ErrLocked = errors.New("the directory is in use by another process")

// ErrForeign says that checkpoint, replica and source do not belong together: going on would
// write one volume's history into another one.
var ErrForeign = errors.New("replica and history do not belong together")

// ErrRewind says that a set was asked to go to a state before the one it holds.
var ErrRewind = errors.New("a replica is never rewound")

// VolumeError tells which volume an error is about, or that it is about the objects.
type VolumeError struct {
	Volume string // or journal.Objects
	Err    error
}

// Error implements error.
func (e *VolumeError) Error() string { return fmt.Sprintf("%s: %v", partName(e.Volume), e.Err) }

// Unwrap returns the error itself.
func (e *VolumeError) Unwrap() error { return e.Err }
