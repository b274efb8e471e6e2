package nbd

import (
	"context"

	"github.com/farshore/farshore/pkg/cdc"
)

// Export is a volume as the server sees it; cdc.Recorder is one, and so is what cdc.Direct gives.
//
// Calls are concurrent, also for overlapping ranges. Every range is within Size. A slice passed is
// the caller's again when the call returns; it may lie at any address. The context of a call ends
// when its connection is gone or the server gives up waiting at its end.
type Export interface {
	// Size is the volume's length in bytes. It is read once per connection.
	Size() int64
	// BlockSize is the unit in bytes that requests are best made in. Others are allowed too.
	BlockSize() int64
	// ReadAt fills p.
	ReadAt(p []byte, off int64) (int, error)
	// Write stores p, durably when it returns if fua is set. After an error any part of p may
	// have been stored.
	Write(ctx context.Context, p []byte, off int64, fua bool) error
	// Zero makes a range read as zeros. With Fast set it fails with errors.ErrUnsupported rather
	// than be as slow as a write.
	Zero(ctx context.Context, off, length int64, o cdc.ZeroOptions) error
	// Trim gives a range up; it reads as zeros afterwards.
	Trim(ctx context.Context, off, length int64, fua bool) error
	// Flush makes everything durable that was acknowledged before the call, over all connections.
	Flush(ctx context.Context) error
	// Segments tells what a range holds, in order and without gaps.
	Segments(off, length int64) ([]cdc.Segment, error)
}

// described is an Export that tells people what it is.
type described interface{ Description() string }
