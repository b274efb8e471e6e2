package barrier

import (
	"context"
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
	"golang.org/x/sync/errgroup"

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

// Options are a Coordinator's. Site, Group and Volumes are required.
type Options struct {
	Site    *journal.Site // the primary
	Group   string
	Volumes []Volume
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
	volumes  chan []Volume            // newest document's volumes, if they changed
	current  atomic.Pointer[attempt]  // that answers go to
	absent   atomic.Pointer[[]string] // members whose vote the last barrier lacked

	// The rest belongs to Run's loop.
	writer      *journal.Writer
	history     *history
	appended    uint64               // last sequence appended
	committedAt time.Time            // by our monotonic clock
	retry       map[string]time.Time // when a volume that failed to join may try again
	strangers   map[string]string    // taps that were refused, by why
	superseded  time.Time            // since when taps refuse us for a newer snapshotter
	patience    time.Duration        // how long we wait for the fence then
	reported    report
}

// NewCoordinator returns a coordinator; it works once Run runs.
func NewCoordinator(o Options) (*Coordinator, error) {
	if o.Site == nil || len(o.Volumes) == 0 {
		return nil, errors.New("a coordinator needs a site and at least one volume")
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
		volumes: make(chan []Volume, 1),
		retry:   make(map[string]time.Time), strangers: make(map[string]string), patience: supersededLimit,
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

// SetVolumes tells that the document lists other volumes now: those that it no longer has leave, new ones may
// join, before the next barrier. It may be called at any time.
func (c *Coordinator) SetVolumes(volumes []Volume) {
	volumes = slices.Clone(volumes)
	for {
		select {
		case c.volumes <- volumes:
			return
		default:
		}
		select { // what was not read yet is out of date
		case <-c.volumes:
		default:
		}
	}
}

// Missing returns the members whose vote the last barrier lacked. It may be called at any time.
func (c *Coordinator) Missing() []string {
	if p := c.absent.Load(); p != nil {
		return slices.Clone(*p)
	}
	return nil
}

// Run takes the control stream over from every earlier coordinator and makes barriers until ctx
// ends; it returns nil then. Other ends are journal.ErrFenced (a newer coordinator took over),
// journal.ErrHistoryLost, ErrSuperseded (start again: a new epoch wins), and whatever keeps the
// stream from being made or read. An unreachable bus only makes barriers fail.
//
// Run may be called once.
func (c *Coordinator) Run(ctx context.Context) error {
	id, err := c.open(ctx)
	if err != nil {
		return c.ended(ctx, err)
	}
	unsubscribe, err := c.subscribe()
	if err != nil {
		return err
	}
	defer unsubscribe()
	g, ctx := errgroup.WithContext(ctx)
	stop := errors.New("loop ended")
	g.Go(func() error { return c.writer.Run(ctx) })
	g.Go(func() error {
		if err := c.takeOver(ctx, id); err != nil {
			return c.ended(ctx, err)
		}
		close(c.ready)
		if err := c.ended(ctx, c.loop(ctx)); err != nil {
			return err
		}
		return stop
	})
	if err := g.Wait(); !errors.Is(err, stop) {
		return err
	}
	return nil
}

// ended turns the error of being cancelled into nil.
func (c *Coordinator) ended(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// open becomes the control stream's writer.
func (c *Coordinator) open(ctx context.Context) (journal.StreamID, error) {
	generation, err := c.o.Site.Generation(ctx, c.o.Group, journal.Control)
	if err != nil {
		return journal.StreamID{}, fmt.Errorf("find control stream: %w", err)
	}
	id := journal.StreamID{Group: c.o.Group, Part: journal.Control, Generation: generation}
	err = c.o.Site.EnsureStream(ctx, id, journal.StreamOptions{MaxBytes: c.o.MaxBytes, Replicas: c.o.Replicas})
	if err != nil {
		return id, fmt.Errorf("make control stream: %w", err)
	}
	c.writer, err = c.o.Site.OpenWriter(ctx, id, journal.WriterOptions{
		Writer:    c.o.Writer,
		Open:      func(uint64) *events.Epoch { return &events.Epoch{Writer: c.o.Writer} },
		Heartbeat: func() *events.Heartbeat { return &events.Heartbeat{Missing: c.Missing()} },
		Log:       c.log,
		Meter:     c.o.Meter,
	})
	if err != nil {
		return id, fmt.Errorf("take over control stream: %w", err)
	}
	return id, nil
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
