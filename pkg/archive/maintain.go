package archive

import (
	"context"
	"time"
)

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
