package archive

import (
	"context"
	"time"
)

// PruneOptions shape a Prune.
type PruneOptions struct {
	Policy Policy
	DryRun bool
	// Unused is the part of a pack, from 0 to 1, that may be unused before it is written anew; 0: 0.3.
	Unused   float64
	Progress func(phase string, done, total int64) // nil: nobody is told
}

// Pruned is what a Prune did, or would do.
type Pruned struct {
	Points        []Kept `json:"points"`
	Removed       int    `json:"removed"` // points
	Packs         int    `json:"packs"`   // deleted
	Repacked      int    `json:"repacked"`
	Condemned     int    `json:"condemned"` // packs that wait for runs that may still need them
	Freed         int64  `json:"freed"`     // bytes
	BytesBefore   int64  `json:"bytesBefore"`
	UnusedBytes   int64  `json:"unusedBytes"`   // left in packs
	AbandonedRuns int    `json:"abandonedRuns"` // whose markers were removed
}

// Prune removes the points that the policy doesn't keep, and then what no point needs. It is safe beside runs, restores and
// other prunes: another prune gives a *LockedError. It may die anywhere.
func (a *Archive) Prune(ctx context.Context, o PruneOptions) (*Pruned, error) {
	return nil, errNotBuilt
}

// CheckOptions shape a Check.
type CheckOptions struct {
	ReadData float64                               // part of the packs whose content is read and verified, from 0 to 1
	Progress func(phase string, done, total int64) // nil: nobody is told
}

// Checked is what a Check found.
type Checked struct {
	Points  int      `json:"points"` // that were checked
	Packs   int      `json:"packs"`
	Read    int      `json:"read"`    // packs whose content was verified
	Bytes   int64    `json:"bytes"`   // of all packs
	Damaged []Damage `json:"damaged"` // empty: all is well
	Orphans int64    `json:"orphans"` // bytes that no point needs
}

// Damage is something that can't be used, and who needs it.
type Damage struct {
	Object string   `json:"object"` // in the store
	Reason string   `json:"reason"`
	Points []uint64 `json:"points"` // barriers; those alone can't be restored
}

// Check verifies that all points can be restored: every chunk that they need is in a pack that is there, whole in length and directory; of
// a share of the packs, that the content is right. Damage is no error.
func (a *Archive) Check(ctx context.Context, o CheckOptions) (*Checked, error) {
	return nil, errNotBuilt
}

// Stats is how large an archive is.
type Stats struct {
	Points     int       `json:"points"`
	Oldest     time.Time `json:"oldest"` // commits' times
	Newest     time.Time `json:"newest"`
	Restorable int64     `json:"restorable"` // bytes that all points would restore to
	Data       int64     `json:"data"`       // of them, not zeros
	Unique     int64     `json:"unique"`     // bytes of chunks that differ
	Stored     int64     `json:"stored"`     // bytes in the store
	Packs      int       `json:"packs"`
	Unused     int64     `json:"unused"` // bytes in the store that no point needs
	Encrypted  bool      `json:"encrypted"`
}

// Stats measures the archive.
func (a *Archive) Stats(ctx context.Context) (*Stats, error) { return nil, errNotBuilt }
