// Package events is the schema of the journal: what a capturer, a snapshotter and an
// applier say to each other, one event per stream message.
//
// An event is encoded as msgpack arrays behind a version number and followed by a CRC-32C of
// the whole message, so a reader either gets exactly what was written or an error that names
// the stream and the sequence. Decoding never panics and never allocates more than the message
// could hold. docs/format.md lists every field with its unit and limits.
package events

import (
	"fmt"
	"time"
)

// Version is the format version this package writes. A message of a newer version is refused.
const Version = 1

// Limits of one message. The bus of every site must accept MaxMessage bytes plus headers.
const (
	MaxMessage = 512 << 10 // bytes of one encoded event
	MaxContent = 256 << 10 // bytes of payload in one Frame, before compression
	MaxOps     = 4096      // operations in one Frame
	MaxName    = 253       // bytes of a name, label or identifier
	MaxMembers = 4096      // volumes in one vector or roster; hooks of one barrier
	MaxText    = 1024      // bytes of a comment or an error, for people
	MaxRaw     = 256 << 10 // bytes of an object, or a part of it, in one Object
	MaxListed  = 4096      // objects in one Listed
)

// Kind tells what an event is. Its number is part of the format.
type Kind uint8

// The kinds of event.
const (
	KindEpoch Kind = iota + 1
	KindFrame
	KindMark
	KindRegionHash
	KindPassDone
	KindResize
	KindHeartbeat
	KindObject
	KindListed
	KindMember
	KindCommit
	KindHooksOpen
)

var kindNames = [...]string{
	KindEpoch: "Epoch", KindFrame: "Frame", KindMark: "Mark", KindRegionHash: "RegionHash", KindPassDone: "PassDone", KindResize: "Resize",
	KindHeartbeat: "Heartbeat", KindObject: "Object", KindListed: "Listed", KindMember: "Member", KindCommit: "Commit", KindHooksOpen: "HooksOpen",
}

// String returns the event's name, as Frame.
func (k Kind) String() string {
	if k == 0 || int(k) >= len(kindNames) {
		return fmt.Sprintf("Kind(%d)", uint8(k))
	}
	return kindNames[k]
}

// Event is one of the event types of this package, always as a pointer.
type Event interface{ Kind() Kind }

// Header is what every event carries.
type Header struct {
	Epoch uint64    // epoch of the writer that appended the event; at least 1
	Time  time.Time // the writer's clock when it appended the event, to the nanosecond, UTC
	Trace []byte    // W3C trace context as 25 bytes (trace id, span id, flags), or empty
}

// Token names one attempt at a barrier. Tokens are ordered: first by Epoch, then by Barrier.
type Token struct {
	Epoch   uint64 // epoch of the snapshotter that asked
	Barrier uint64 // number of the barrier within the group, from 1, never used twice
}

// Compare returns -1, 0 or 1 as t is older than, equal to or newer than u.
func (t Token) Compare(u Token) int {
	switch {
	case t.Epoch != u.Epoch:
		if t.Epoch < u.Epoch {
			return -1
		}
		return 1
	case t.Barrier != u.Barrier:
		if t.Barrier < u.Barrier {
			return -1
		}
		return 1
	}
	return 0
}

// Base names the state that a stream's history continues from.
type Base struct {
	Generation uint32 // generation of the stream that holds the base
	Seq        uint64 // last sequence of that stream inside the base
	Barrier    uint64 // barrier of the commit at which the base was taken
}

// Epoch opens a writer's tenure of a stream. Every event behind it, up to the next Epoch, is from
// this writer and carries the same number in its Header.
type Epoch struct {
	Writer    string // identity of the writing process, unique for each start
	UID       string // of the volume (the PV's handle); empty on objects and control streams
	Size      int64  // bytes of the volume; 0 on objects and control streams
	BlockSize int64  // bytes: the unit that writes to the device are atomic in; 0 as Size
	Base      *Base  // nil where the history begins with a blank volume
}

// OpKind tells what an operation does.
type OpKind uint8

// The kinds of operation. A trimmed range reads as zero, as a zeroed one does; the
// difference is that a zeroed range may stay allocated.
const (
	OpWrite OpKind = iota + 1
	OpZero
	OpTrim
)

// Op is one operation of a frame.
type Op struct {
	Kind   OpKind
	Offset int64 // bytes from the start of the volume
	Length int64 // bytes, at least 1
}

// Compression names how a frame's payload is stored.
type Compression uint8

// The compressions. Their numbers are part of the format.
const (
	Uncompressed Compression = iota
	S2                       // github.com/klauspost/compress/s2, block format
)

// Frame is an ordered batch of operations on one volume. It is applied as a whole: a reader
// applies all of it or none of it. Build one with NewFrame and read it with Content.
type Frame struct {
	Ops         []Op
	Length      int         // bytes of content: the sum of the writes' lengths
	CRC         uint32      // CRC-32C of the content
	Compression Compression // of Payload
	Payload     []byte      // the content of the writes in order, concatenated, compressed as told
}

// Mark is a barrier's event in a volume's or the objects' stream.
type Mark struct {
	Token    Token
	Hold     time.Duration // how long admission was closed: from the first operation withheld, or the hold where none was, to the mark
	Revision string        // objects stream: the revision proven; empty on volumes
}

// RegionHash tells what a region held at this position of the stream.
type RegionHash struct {
	Offset int64    // bytes
	Length int64    // bytes, at most MaxContent
	Hash   [32]byte // SHA-256 of the region's content
}

// PassKind tells why a region pass runs.
type PassKind uint8

// The kinds of pass.
const (
	PassSeed   PassKind = iota + 1 // sends every region of a volume the DR site has never had
	PassResync                     // sends regions that may differ
	PassScrub                      // sends hashes only
)

// PassDone ends a region pass: every region of the volume was sent behind the writer's Epoch.
type PassDone struct {
	Pass    PassKind
	Regions uint64 // regions read
	Bytes   uint64 // bytes sent as data
}

// Resize changes the size of a volume. Growth precedes writes beyond the old end; shrinking is refused.
type Resize struct {
	Old, New int64 // bytes
}

// Progress is how far a region pass has come.
type Progress struct {
	Pass  PassKind // 0: no pass is open
	Done  int64    // bytes of the volume passed
	Total int64    // bytes of the volume
}

// Heartbeat proves that the stream's writer lives and that the stream is not stuck.
type Heartbeat struct {
	DebtBytes int64         // capture debt: acknowledged to the application, not yet stored in the journal
	DebtAge   time.Duration // age of the oldest such byte; 0 where there is none
	Progress  Progress      // volume streams
	Missing   []string      // control stream: members whose vote the last barrier lacked
}

// Verb tells what happened to an object.
type Verb uint8

// The verbs.
const (
	Upsert Verb = iota + 1
	Delete
)

// ObjectKey names a Kubernetes object.
type ObjectKey struct {
	Group, Version, Resource string
	Namespace, Name          string
}

// Object is one change of a Kubernetes object. A large one is split: Part counts from 0 to Parts-1 and
// the parts stand behind each other in the stream.
type Object struct {
	Verb     Verb
	Key      ObjectKey
	UID      string
	Revision string // resourceVersion
	Part     uint32
	Parts    uint32 // at least 1
	Raw      []byte // JSON without managedFields, or its part; empty for Delete
}

// ListedObject is one entry of Listed.
type ListedObject struct {
	Namespace, Name string
	UID             string
}

// Listed tells every object of one resource that exists after a relist; one that the reader
// knows and that is not listed was deleted. A long list is split as Object is.
type Listed struct {
	Group, Version, Resource string
	Revision                 string
	Part, Parts              uint32
	Objects                  []ListedObject
}

// MemberState is where a volume stands in the roster.
type MemberState uint8

// The states of a member.
const (
	Joining MemberState = iota + 1 // seeding; outside the vector
	Joined                         // part of every vector
	Left                           // gone by an explicit act
)

// Member changes the roster.
type Member struct {
	Volume  string
	UID     string
	State   MemberState
	Roster  uint64 // version of the roster that this change makes; each change adds 1
	Stream  Position
	Comment string // why, for people
}

// Position is a place in a volume's or the objects' stream.
type Position struct {
	Generation uint32
	Seq        uint64 // stream sequence; 0 where only the generation is meant
}

// VectorEntry is one volume's part of a cut.
type VectorEntry struct {
	Volume   string
	Position Position // of the volume's Mark
}

// BarrierKind tells how a barrier came to be.
type BarrierKind uint8

// The kinds of barrier.
const (
	Crash   BarrierKind = iota + 1 // by schedule: consistent as after a power loss of all volumes at once
	App                            // with hooks run
	Labeled                        // asked for by name; protected from retention by count
)

// HookResult is how one hook ended.
type HookResult struct {
	Name     string
	Error    string // empty where it succeeded
	Duration time.Duration
}

// Commit makes a barrier a recovery point: all marks named by the vector are stored in the journal.
type Commit struct {
	Token    Token
	Type     BarrierKind
	Label    string
	Time     time.Time // of the cut: max(previous + 1 µs, the snapshotter's clock between the last hold and the first mark)
	Roster   uint64    // version of the roster the vector belongs to
	Vector   []VectorEntry
	Hooks    []HookResult
	Revision string        // of the objects; empty where the group captures none
	Objects  *Position     // of the objects' Mark; nil where the group captures none
	Hold     time.Duration // longest Mark.Hold of the volumes
}

// HooksOpen brackets the hooks of a barrier: a snapshotter that finds one without its end runs
// the post hooks before anything else.
type HooksOpen struct {
	Token Token
	End   bool // this event is the end of the bracket
	Hooks []string
}

// Kind implements Event.
func (*Epoch) Kind() Kind { return KindEpoch }

// Kind implements Event.
func (*Frame) Kind() Kind { return KindFrame }

// Kind implements Event.
func (*Mark) Kind() Kind { return KindMark }

// Kind implements Event.
func (*RegionHash) Kind() Kind { return KindRegionHash }

// Kind implements Event.
func (*PassDone) Kind() Kind { return KindPassDone }

// Kind implements Event.
func (*Resize) Kind() Kind { return KindResize }

// Kind implements Event.
func (*Heartbeat) Kind() Kind { return KindHeartbeat }

// Kind implements Event.
func (*Object) Kind() Kind { return KindObject }

// Kind implements Event.
func (*Listed) Kind() Kind { return KindListed }

// Kind implements Event.
func (*Member) Kind() Kind { return KindMember }

// Kind implements Event.
func (*Commit) Kind() Kind { return KindCommit }

// Kind implements Event.
func (*HooksOpen) Kind() Kind { return KindHooksOpen }
