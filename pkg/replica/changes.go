package replica

import (
	"context"
	"errors"

	"github.com/farshore/farshore/internal/grid"
)

// Changes returns which chunks of a volume may differ between two positions of it, as the journal tells: all that was written, zeroed or trimmed
// on the way, and what it grew by. Nil, without an error, means that it can't be told and all may differ: the journal doesn't lead from one to the
// other, or not any more, or is damaged there. For journal.Objects that is always so: their log is written anew now and then.
//
// It proves what it reads as Advance does, and, where from is the mark of a barrier, that the journal has that mark: another history of the same
// names is no way.
func Changes(ctx context.Context, src Source, group, part string, from, to Volume) (*grid.Set, error) {
	return nil, errors.New("not built yet")
}
