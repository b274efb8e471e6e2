package replica

import (
	"context"
	"errors"
	"io"

	"github.com/farshore/farshore/internal/grid"
)

// ErrSnapshotLost means that a snapshot is not what the set was any more: what it kept didn't find room, or a replica was begun anew, or
// closed. Nothing was read wrong before.
var ErrSnapshotLost = errors.New("the snapshot was lost")

// Snapshot is a set as it was between two commits, while it goes on. Its methods may be called concurrently.
type Snapshot struct{ cp Checkpoint }

// Snapshot takes a snapshot of the set, which must be whole. dir is a directory on the replicas' file system: what of the set is about
// to be overwritten is kept there, in files without names. It waits for whoever works on the set, as long as ctx goes on.
func (s *Set) Snapshot(ctx context.Context, dir string) (*Snapshot, error) {
	return nil, errors.New("not built yet")
}

// Checkpoint returns what the set held: the members of its commit, and volumes that left the commits before. No volume is on a device:
// where the parts are put is up to whoever reads them.
func (s *Snapshot) Checkpoint() Checkpoint { return s.cp.Clone() }

// Only says that of a part nothing but the chunks is going to be read: the rest isn't kept any more.
func (s *Snapshot) Only(part string, chunks *grid.Set) {}

// Image returns the content of a part, and its size in bytes: of a volume, or, for journal.Objects, of the log's bytes that count. It may
// be read concurrently. A chunk that was read whole is kept no longer, and must not be read again.
func (s *Snapshot) Image(part string) (io.ReaderAt, int64, error) {
	return nil, 0, errors.New("not built yet")
}

// Close gives back what the snapshot keeps. Nothing may read it.
func (s *Snapshot) Close() error { return nil }
