package archive

import (
	"context"
	"io"
	"time"
)

// Sink takes what is restored, in the order of offsets, from one goroutine.
type Sink interface {
	io.WriterAt
	// Zero makes a range read as zeros. It is called for every range that the part has no data in.
	Zero(off, length int64) error
}

// RestoreOptions shape a Restore.
type RestoreOptions struct {
	From int64 // what lies before is there already: as Done told it
	Sink Sink
	// Done is called when everything before an offset was given to Sink; it may make that durable. Nil: nobody wants to know.
	Done func(upTo int64) error
	// Progress is told of bytes of the part that were restored, zeros included. Nil: nobody is.
	Progress func(bytes int64)
}

// Restore gives a part's content to a sink. Every chunk is verified by its name before it is given: there are the right
// bytes, or an error. What is damaged is a *DamageError.
func (a *Archive) Restore(ctx context.Context, p Part, o RestoreOptions) error { return errNotBuilt }

// Image gives random access to a part, for as long as ctx goes on. What it reads is verified.
func (a *Archive) Image(ctx context.Context, p Part) io.ReaderAt { return nil }

// Cost is what restoring takes.
type Cost struct {
	Bytes    int64 // to be read from the store
	Requests int64
	// Rate is what the store gave of a sample, in bytes per second; 0: no sample was taken.
	Rate float64
	// Time is how long Bytes take at Rate.
	Time time.Duration
}

// Cost tells what restoring parts from the beginning takes. It reads their trees, and a sample of their data.
func (a *Archive) Cost(ctx context.Context, parts []Part) (Cost, error) { return Cost{}, errNotBuilt }
