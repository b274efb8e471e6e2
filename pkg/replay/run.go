package replay

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/farshore/farshore/pkg/journal"
)

// Options shape a Run.
type Options struct {
	Site   *journal.Site // DR site
	Group  string
	Dir    string // of the group at the DR site, for its base; it need not exist
	Target string // an RFC 3339 time, a barrier's number, a label, or Latest
	Into   string // directory to fill; it must be empty or not exist

	// Progress is called about four times a second, and once at the end. Nil: not called.
	Progress func(Progress)
	Log      *slog.Logger // nil: silent
}

// Phase is a part of a replay.
type Phase string

// The phases.
const (
	Copying   Phase = "copying"   // the base
	Replaying Phase = "replaying" // the journal behind it
)

// Progress is how far a replay has come.
type Progress struct {
	Phase   Phase
	Point   Point         // that is recovered
	Bytes   uint64        // done in this phase
	Total   uint64        // of this phase; an estimate while the base is copied
	Rate    float64       // bytes per second, over the last seconds
	Elapsed time.Duration // since the replay began
}

// Volume is one recovered volume.
type Volume struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
	Path string `json:"path"` // of its image
	Size int64  `json:"size"` // bytes
}

// Result is what a replay made.
type Result struct {
	Point   Point         `json:"point"`
	Volumes []Volume      `json:"volumes"` // by name
	Bytes   uint64        `json:"bytes"`   // of the journal that was read
	Base    uint64        `json:"base"`    // barrier of the base it began from; 0: blank volumes
	Elapsed time.Duration `json:"elapsed"`
}

// ErrNotEmpty is a directory to fill that holds something.
var ErrNotEmpty = errors.New("the directory is not empty: name a new one")

// Run recovers the group at the target into new volumes. What it returns without an error is the group
// exactly at the point's cut, durable: every event up to the marks of its commit was read, verified and
// applied. With Latest, damage in the journal makes it recover the newest point before the damage.
// A point that is not here any more gives a *TrimmedError.
func Run(ctx context.Context, o Options) (*Result, error) { return nil, ErrNoJournal }
