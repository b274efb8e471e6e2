package archive

import (
	"context"
	"io"

	"github.com/farshore/farshore/internal/grid"
)

// Run writes one point. Its methods are not to be called concurrently.
type Run struct{}

// Source is a part of a point that is to be archived.
type Source struct {
	Name string
	Size int64 // bytes
	// Image gives the content. It is asked for each wanted chunk once, whole and in order, by several goroutines at once.
	Image io.ReaderAt
	// Before is the part in an earlier point; what is not in Changed is as it was there. Nil: everything is read.
	Before *Part
	// Changed is what may differ from Before; nil: everything may. What lies behind Before's end always does.
	Changed *grid.Set
	// Progress is told of bytes of the image that were read. Nil: nobody is.
	Progress func(bytes int64)
}

// Begin begins a run. As long as it goes on, nothing that it stores or relies on is deleted. A run that dies is abandoned; what
// it stored is used by the next ones, or collected by Prune.
func (a *Archive) Begin(ctx context.Context) (*Run, error) { return nil, errNotBuilt }

// Add stores a part. What is in the store already isn't stored again. An error ends the run.
func (r *Run) Add(ctx context.Context, s Source) (Part, error) { return Part{}, errNotBuilt }

// Commit lists the point, of whose fields the run sets Created and Added: from then on it can be restored. Everything that it
// needs is durable before. A point of the same barrier that is there already is replaced.
func (r *Run) Commit(ctx context.Context, p Point) (Point, error) { return Point{}, errNotBuilt }

// Close ends the run. Without Commit there is no point.
func (r *Run) Close() error { return errNotBuilt }
