package barrier

import (
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/farshore/farshore/pkg/events"
)

// AnnounceEvery is how often a tap announces itself at least.
const AnnounceEvery = 500 * time.Millisecond

// The subjects are core NATS, not kept in any stream, and don't cross to the DR site.
func announceSubject(group string) string    { return "fsctl." + group + ".announce" }
func tapSubject(group, volume string) string { return "fsctl." + group + ".tap." + volume }
func markSubject(group string) string        { return "fsctl." + group + ".mark" }

// identity tells one tenure of a volume's stream from every other.
type identity struct {
	Generation uint32 `json:"generation"`
	Epoch      uint64 `json:"epoch"`
}

// older tells whether i was before j.
func (i identity) older(j identity) bool {
	if i.Generation != j.Generation {
		return i.Generation < j.Generation
	}
	return i.Epoch < j.Epoch
}

// announcement is what a tap says about itself on the group's announce subject.
type announcement struct {
	identity
	Volume   string          `json:"volume"` // or journal.Objects
	UID      string          `json:"uid"`
	Size     int64           `json:"size"`
	Ready    bool            `json:"ready"`
	Progress events.Progress `json:"progress"`
	Seen     events.Token    `json:"seen"` // newest token that the tap was asked with
}

// verb is what a coordinator asks of a tap.
type verb string

const (
	verbHold     verb = "hold"
	verbRevision verb = "revision" // of the objects' tap only
	verbMark     verb = "mark"
	verbRelease  verb = "release"  // has no answer
	verbAnnounce verb = "announce" // has no token and no answer but an announcement: a new coordinator wants to hear the tap now
)

// request goes to one tap; the answers go to the message's reply subject.
type request struct {
	identity               // of the tap that is meant
	Verb     verb          `json:"verb"`
	Token    events.Token  `json:"token"`
	Limit    time.Duration `json:"limit"` // hold: how long at most; revision: how long it may take; mark: how long to wait until it is stored
}

// outcome is what a tap answers.
type outcome string

const (
	held    outcome = "held"    // admission is closed
	read    outcome = "read"    // the API server told its revision
	opened  outcome = "opened"  // the mark has its place in the stream and admission is open
	stored  outcome = "stored"  // the mark is stored in the journal: the vote
	refused outcome = "refused" // the tap takes no part in the barrier
)

// answer is what a tap says to a hold (held or refused), to a revision (read or refused) and to a mark
// (opened and then stored, or refused in place of either).
type answer struct {
	identity
	Outcome  outcome       `json:"outcome"`
	Volume   string        `json:"volume"` // or journal.Objects
	Token    events.Token  `json:"token"`
	Hold     time.Duration `json:"hold,omitempty"`     // opened: how long admission was closed
	Seq      uint64        `json:"seq,omitempty"`      // stored: of the mark
	Revision string        `json:"revision,omitempty"` // read: the API server's; opened, stored: the one proven
	Reason   string        `json:"reason,omitempty"`   // refused: for people
	Seen     events.Token  `json:"seen"`               // refused: newest token that the tap was asked with
}

// markRequest asks the coordinator for a labelled barrier.
type markRequest struct {
	Label string `json:"label"`
}

// failure tells a markReply's reader which error to return.
type failure string

const (
	failedLabel     failure = "label"
	failedNoMembers failure = "no-members"
	failedMissing   failure = "missing"
	failedOther     failure = "other"
)

// markReply answers a markRequest: a commit, or why there is none.
type markReply struct {
	Commit  *events.Commit `json:"commit,omitempty"`
	Failure failure        `json:"failure,omitempty"`
	Missing []Absent       `json:"missing,omitempty"`
	Message string         `json:"message,omitempty"`
}

// CheckLabel returns ErrLabel for a label that can't be used.
func CheckLabel(label string) error {
	if label == "" || len(label) > MaxLabel || !utf8.ValidString(label) {
		return ErrLabel
	}
	for _, r := range label {
		if unicode.IsControl(r) {
			return ErrLabel
		}
	}
	return nil
}
