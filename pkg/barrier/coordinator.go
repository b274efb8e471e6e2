package barrier

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

const (
	maxMarkRequests = 64               // labelled barriers that may wait
	supersededLimit = 10 * time.Second // see loop
	repeatLog       = 30 * time.Second // between two reports of the same failure
)

// Volume is a volume of the group's document.
type Volume struct {
	Name string
	UID  string // identity that is never used twice
}

// Options are a Coordinator's. Site, Group and something to protect are required.
type Options struct {
	Site    *journal.Site // the primary
	Group   string
	Volumes []Volume
	Objects bool   // the group's document captures Kubernetes objects
	Writer  string // identity of this process, unique for each start; "": made up

	Interval    time.Duration // between two scheduled barriers; 0: 1 s, < 0: none but labelled ones
	HoldLimit   time.Duration // longest time that a tap withholds writes; 0: 500 ms
	VoteTimeout time.Duration // longest wait for the marks to be stored; 0: 10 s

	MaxBytes int64 // of the control stream; 0: the server's limit
	Replicas int   // servers that store the control stream; 0: 1

	Now    func() time.Time // the clock that commits are dated with; nil: time.Now
	Log    *slog.Logger     // nil: none
	Meter  metric.Meter     // nil: none
	Tracer trace.Tracer     // nil: none
}

// Coordinator makes a group's barriers: on schedule, and labelled ones when asked. It is the
// single writer of the group's control stream.
type Coordinator struct {
	o       Options
	log     *slog.Logger
	tracer  trace.Tracer
	metrics *instruments

	conn     *nats.Conn
	inbox    string // where taps answer
	presence *presence
	requests chan *nats.Msg // for labelled barriers
	ready    chan struct{}
	listing  chan []Volume            // what the newest document lists, if it changed
	tenured  atomic.Uint32            // generation of the control stream that is written; 0: none
	renewal  chan string              // why another generation has to begin
	current  atomic.Pointer[attempt]  // that answers go to
	absent   atomic.Pointer[[]string] // members whose vote the last barrier lacked

	// The rest belongs to Run's loop.
	listed      []Volume // by the document; objects as the volume of that name
	writer      *journal.Writer
	history     *history             // nil before the first stream was read
	epoch       uint64               // highest epoch of a control stream's writer known
	broken      uint32               // generation that can't be continued; 0: none
	appended    uint64               // last sequence appended
	committedAt time.Time            // by our monotonic clock
	retry       map[string]time.Time // when a volume that failed to join may try again
	strangers   map[string]string    // taps that were refused, by why
	superseded  time.Time            // since when taps refuse us for a newer snapshotter
	patience    time.Duration        // how long we wait for the fence then
	indulgence  time.Duration        // how long a labelled barrier waits for members that are missing
	foundRetry  time.Duration        // pause between two questions to the DR site
	reported    report
}

// NewCoordinator returns a coordinator; it works once Run runs.
func NewCoordinator(o Options) (*Coordinator, error) {
	if o.Site == nil || len(o.Volumes) == 0 && !o.Objects {
		return nil, errors.New("a coordinator needs a site and at least one volume, or objects")
	}
	if err := journal.ValidName(o.Group); err != nil {
		return nil, fmt.Errorf("name of group: %w", err)
	}
	o.Interval = defaulted(o.Interval, time.Second)
	o.HoldLimit = defaulted(o.HoldLimit, 500*time.Millisecond)
	o.VoteTimeout = defaulted(o.VoteTimeout, 10*time.Second)
	if o.Replicas == 0 {
		o.Replicas = 1
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Tracer == nil {
		o.Tracer = noop.Tracer{}
	}
	if o.Writer == "" {
		o.Writer = "snapshotter-" + nats.NewInbox()[len(nats.InboxPrefix):]
	}
	metrics, err := newInstruments(o.Meter, o.Group)
	if err != nil {
		return nil, err
	}
	return &Coordinator{
		o: o, log: o.Log, tracer: o.Tracer, metrics: metrics, conn: o.Site.Conn(), inbox: nats.NewInbox(),
		presence: newPresence(), requests: make(chan *nats.Msg, maxMarkRequests), ready: make(chan struct{}),
		listing: make(chan []Volume, 1), renewal: make(chan string, 1),
		listed: listed(o.Volumes, o.Objects),
		retry:  make(map[string]time.Time), strangers: make(map[string]string), patience: supersededLimit, indulgence: 2 * AnnounceEvery, foundRetry: foundRetry,
	}, nil
}

func defaulted(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// Ready is closed once the coordinator works: it is the control stream's writer, knows what was
// before it, and hears taps and operators. Barriers may still fail.
func (c *Coordinator) Ready() <-chan struct{} { return c.ready }

// SetParts tells that the document lists something else now: what it no longer has leaves, what is new may
// join, before the next barrier. It may be called at any time.
func (c *Coordinator) SetParts(volumes []Volume, objects bool) {
	parts := listed(volumes, objects)
	for {
		select {
		case c.listing <- parts:
			return
		default:
		}
		select { // what was not read yet is out of date
		case <-c.listing:
		default:
		}
	}
}

// listed is what a document lists. The objects take part as a volume does whose name no volume can have;
// they have no UID.
func listed(volumes []Volume, objects bool) []Volume {
	out := slices.Clone(volumes)
	if objects {
		out = append(out, Volume{Name: journal.Objects})
	}
	return out
}

// Missing returns the members whose vote the last barrier lacked. It may be called at any time.
func (c *Coordinator) Missing() []string {
	if p := c.absent.Load(); p != nil {
		return slices.Clone(*p)
	}
	return nil
}

func (c *Coordinator) subscribe() (unsubscribe func(), err error) {
	var subs []*nats.Subscription
	unsubscribe = func() {
		for _, s := range subs {
			_ = s.Unsubscribe() // fails only where the connection is closed already
		}
	}
	for subject, handle := range map[string]nats.MsgHandler{
		c.inbox:                    c.onAnswer,
		announceSubject(c.o.Group): c.onAnnouncement,
		markSubject(c.o.Group):     c.onMarkRequest,
	} {
		s, err := c.conn.Subscribe(subject, handle)
		if err != nil {
			unsubscribe()
			return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
		}
		subs = append(subs, s)
	}
	return unsubscribe, nil
}

func (c *Coordinator) onAnswer(m *nats.Msg) {
	var a answer
	if current := c.current.Load(); current != nil && json.Unmarshal(m.Data, &a) == nil {
		current.take(a)
	}
}

func (c *Coordinator) onAnnouncement(m *nats.Msg) {
	var a announcement
	if json.Unmarshal(m.Data, &a) == nil && a.Volume != "" {
		c.presence.note(a, time.Now())
	}
}

func (c *Coordinator) onMarkRequest(m *nats.Msg) {
	select {
	case c.requests <- m:
	default:
		c.reply(m, nil, fmt.Errorf("%d labelled barriers are waiting already", maxMarkRequests))
	}
}

func (c *Coordinator) reply(m *nats.Msg, commit *events.Commit, err error) {
	body, encodeErr := json.Marshal(replyOf(commit, err))
	if encodeErr == nil {
		encodeErr = m.Respond(body)
	}
	if encodeErr != nil {
		c.log.Warn("answer to a mark request was not sent", "error", encodeErr)
	}
}
