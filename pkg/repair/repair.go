// Package repair is what the two shores ask each other when a history broke, or may have: where the
// recovery site stands, what it holds there, and what the capturer should send again.
//
// Two parties answer. A group's applier tells where a history can be continued from, and the hashes of
// what it holds there. A volume's capturer sends ranges again, feeds a new incarnation of a mirror, and
// begins a new generation. Requests are core NATS through the leafnode and may be lost or delivered
// twice: every one can be repeated, and an answer says what was true when it was given.
package repair

import (
	"context"
	"errors"
	"time"

	"github.com/farshore/farshore/pkg/events"
)

// HashUnit is the length in bytes that Hashes are taken over; the last one of a volume may be shorter.
const HashUnit = 256 << 10

// MaxHashes is how many hashes one answer has at most.
const MaxHashes = 1024

// What an answer can say instead of an answer.
var (
	// ErrUnavailable means that nobody answers: the other site is away, or the process that would answer.
	ErrUnavailable = errors.New("nobody answers")
	// ErrBusy means that it can't be answered yet, and can be later: an applier that drains a history.
	ErrBusy = errors.New("not yet")
	// ErrGone means that what was asked for does not exist any more: a base that was left, history that was trimmed.
	ErrGone = errors.New("not there any more")
	// ErrRefused means that the request doesn't fit what the other side has, and repeating it is in vain.
	ErrRefused = errors.New("refused")
)

// Foundation is what a new generation of a stream can begin on.
type Foundation struct {
	// Base is where the recovery site's replica stands and stays. Nil: it holds nothing of the volume, so
	// all of it has to be sent.
	Base *events.Base `json:"base,omitempty"`
	Size int64        `json:"size"` // bytes of the replica at Base
	// Newest is the highest generation of the stream that the recovery site knows; the new one must be above.
	Newest uint32 `json:"newest"`
	// Barrier is the highest barrier that the recovery site knows of; a new control stream counts on from it.
	Barrier uint64 `json:"barrier"`
	// Epoch, Roster and Time are, for the control stream, the highest epoch of a writer, the highest version of the
	// roster and the latest time of a commit that the recovery site knows of: a new one goes on above them.
	Epoch  uint64    `json:"epoch,omitempty"`
	Roster uint64    `json:"roster,omitempty"`
	Time   time.Time `json:"time,omitzero"`
}

// Recovery is what a group's applier answers. Part is a volume's name, or journal.Control.
type Recovery interface {
	// Found drains the newest generation of a part to its last complete commit, stays there, and tells where
	// that is. It is ErrBusy while history is still on its way or being applied. For the control stream
	// the base is the end of its mirror.
	Found(ctx context.Context, part, uid string) (Foundation, error)
	// Hashes returns the SHA-256 of the replica's content at base, for each HashUnit of the range, which begins
	// on a HashUnit; at most MaxHashes. It is ErrGone where the replica doesn't stand at base.
	Hashes(ctx context.Context, volume string, base events.Base, off, length int64) ([][32]byte, error)
	// Stored tells the last sequence that the mirror of a part's generation has ever held; 0 where there is none.
	Stored(ctx context.Context, part string, generation uint32) (uint64, error)
}

// Range is a part of a volume.
type Range struct {
	Offset int64 `json:"offset"` // bytes
	Length int64 `json:"length"` // bytes
}

// Scrub is a comparison of a whole volume with its replica.
type Scrub struct {
	Number uint64 `json:"number"` // of the scrub, counted since the capturer started
	Done   int64  `json:"done"`   // bytes
	Total  int64  `json:"total"`  // bytes
	// Generation and Seq name the PassDone that ended it; Seq is 0 while it runs.
	Generation uint32 `json:"generation"`
	Seq        uint64 `json:"seq"`
}

// Capture is what a volume's capturer answers.
type Capture interface {
	// Heal sends ranges of the volume again, since the replica differs there.
	Heal(ctx context.Context, ranges []Range) error
	// Incarnate makes the durable consumer of the generation's mirror incarnation n, which delivers from sequence
	// from on. It is ErrGone where the origin was trimmed beyond that.
	Incarnate(ctx context.Context, generation uint32, n int, from uint64) error
	// Pause keeps the newest incarnation's consumer from delivering until the time; the zero time lets it go on.
	Pause(ctx context.Context, generation uint32, until time.Time) error
	// Renew begins a new generation behind the given one, for the reason told. Where a newer one exists already
	// it does nothing.
	Renew(ctx context.Context, generation uint32, reason string) error
	// Scrub begins a scrub, or joins the one that was asked for and runs.
	Scrub(ctx context.Context) (Scrub, error)
	// Scrubbed tells how far the scrub of that number is.
	Scrubbed(ctx context.Context, number uint64) (Scrub, error)
}
