// Package archive keeps recovery points of a group in an object store, for as long as their retention says and without
// anything else of the group being left.
//
// A point is a manifest: for each part of the group, a volume or the objects, the root of a tree of 64 KiB chunks, each named by its
// content. Points share what they have in common, and each restores without the others. Chunks lie in packs. A point is
// listed once everything that it needs is stored, and nothing that a listed point needs is deleted.
//
// docs/archive.md has the format.
package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"filippo.io/age"

	"github.com/farshore/farshore/pkg/archive/store"
)

// Options shape an Archive.
type Options struct {
	Store store.Store // of this archive alone
	Group string
	// Recipients are who can read an archive that Create makes; none: it is not encrypted.
	Recipients []age.Recipient
	// Identities open an encrypted archive.
	Identities []age.Identity
	// Cache is a directory for what can be had from the store again. "": one that is gone after Close.
	Cache string
	// Workers is how many goroutines hash, compress and encrypt at once; 0: half of the processors, at least one.
	Workers int
	// Requests is how many requests to the store are under way at once; 0: 8.
	Requests int
	Log      *slog.Logger // nil: silent
}

// What can be wrong with an archive as a whole.
var (
	// ErrNone means that there is no archive in the store.
	ErrNone = errors.New("there is no archive here")
	// ErrKey means that the archive is encrypted and no identity opens it.
	ErrKey = errors.New("the archive is encrypted, and none of the identities opens it")
	// ErrForeign means that the archive in the store is of another group.
	ErrForeign = errors.New("the archive is of another group")
)

// DamageError says that something in the store can't be used: it is missing, truncated or altered. What else needs it is
// told by Check.
type DamageError struct {
	Object string // in the store
	Reason string
}

// Error implements error.
func (e *DamageError) Error() string { return fmt.Sprintf("%s is damaged: %s", e.Object, e.Reason) }

// LockedError says that another process has the archive's lock.
type LockedError struct {
	Holder string
	Since  time.Time // by the store's clock
}

// Error implements error.
func (e *LockedError) Error() string {
	return fmt.Sprintf("the archive is locked by %s since %s; the lock runs out by itself when its holder is gone", e.Holder, e.Since.Format(time.RFC3339))
}

// Point is a recovery point in an archive. Points are told apart by their barriers.
type Point struct {
	Barrier uint64    `json:"barrier"`
	Time    time.Time `json:"time"` // of the commit
	Kind    string    `json:"kind"`
	Label   string    `json:"label,omitempty"`
	Created time.Time `json:"created"` // when it was archived
	Added   int64     `json:"added"`   // bytes that it put into the store
	Parts   []Part    `json:"parts"`   // by name
	// Set is what its maker needs to go on from the parts; the archive keeps it as it is.
	Set json.RawMessage `json:"set"`
}

// Part is one part of a point.
type Part struct {
	Name string `json:"name"`
	Size int64  `json:"size"` // bytes
	Root ID     `json:"root"`
	Data int64  `json:"data"` // bytes in chunks that are not all zeros
}

// Part returns the part of the given name; nil: there is none.
func (p *Point) Part(name string) *Part {
	for i := range p.Parts {
		if p.Parts[i].Name == name {
			return &p.Parts[i]
		}
	}
	return nil
}

// Archive is the archive of one group in a store. Its methods may be called concurrently, where they don't say otherwise.
type Archive struct{}

// Open opens the archive of a group. Errors are ErrNone, ErrKey, ErrForeign, a *DamageError, or the store's.
func Open(ctx context.Context, o Options) (*Archive, error) { return nil, errNotBuilt }

// Create opens the archive of a group, or makes it where there is none.
func Create(ctx context.Context, o Options) (*Archive, error) { return nil, errNotBuilt }

// Close releases the archive. Nothing else may run.
func (a *Archive) Close() error { return errNotBuilt }

// Encrypted tells whether the archive is.
func (a *Archive) Encrypted() bool { return false }

// Points returns the points, oldest first. Manifests that can't be used are in damaged; they are no points.
func (a *Archive) Points(ctx context.Context) (points []Point, damaged []*DamageError, err error) {
	return nil, nil, errNotBuilt
}

var errNotBuilt = errors.New("not built yet")
