package resourcewatch

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"
	"k8s.io/client-go/rest"

	"github.com/farshore/farshore/pkg/events"
)

// Sink is the objects stream as its one writer sees it; *journal.Writer is one.
type Sink interface {
	// Append adds e to the stream and returns the sequence that it will have. The order of calls is the order of the
	// stream. It may block while the stream takes nothing. An error but ctx's is final: the tenure ends.
	Append(ctx context.Context, e events.Event) (uint64, error)
	// WaitStored returns once everything up to seq is stored.
	WaitStored(ctx context.Context, seq uint64) error
}

// Sent is what was last sent of an object, and is stored.
type Sent struct {
	UID      string
	Revision string // resourceVersion
	Seq      uint64 // of the event's last message
}

// Memory is what is known of earlier tenures of the same generation of the stream. Calls of Note and Forget
// may be concurrent for different keys, never for one.
type Memory interface {
	// Load returns everything that was noted and not forgotten.
	Load(ctx context.Context) (map[events.ObjectKey]Sent, error)
	// Note remembers durably what was sent of the object; called only once that is stored.
	Note(ctx context.Context, key events.ObjectKey, sent Sent) error
	// Forget takes the object out; called only once its deletion is stored.
	Forget(ctx context.Context, key events.ObjectKey) error
}

// Why a barrier's request is refused.
var (
	// ErrStaleToken is a hold whose token isn't newer than every one seen.
	ErrStaleToken = errors.New("the hold's token is stale")
	// ErrNotHeld is a mark whose hold has ended.
	ErrNotHeld = errors.New("the stream is not held for this token")
	// ErrNotRecording is a mark while no stream is recorded into.
	ErrNotRecording = errors.New("objects are not recorded at the moment")
	// ErrUnprovable is a mark whose revision a kind can't be cut at: it was listed anew meanwhile. The next barrier can.
	ErrUnprovable = errors.New("the revision can't be proven: a kind was listed anew in between")
)

// Marked is a mark that was appended.
type Marked struct {
	Hold     time.Duration // how long the stream was held: from the first change withheld, or the hold where none was
	Revision string        // proven: every change up to it lies before the mark; "" where none is proven yet
	// Stored waits until the mark is stored and returns its sequence.
	Stored func(context.Context) (uint64, error)
}

// Options are a Watcher's. Config, Group and Selection are required.
type Options struct {
	Config     *rest.Config // how to reach the API server; it is copied
	Group      string       // the protection group's name
	Namespaces []string     // of the group
	Recipients []string     // age recipients that Secrets are encrypted for; none: they are sent as they are

	Rediscover time.Duration // between two looks for kinds; 0: 30 s. A new CRD is seen at once
	Prove      time.Duration // between two proofs of kinds that don't change; 0: 10 s
	QueueBytes int64         // of changes that wait for the stream, in all; beyond it only the newest state is kept. 0: 64 MiB

	Log   *slog.Logger // nil: silent. No content of an object is ever logged
	Meter metric.Meter // nil: none
}

// Refused is a request that the API server doesn't allow. The kind is not captured as long as that lasts.
type Refused struct {
	Verb      string // as RBAC names it: list, watch
	Group     string // API group; "" is the core's
	Resource  string
	Namespace string // "" for cluster-scoped kinds
	Message   string // as the API server says it
	Since     time.Time
}

// Status is where a watcher stands.
type Status struct {
	Kinds    int       // that are watched
	Objects  int       // that the API server holds of them
	Selected int       // of these, that belong to the group
	Revision string    // proven: every change up to it is appended; "" where none is
	Proven   time.Time // when Revision was read at the API server
	Synced   bool      // every kind that may be watched was listed
	Refused  []Refused // in the order of resources
	Failing  []string  // kinds that can't be watched for another reason, with it; in order
}

// Watcher follows the group's objects. Its methods may be called concurrently.
type Watcher struct {
	o   Options
	log *slog.Logger
}

// New returns a watcher; it works once Run runs. It sends no request.
func New(o Options) (*Watcher, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Watcher{o: o, log: o.Log}, nil
}

// Run watches until ctx ends and returns nil then. It outlives API servers that restart, rights that are missing, and
// kinds that come and go. It may be called once.
func (w *Watcher) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Record appends to sink, whose Epoch was written, what memory lacks, and then follows the changes until ctx ends or
// sink fails; it returns nil for the former. It waits until the kinds are listed. Calls must not overlap; Run may have
// run before, and another call may follow with another sink: memory must be that of the sink's stream.
func (w *Watcher) Record(ctx context.Context, _ Sink, _ Memory) error {
	<-ctx.Done()
	return nil
}

// Status returns where the watcher stands.
func (w *Watcher) Status() Status { return Status{} }

// Debt returns how many bytes of changes wait to be appended, and since when the oldest does.
func (w *Watcher) Debt() (bytes int64, oldest time.Time) { return 0, time.Time{} }

// Hold withholds every change that comes from now on from the stream, until Mark, Release, a newer hold, or until limit has
// passed; it never waits. What was received before may still be appended.
func (w *Watcher) Hold(events.Token, time.Duration) error { return ErrNotRecording }

// Revision reads the API server's current revision, from the storage, while the token's hold is closed.
// Mark then appends every change up to it and nothing beyond.
func (w *Watcher) Revision(context.Context, events.Token) (string, error) { return "", ErrNotRecording }

// Mark appends the token's Mark and opens. Where Revision was asked, it first appends every change up to that revision,
// and waits until each kind is proven to have reached it; else it marks at once with the revision proven so far.
// However it ends, the hold has ended.
func (w *Watcher) Mark(context.Context, events.Token) (Marked, error) {
	return Marked{}, ErrNotRecording
}

// Release opens if t holds.
func (w *Watcher) Release(events.Token) {}

// Ready tells whether the stream may vote: it holds everything that memory lacked when the tenure began.
func (w *Watcher) Ready() (bool, events.Progress) { return false, events.Progress{} }
