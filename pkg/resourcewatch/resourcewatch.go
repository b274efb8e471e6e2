package resourcewatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"filippo.io/age"
	"go.opentelemetry.io/otel/metric"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/resourcewatch/selection"
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

// Defaults of Options.
const (
	DefaultRediscover = 30 * time.Second
	DefaultProve      = 10 * time.Second
	DefaultQueueBytes = 64 << 20
)

// Options are a Watcher's. Config and Selection are required.
type Options struct {
	Config     *rest.Config // how to reach the API server; it is copied
	Group      string       // the protection group's name
	Selection  *selection.Selection
	Recipients []string // age recipients that Secrets are encrypted for; none: they are sent as they are

	Rediscover time.Duration // between two looks for kinds; 0: 30 s. A new CRD is seen at once
	Prove      time.Duration // between two proofs of kinds that don't change; 0: 10 s
	QueueBytes int64         // of changes that wait for the stream, in all; beyond it only the newest state is kept. 0: 64 MiB

	Log   *slog.Logger // nil: silent. No content of an object is ever logged
	Meter metric.Meter // nil: none
}

// Watcher follows the group's objects. Its methods may be called concurrently.
type Watcher struct {
	o          Options
	log        *slog.Logger
	recipients []age.Recipient
	discovery  discovery.DiscoveryInterfaceWithContext
	dynamic    dynamic.Interface
	metadata   metadata.Interface

	budget *budget
	gate   *gate
	dates  dates
	count  counters
	model  *model        // the tenure's
	wake   chan struct{} // the tenure has something to look at
	looks  chan struct{} // discover has to look at once

	lookFailed, proveFailed rarely

	mu         sync.Mutex
	all        map[place]*feed
	sorted     []*feed         // the same, in order
	discovered bool            // a look succeeded
	offered    map[kindID]bool // kinds that the newest look found
	unclear    map[string]bool // API groups of which it found out nothing
	elsewhere  []string        // kinds that another server answers for, with the reason that they aren't captured
	current    *tenure         // nil: nothing is recorded
}

// New returns a watcher; it works once Run runs. It sends no request.
func New(o Options) (*Watcher, error) {
	if o.Config == nil || o.Selection == nil {
		return nil, errors.New("watch objects: a cluster and a selection are needed")
	}
	o.Rediscover, o.Prove = cmp.Or(o.Rediscover, DefaultRediscover), cmp.Or(o.Prove, DefaultProve)
	o.QueueBytes = cmp.Or(o.QueueBytes, DefaultQueueBytes)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	w := &Watcher{
		o: o, log: o.Log, budget: &budget{most: o.QueueBytes}, model: newModel(),
		wake: make(chan struct{}, 1), looks: make(chan struct{}, 1), all: make(map[place]*feed),
	}
	w.gate = &gate{wake: w.poke}
	config := rest.CopyConfig(o.Config)
	config.QPS = -1                  // the API server's own fairness is enough: a limit here would delay barriers
	config.DisableCompression = true // each open watch would hold 40 kB for it
	config.WarningHandler = rest.NoWarnings{}
	config.UserAgent = "farshore-capturer"
	var errs [4]error
	w.recipients, errs[0] = selection.Recipients(o.Recipients)
	d, err := discovery.NewDiscoveryClientForConfig(config)
	w.discovery, errs[1] = d, err
	w.dynamic, errs[2] = dynamic.NewForConfig(config)
	w.metadata, errs[3] = metadata.NewForConfig(config)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("watch objects: %w", err)
	}
	return w, nil
}

// Run watches until ctx ends and returns nil then. It outlives API servers that restart, rights that are missing, and
// kinds that come and go. An error is one of the meter. It may be called once.
func (w *Watcher) Run(ctx context.Context) error {
	stop, err := w.observe(w.o.Meter)
	if err != nil {
		return err
	}
	defer stop()
	group, ctx := errgroup.WithContext(quiet(ctx))
	group.Go(func() error { return w.discover(ctx) })
	group.Go(func() error { return w.proveIdle(ctx) })
	return group.Wait()
}

// poke has the tenure look whether there is something to do.
func (w *Watcher) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *Watcher) tenure() *tenure {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.current
}

func (w *Watcher) setTenure(t *tenure) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.current = t
}

func (w *Watcher) hasDiscovered() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.discovered
}
