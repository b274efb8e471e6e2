package group

import "time"

// StatusBucket is the KV bucket at the DR site that holds each group's Status under the group's name.
const StatusBucket = "farshore-status"

// Status is how a group stands, as its applier sees it. It is written about once a second; a
// Time that stands still means an applier that doesn't run. Values that are not known, such as the
// lag of a stream that nothing was received from, are null, never 0.
type Status struct {
	Group   string    `json:"group"`
	Applier string    `json:"applier"` // instance that wrote this
	Time    time.Time `json:"time"`    // the applier's clock when it wrote this
	Phase   Phase     `json:"phase"`

	RecoveryPoint *Point `json:"recoveryPoint"` // newest point that can be recovered
	Oldest        *Point `json:"oldest"`        // oldest point that can be recovered
	Applied       *Point `json:"applied"`       // what the replicas hold
	Applying      *Point `json:"applying"`      // what they are being advanced to; null when idle

	Lags Lags `json:"lags"` // of the group: the worst of its volumes, and of its control stream

	// ClockOffsetSeconds is the primary's clock minus the DR site's, already taken into account
	// in every lag; null while not measured.
	ClockOffsetSeconds *float64 `json:"clockOffsetSeconds"`

	// Mirrors is what the mirrors of the group's streams use at the DR site.
	Mirrors MirrorsStatus `json:"mirrors"`

	// MissingVotes names the members whose vote the last barrier lacked.
	MissingVotes []string `json:"missingVotes"`

	Volumes    []VolumeStatus `json:"volumes"`
	Objects    *ObjectsStatus `json:"objects"` // null where the group captures none
	Archive    *ArchiveStatus `json:"archive"` // null where the group has none
	Conditions []Condition    `json:"conditions"`
}

// Phase tells in one word what the applier does.
type Phase string

// The phases.
const (
	PhaseStarting  Phase = "Starting"  // nothing applied yet
	PhaseSeeding   Phase = "Seeding"   // no recovery point yet: volumes are on their first pass
	PhaseFollowing Phase = "Following" // the replicas follow the commits
	PhaseStopped   Phase = "Stopped"   // something keeps the replicas from following; see Conditions
)

// Lags are the four lags of a group or a volume.
type Lags struct {
	// RecoverableRPOSeconds is now minus the time of the newest recovery point: what would be
	// lost if the primary were gone now. Groups only; null while there is no point.
	RecoverableRPOSeconds *float64 `json:"recoverableRPOSeconds"`
	// TransitLagSeconds is now minus the source time of the newest event stored at the DR site.
	TransitLagSeconds *float64 `json:"transitLagSeconds"`
	// ReplayDebt is stored at the DR site and not applied yet: recovery time, not data loss.
	ReplayDebt *Debt `json:"replayDebt"`
	// CaptureDebt is acknowledged to the application and not in the journal yet, as the writer
	// last told; Messages is 0.
	CaptureDebt *Debt `json:"captureDebt"`
}

// Debt is an amount of work that is behind.
type Debt struct {
	Seconds  float64 `json:"seconds"`
	Bytes    uint64  `json:"bytes"`
	Messages uint64  `json:"messages"`
}

// MirrorsStatus is how far the mirrors are from their limit.
type MirrorsStatus struct {
	Bytes   uint64 `json:"bytes"`
	Limit   uint64 `json:"limit"`   // bytes; 0: none
	AlertAt int    `json:"alertAt"` // percent of Limit
}

// Point is a commit of the group.
type Point struct {
	Barrier uint64    `json:"barrier"`
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind"` // crash, app or labeled
	Label   string    `json:"label,omitempty"`
}

// VolumeStatus is how one volume stands.
type VolumeStatus struct {
	Name       string        `json:"name"`
	UID        string        `json:"uid"`
	State      string        `json:"state"`      // joining, member or left
	Generation uint32        `json:"generation"` // of its stream; above 1 where a history was lost or the volume moved
	Size       int64         `json:"size"`       // bytes
	StoredSeq  uint64        `json:"storedSeq"`  // newest sequence stored at the DR site
	AppliedSeq uint64        `json:"appliedSeq"` // newest sequence that the replica holds
	Lags       Lags          `json:"lags"`
	Pass       *PassProgress `json:"pass"` // open region pass; null where none is

	// Incarnation is that of its stream's mirror; above 1 where a hole in one was filled by the next.
	Incarnation int `json:"incarnation"`
	// Scrubbed is when the last comparison of the whole volume that the applier has heard of ended; null before.
	Scrubbed *time.Time `json:"scrubbed"`

	// RegionMismatches counts the regions whose hash differed from the replica's.
	RegionMismatches uint64 `json:"regionMismatches"`
	// Mismatches names the newest of them, and those that still differ, oldest first; at most a few dozen.
	Mismatches []RegionMismatch `json:"mismatches,omitempty"`
}

// ObjectsStatus is how the Kubernetes objects of a group stand: the durable copy at the DR site, and the DR API server,
// which follows that copy and never holds it back.
type ObjectsStatus struct {
	State       string `json:"state"`       // joining, member or left
	Generation  uint32 `json:"generation"`  // of their stream
	Incarnation int    `json:"incarnation"` // of its mirror
	Count       int    `json:"count"`       // objects in the durable copy
	Revision    string `json:"revision"`    // resourceVersion that the copy was proven to have reached; empty: not known
	StoredSeq   uint64 `json:"storedSeq"`   // newest sequence stored at the DR site
	AppliedSeq  uint64 `json:"appliedSeq"`  // newest sequence in the durable copy
	Lags        Lags   `json:"lags"`

	// What the DR API server holds. An applier that applies to none tells nothing of it.
	Applied  *Point    `json:"applied"`  // newest commit whose objects were all tried; null before the first
	Released bool      `json:"released"` // what was held until a takeover is in force
	Current  int       `json:"current"`  // objects that are as that commit and the document want them
	HeldBack int       `json:"heldBack"` // objects that are not applied before a release, only rehearsed
	Refusals int       `json:"refusals"` // objects that the API server doesn't take
	Refused  []Refusal `json:"refused"`  // the first of them, by key; at most a few dozen

	// Problem is what keeps the API server from following at all, as that it can't be reached; empty: nothing does.
	Problem string `json:"problem,omitempty"`
}

// Refusal is an object that the DR API server doesn't take.
type Refusal struct {
	Group     string    `json:"group,omitempty"`
	Version   string    `json:"version"`
	Resource  string    `json:"resource"`
	Namespace string    `json:"namespace,omitempty"` // at the primary; that at the DR site may differ
	Name      string    `json:"name"`
	Held      bool      `json:"held"`   // it is only rehearsed
	Reason    string    `json:"reason"` // as the API server says it
	Since     time.Time `json:"since"`
}

// RegionMismatch is a region of a replica that differed from its source.
type RegionMismatch struct {
	Offset     int64     `json:"offset"`     // bytes
	Length     int64     `json:"length"`     // bytes
	Generation uint32    `json:"generation"` // of the stream, with Seq: where the hash is that it was compared with
	Seq        uint64    `json:"seq"`
	Time       time.Time `json:"time"`   // when it was found
	Healed     bool      `json:"healed"` // it was sent again, or equalled its hash since
}

// PassProgress is how far an open region pass has come.
type PassProgress struct {
	Kind  string `json:"kind"`  // seed, resync or scrub
	Done  int64  `json:"done"`  // bytes of the volume passed
	Total int64  `json:"total"` // bytes of the volume
}

// Condition is one thing about a group that is as it should be, or is not.
type Condition struct {
	Type    string    `json:"type"`
	OK      bool      `json:"ok"`
	Message string    `json:"message"` // what is wrong and what to do; empty where OK
	Since   time.Time `json:"since"`   // when OK last changed
}

// The types of Condition.
const (
	ConditionConnected = "Connected" // events of every stream arrive from the primary
	ConditionComplete  = "Complete"  // no stream has a gap or a damaged message
	ConditionStorage   = "Storage"   // the DR site has room to go on
	ConditionBarriers  = "Barriers"  // every member votes
	ConditionVerified  = "Verified"  // no region differs from its source
	ConditionJournal   = "Journal"   // the mirrors at the DR site are below their limit
	ConditionObjects   = "Objects"   // the DR API server takes every object
	ConditionArchive   = "Archive"   // what is to be archived is, or soon will be
)

// Conditions returns the types in the order in which they are told.
func Conditions() []string {
	return []string{ConditionConnected, ConditionComplete, ConditionStorage, ConditionBarriers, ConditionVerified, ConditionJournal, ConditionObjects, ConditionArchive}
}
