package barrier

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/events"
)

// Tap is what a barrier needs of a volume; *cdc.Recorder is one. Calls may be concurrent.
type Tap interface {
	// Hold closes admission within the call and doesn't wait for what was admitted before. It
	// opens again by Mark, Release, a hold with a newer token, or when limit has passed. A
	// token that isn't newer than every one seen is refused and changes nothing.
	Hold(t events.Token, limit time.Duration) error
	// Mark appends a Mark behind everything that was appended before and opens admission, if
	// admission has been closed for t without a break since Hold. Else it fails and changes
	// nothing.
	Mark(ctx context.Context, t events.Token) (cdc.Marked, error)
	// Release opens admission if it is closed for t.
	Release(t events.Token)
	// Ready tells whether the volume may vote, and how far its open pass has come.
	Ready() (bool, events.Progress)
}

// Info tells which volume a tap serves, and as whom.
type Info struct {
	UID        string // of the volume; empty for objects
	Generation uint32 // of the volume's or the objects' stream
	Epoch      uint64 // of the stream's writer
	Size       int64  // bytes; 0 for objects
}

// MaxLabel is the most bytes that a label may have.
const MaxLabel = 100

// Absent is a member without which a barrier could not be committed.
type Absent struct {
	Volume string `json:"volume"` // or journal.Objects
	Reason string `json:"reason"` // for people
}

// MissingError means that no commit was made because members did not vote.
type MissingError struct{ Members []Absent }

// Error implements error.
func (e *MissingError) Error() string {
	var b strings.Builder
	b.WriteString("no commit without every member's vote; missing: ")
	for i, m := range e.Members {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s (%s)", m.Volume, m.Reason)
	}
	return b.String()
}

// Volumes returns the names of the missing members; the objects' is journal.Objects.
func (e *MissingError) Volumes() []string {
	names := make([]string, len(e.Members))
	for i, m := range e.Members {
		names[i] = m.Volume
	}
	return names
}

var (
	// ErrNoMembers means that the group has no member yet: no volume, nor the objects, was sent once as a whole.
	ErrNoMembers = errors.New("the group has no member yet: wait until a volume has finished its first pass, or the objects were sent once")
	// ErrNoSnapshotter means that nobody answers for the group.
	ErrNoSnapshotter = errors.New("no snapshotter answers for the group: check that it runs and reaches the primary site's server")
	// ErrLabel means that a label can't be used.
	ErrLabel = errors.New("label must be UTF-8 text of 1 to 100 bytes without control characters")
	// ErrSuperseded means that a newer snapshotter asks the taps.
	ErrSuperseded = errors.New("a newer snapshotter is at work")
)
