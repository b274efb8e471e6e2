// Package rebuild makes an API server at the DR site hold what a group's durable copy of its objects says.
//
// The API server is a view: it is reconciled toward the newest State that was wanted, and a server that is
// down or refuses something holds nothing else back. Until a takeover the view is inert. What would act is applied
// in a held form (workloads at zero, jobs suspended, webhooks that match nothing) or, where there is no such
// form, held back and only rehearsed: sent as a dry run, so that what the server refuses is known long before.
//
// Farshore writes only what it made itself, which carries LabelGroup, and what isn't there yet: creation is
// conditional on absence in the API server, and every change and deletion on the UID. An object of the same name that
// is somebody else's is reported and left alone. Nothing is written while nothing changed, also after a
// restart: one list per kind tells what is in place. What somebody else changed or deleted is put back by a
// look at everything from time to time.
//
// A crash at any point leaves whole objects, each one marked with what it was made from; the next start goes on.
// A release is the same reconciliation toward the unheld form, so one that was interrupted is simply gone on with.
package rebuild

import (
	"errors"
	"iter"
	"log/slog"
	"time"

	"filippo.io/age"
	"go.opentelemetry.io/otel/metric"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/replica/objects"
)

// What Farshore writes on the objects that it made.
const (
	// FieldManager is the field manager of everything that is applied.
	FieldManager = "farshore"
	// LabelGroup holds the protection group's name. An object without it is somebody else's.
	LabelGroup = "farshore.dev/group"
	// AnnotationSource holds the UID at the primary.
	AnnotationSource = "farshore.dev/source"
	// AnnotationHash holds a hash of what was applied.
	AnnotationHash = "farshore.dev/hash"
	// AnnotationHeld holds, as JSON, what the held form replaced. A released object has none.
	AnnotationHeld = "farshore.dev/held"
	// AnnotationReleased marks an object that was released and is not touched any more.
	AnnotationReleased = "farshore.dev/released"
)

// State is what a group's objects were at one commit. It does not change, and may be read concurrently. A *objects.View
// is one.
type State interface {
	// All yields every object, in no particular order.
	All() iter.Seq[Entry]
	// Raw returns an object: JSON, or an age file that holds JSON.
	Raw(key events.ObjectKey) ([]byte, error)
	// Revision is the primary's resourceVersion that the state has at least.
	Revision() string
	// Point is the commit; its Barrier is 0 where there was none yet.
	Point() group.Point
}

// Entry is one object of a State, with its UID and resourceVersion at the primary.
type Entry = objects.Entry

// Transformer maps an object of the primary to the one for the DR site. *transform.Transformer is one.
type Transformer interface {
	// Apply changes obj in place. An error means that the object can't be used.
	Apply(obj *unstructured.Unstructured) error
	// Fingerprint differs for rules that differ.
	Fingerprint() string
}

// Rules are what can change while a Rebuilder runs.
type Rules struct {
	Transform  Transformer // nil: nothing is mapped, what the primary's API server owns goes
	Identities []age.Identity
	// Inert lists the custom kinds that may be applied before a takeover.
	Inert []schema.GroupResource
}

// Options configure a Rebuilder.
type Options struct {
	Config *rest.Config // of the DR site's API server
	Group  string       // name of the protection group, the value of LabelGroup: what has it and isn't wanted is deleted
	Rules  Rules
	// NamespacedOnly leaves out what isn't in a namespace, but the namespaces themselves: a replay beside what runs.
	NamespacedOnly bool

	// Look is the time between two looks at everything that was made; 5 min by default.
	Look time.Duration
	// Rehearse is the time between two dry runs of the same object; 30 min by default.
	Rehearse time.Duration
	// RehearseRate is how many dry runs a second are made at most; 20 by default.
	RehearseRate float64

	Log   *slog.Logger // nil: no log
	Meter metric.Meter // nil: no metrics
}

// ErrNoState means that nothing is known yet of the objects that should exist.
var ErrNoState = errors.New("no commit with objects has been applied at this site yet")
