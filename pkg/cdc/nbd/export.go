package nbd

import (
	"context"
	"syscall"

	"github.com/farshore/farshore/pkg/cdc"
)

// Export is a volume as the server sees it; cdc.Recorder is one, and so is what cdc.Direct gives.
//
// Calls are concurrent, also for overlapping ranges. Every range is within Size. A slice passed is
// the caller's again when the call returns; it may lie at any address. The context of a call ends
// when its connection is gone or the server gives up waiting at its end.
type Export interface {
	// Size is the volume's length in bytes. It may grow: connections to come have the new size, the
	// others keep the one they were told.
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

// filed is an Export whose bytes lie in a file or a block device at their offsets. What is in the page
// cache is then sent from there, without being copied. A mutation that runs beside such a read may be
// seen by it in parts, as with ReadAt.
type filed interface {
	// Raw gives access to the descriptor; nil: there is none.
	Raw() syscall.RawConn
}

// described is an Export that tells people what it is.
type described interface{ Description() string }
