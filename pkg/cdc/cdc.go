// Package cdc is the tap in a volume's write path: a Recorder stands between a front (an NBD
// export, for instance) and a backing Device, and describes every mutation of the device to a
// journal.
//
// The guarantee: the frames of a volume's stream, applied in the stream's order to what the
// volume held when they began (or to anything at all, once a pass over all of it is done), give what the
// device held at that position, byte for byte, wherever the volume is Ready. For overlapping mutations the
// journal's order is the device's order. A mutation takes these steps and never any other order:
//
//	hold gate → byte credit → range lock → activity log → device → append to the frame pipeline → acknowledge
//
// An acknowledgement doesn't wait for the journal. What is acknowledged and not yet stored there
// is the capture debt; it is bounded by a Budget. When the journal is gone and the budget is used up,
// mutations wait (Stall), or go on without being recorded (Track); reads go on in any case. Whatever can't
// be told from the journal is a stale region of the activity log, which survives crashes: what a crash lost
// from memory, what was tracked, and what a failing device left behind. Stale regions are read again, in
// stream order, by a pass; until that is done the volume takes no part in barriers.
//
// A Mark in the stream is a cut: mutations that were acknowledged before the hold was confirmed lie
// before it, mutations issued after the hold was confirmed lie behind it.
package cdc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/farshore/farshore/pkg/cdc/activity"
	"github.com/farshore/farshore/pkg/events"
)

// Segment is a range of a device and what is known about it without reading it.
type Segment struct {
	Offset, Length int64 // bytes
	Hole           bool  // nothing is allocated; implies Zero
	Zero           bool  // it reads as zero
}

// Device is a backing device. Calls are concurrent, but two mutations never overlap and Close is
// called when nothing else runs any more. Ranges lie within the device. A device is locked
// exclusively as long as it is open: no second Recorder can be behind it.
type Device interface {
	// ReadAt fills p from off, or fails.
	ReadAt(p []byte, off int64) (int, error)
	// WriteAt stores p at off. It may return before p is durable. Behind an error the range
	// may hold the old bytes, the new ones, or some of each.
	WriteAt(p []byte, off int64) (int, error)
	// Zero makes the range read as zero. With mayPunch it may deallocate the range, without
	// it the range stays (or becomes) allocated where the device can do so. Errors as WriteAt.
	Zero(off, length int64, mayPunch bool) error
	// Trim deallocates the range where the device can do so. The range reads as zero
	// afterwards, always. Errors as WriteAt.
	Trim(off, length int64) error
	// Flush makes every mutation that returned before durable. Behind an error it is unknown
	// what of these will survive.
	Flush() error
	// Size is the device's size in bytes; only Grow changes it.
	Size() int64
	// Grow makes the device longer, durably: a file is extended, a block device must have been made as long.
	Grow(size int64) error
	// BlockSize is the unit in bytes that writes are atomic in.
	BlockSize() int64
	// Segments tells what the range consists of: in order, without gaps, all of it. A device
	// that doesn't know calls it data.
	Segments(off, length int64) ([]Segment, error)
	// Close unlocks the device. It doesn't flush.
	Close() error
}

// Journal is a volume's stream as its single writer sees it; *journal.Writer is one.
type Journal interface {
	// Append queues the event as the stream's next one and returns the sequence it will have.
	// Calls are never concurrent, their order is the order of the sequences. It blocks while
	// the writer's queue is full. It doesn't keep the event or anything the event refers to:
	// the recorder uses the memory again. An error that isn't ctx's is final.
	Append(ctx context.Context, e events.Event) (seq uint64, err error)
	// Stored is the last sequence that the stream has acknowledged.
	Stored() uint64
	// WaitStored returns when seq is stored, with ctx's error, or with the final one.
	WaitStored(ctx context.Context, seq uint64) error
}

// WhenBusGone tells what happens to mutations while nothing can be recorded.
type WhenBusGone uint8

// What happens to mutations while nothing is recorded, or the journal has stored nothing for as long as the
// patience and the budget is used up.
const (
	Track WhenBusGone = iota // they go on; their regions are listed as stale, and sent later
	Stall                    // they wait
)

// Tenure is what a Record begins with.
type Tenure struct {
	// Pass is what the first pass is called in the stream; 0: PassSeed as long as the volume was never sent
	// as a whole, else PassResync. It sends what the activity log lists as stale.
	Pass events.PassKind
	// Size is the volume's size in bytes as the stream's Epoch tells it; 0: what it is now.
	Size int64
	// Hashes returns the SHA-256 of what the base of the stream's generation holds, for each
	// repair.HashUnit of a range; fewer where the base ends. Units that are equal aren't sent. Set it only for
	// the tenure that opened the generation, when nothing was recorded into that before. It is called again
	// when it fails, unless with repair.ErrGone. Nil: everything that is stale is sent.
	Hashes func(ctx context.Context, off, length int64) ([][32]byte, error)
}

// Options are a Recorder's. Device and Activity are required.
type Options struct {
	Device   Device
	Activity *activity.Log // of the volume; the caller runs and closes it
	Budget   *Budget       // of the process; nil: one of its own, DefaultBudget bytes

	WhenBusGone WhenBusGone
	Patience    time.Duration    // how long a mutation waits for a journal that stores nothing before Track goes on without; 0: 1 s
	Final       func(error) bool // tells which errors of a journal stop the recorder, such as that of a fenced writer; nil: none

	FrameBytes          int           // content at which a frame is closed; 0: events.MaxContent, which is also the most
	Linger              time.Duration // age at which a frame is closed; 0: 2 ms
	Compress            bool          // frames with S2, unless their content is incompressible
	PassBytesPerSecond  int64         // of a region pass, and of a scrub that was asked for; 0: unlimited
	ScrubBytesPerSecond int64         // of the scrub that always runs in the background; 0: none does
	RetryEvery          time.Duration // between attempts to read a suspect region again; 0: 1 s

	Log    *slog.Logger // nil: none
	Meter  metric.Meter // nil: none
	Group  string       // for metrics
	Volume string       // for metrics
}

// ZeroOptions are what an NBD client can ask of WRITE_ZEROES.
type ZeroOptions struct {
	NoHole bool // the range must stay allocated
	Fast   bool // fail with ErrNotFast rather than write zeros
	FUA    bool // durable when it returns
}

// Marked is a mark that has its place in the pipeline.
type Marked struct {
	// Hold is how long admission was closed: from the first mutation withheld, or from the
	// hold where none was, to the mark.
	Hold time.Duration
	// Journal is where the mark is.
	Journal Journal
	// Stored waits until the mark is stored in the journal and returns its sequence, or ErrNotReady where the
	// mark was dropped. It may be called more than once.
	Stored func(ctx context.Context) (seq uint64, err error)
}

// What a Recorder answers. Errors of the device are passed on, wrapped.
var (
	// ErrRange means that a request reaches outside of the volume; nothing was touched.
	ErrRange = fmt.Errorf("outside of the volume: %w", syscall.EINVAL)
	// ErrNotFast means that zeroing the range would take as long as writing it.
	ErrNotFast = fmt.Errorf("zeroing is not faster than writing here: %w", syscall.ENOTSUP)
	// ErrStaleToken means that a newer hold was seen, or that the token's hold has ended.
	ErrStaleToken = errors.New("stale token")
	// ErrNotHeld means that admission isn't closed for this token: it never was, its limit
	// passed, or a newer token took over.
	ErrNotHeld = errors.New("not held for this token")
	// ErrNotReady means that the volume may not vote: a pass is open, a region is stale, or nothing is recorded.
	ErrNotReady = errors.New("volume is not ready for a barrier")
	// ErrStopped means that the recorder doesn't run any more.
	ErrStopped = fmt.Errorf("recorder has stopped: %w", syscall.EIO)
	// ErrDetached means that nothing is recorded: no Record runs, or its journal stores nothing.
	ErrDetached = errors.New("volume is not being recorded")
	// ErrLocked means that another process has the device.
	ErrLocked = errors.New("device is in use by another process")
)
