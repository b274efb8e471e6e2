package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica/objects"
)

// How often a Follower does what it does.
const (
	requestTimeout  = 5 * time.Second
	statusEvery     = time.Second
	discoverEvery   = 2 * time.Second
	retentionEvery  = 30 * time.Second
	damageRetry     = 10 * time.Second // damage hardly ever heals
	storageRetry    = time.Second
	pollFastest     = 5 * time.Millisecond
	pollSlowest     = 250 * time.Millisecond
	clockEvery      = 5 * time.Second
	clockSamples    = 12
	catchUp         = DefaultMemory    // bytes of journal that commits may be passed over for
	connectedWithin = 10 * time.Second // heartbeats come every second
)

// FollowerOptions shape a Follower.
type FollowerOptions struct {
	Site     *journal.Site // the DR site
	Group    *group.Group
	Instance string // of the process, for the lease and the status

	Ready func()       // called once it follows; nil: nobody waits
	Log   *slog.Logger // nil: silent
	Meter metric.Meter // nil: not measured

	// DamageRetry is how long after damage was found it is looked at again; 0: 10 s.
	DamageRetry time.Duration
	// RetentionEvery is how often what the retention no longer needs is trimmed; 0: 30 s.
	RetentionEvery time.Duration
	// MendEvery is how often broken mirrors and differing regions are looked at; 0: 2 s. AskEvery is the shortest time
	// between two requests for the same thing, which doubles from one to the next; 0: 5 s.
	MendEvery, AskEvery time.Duration
	// RoomEvery is how often it is measured what the mirrors use; 0: 5 s.
	RoomEvery time.Duration
	// OpenTarget opens the replicas; nil: files and block devices.
	OpenTarget func(TargetSpec) (Target, error)

	// Applied is called with the group's objects once they are known at the start and after each commit that has them,
	// by one goroutine, oldest first. It must return soon: the volumes wait for it. Nil: nobody wants them.
	Applied func(*objects.View)
	// Archiver archives commits; nil: nobody does.
	Archiver Archiver
	// Objects tells what the DR API server holds, for the status: the fields of group.ObjectsStatus from Applied on. It may be
	// called at any time, and may return nil. Nil: the objects are applied to none.
	Objects func() *group.ObjectsStatus
}

// Follower keeps the replicas of one group behind its mirrors: it discovers the group's streams and
// mirrors them, seeds volumes that join, advances the set from commit to commit, publishes the group's
// status, and trims mirrors behind a base. One Follower of a group works at a time.
type Follower struct {
	o       FollowerOptions
	group   string
	dir     string
	log     *slog.Logger
	metrics *instruments

	set        *Set
	mirrors    *Mirrors
	timeline   *timeline
	mismatches *mismatches

	seeds sync.WaitGroup // the volumes being seeded
	full  atomic.Bool    // the mirrors are at their limit

	// turn is held while a commit is chosen and applied, and while it is told where the replicas stand.
	turn sync.Mutex

	mu       sync.Mutex
	document *group.Group
	view     view
	base     Checkpoint        // of the base; zero: there is none
	stands   map[string]stand  // what was told of where replicas stand, by volume
	asked    map[string]asking // where a history can go on, by part
	marked   uint64            // highest barrier of any mark that was read
	damage   map[journal.StreamID]Damaged
	retryAt  time.Time         // until then nothing is applied over damage
	single   bool              // advance by one commit at a time: there was no room for more
	troubles map[string]string // by condition type and source: what is wrong
	since    map[string]condition
	beats    map[string]beat            // by volume
	scrubbed map[string]time.Time       // by volume: the end of the last whole scrub that was read
	lost     map[journal.StreamID]*loss // what a new generation has to mend
	asks     map[string]*asks
	branches map[string]bool   // volumes whose newest generation can't be followed
	followed map[string]uint32 // newest generation that is known, by part
	seeding  map[string]bool
	offset   *time.Duration // the primary's clock minus ours
}

// beat is the newest heartbeat known of a stream.
type beat struct {
	seq  uint64
	body *events.Heartbeat
}

type condition struct {
	ok bool
	at time.Time
}

// NewFollower returns a Follower of a group; Run makes it work.
func NewFollower(o FollowerOptions) (*Follower, error) {
	metrics, err := newInstruments(o.Meter, o.Group.Metadata.Name)
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.DamageRetry == 0 {
		o.DamageRetry = damageRetry
	}
	if o.RetentionEvery == 0 {
		o.RetentionEvery = retentionEvery
	}
	o.MendEvery, o.AskEvery = cmp.Or(o.MendEvery, mendEvery), cmp.Or(o.AskEvery, askFirst)
	o.RoomEvery = cmp.Or(o.RoomEvery, roomEvery)
	name := o.Group.Metadata.Name
	return &Follower{
		o: o, group: name, dir: filepath.Join(o.Group.Spec.Recovery.Directory, name), log: o.Log, metrics: metrics,
		timeline: newTimeline(), document: o.Group, view: newView(), stands: make(map[string]stand), asked: make(map[string]asking),
		damage: make(map[journal.StreamID]Damaged), troubles: make(map[string]string),
		since: make(map[string]condition), beats: make(map[string]beat), scrubbed: make(map[string]time.Time), lost: make(map[journal.StreamID]*loss),
		asks: make(map[string]*asks), branches: make(map[string]bool), followed: make(map[string]uint32), mismatches: newMismatches(),
		seeding: make(map[string]bool),
	}, nil
}

// Run follows until ctx ends, then returns nil. It waits for a set or a lease that another process has.
// An error means that following is not possible at all: a set that doesn't belong to the group, sites
// that don't fit together, a lost lease. Everything else is shown in the status and tried again.
func (f *Follower) Run(ctx context.Context) (err error) {
	defer func() {
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			err = nil
		}
	}()
	set, err := f.open(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.set = set
	f.updateSet()
	f.mu.Unlock()
	defer func() { err = errors.Join(err, f.set.Close()) }()
	cp := f.set.Checkpoint()
	lease, err := acquire(ctx, f.o.Site, f.group, holder{Instance: f.o.Instance, Replica: cp.Replica}, f.log)
	if err != nil {
		return fmt.Errorf("acquire lease: %w", err)
	}
	f.log.Info("following", "directory", f.dir, "barrier", cp.Commit.Barrier, "applying", cp.Applying != nil)
	f.noteBase()
	f.recallDamage(ctx)
	f.recallMismatches(ctx)
	if err := f.discover(ctx); err != nil {
		return err
	}
	if f.set.Checkpoint().Volumes[journal.Objects].State == Member {
		f.tellObjects()
	}
	f.mirrors = NewMirrors(f.o.Site)
	defer f.mirrors.Close()
	g, ctx := errgroup.WithContext(ctx)
	for _, part := range []func(context.Context) error{
		func(ctx context.Context) error { return lease.keep(ctx, f.o.Site) },
		f.keepDiscovering, f.readControl, f.follow, f.publishStatus, f.measureClock, f.retain, f.serveRecovery,
		f.mend, f.keepRoom,
	} {
		g.Go(func() error { return part(ctx) })
	}
	if f.o.Ready != nil {
		f.o.Ready()
	}
	return g.Wait()
}

// Update makes the follower go by a changed document of the same group: its volumes, their replicas' devices, the
// retention and the limits of the mirrors. It takes effect within seconds, without stopping anything, and
// may be called at any time; g is not to be changed any more. Volumes that the document doesn't list any more stay at their last commit.
func (f *Follower) Update(g *group.Group) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.document = g
	f.updateSet()
}

// updateSet hands the set what the document says; f.mu is held.
func (f *Follower) updateSet() {
	if f.set != nil {
		f.set.Update(setDevices(f.document), setUIDs(f.document))
	}
}

// spec returns the document's part about the DR site, as it is now.
func (f *Follower) spec() group.Recovery {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.document.Spec.Recovery
}

func setDevices(g *group.Group) map[string]string {
	devices := make(map[string]string)
	for _, v := range g.Spec.Volumes {
		if v.Replica.Path != "" {
			devices[v.Name] = v.Replica.Path
		}
	}
	return devices
}

func setUIDs(g *group.Group) map[string]string {
	uids := make(map[string]string)
	for _, v := range g.Spec.Volumes {
		uids[v.Name] = v.UID
	}
	return uids
}

func (f *Follower) open(ctx context.Context) (*Set, error) {
	f.mu.Lock()
	o := Options{
		Group: f.group, Devices: setDevices(f.document), UIDs: setUIDs(f.document),
		OpenTarget: f.o.OpenTarget, Log: f.log,
	}
	f.mu.Unlock()
	o.Hooks = Hooks{
		Read: f.noteRead,
		Written: func(volume string, bytes int64) {
			f.metrics.appliedBytes.Add(context.WithoutCancel(ctx), bytes, f.metrics.of(volume))
		},
		Mismatch: func(volume string, at events.Position, region Extent) { f.noteMismatch(ctx, volume, at, region) },
		Equal:    f.noteEqual,
		Objects: func(changed uint64) {
			f.metrics.appliedObjects.Add(context.WithoutCancel(ctx), int64(changed), f.metrics.of(""))
		},
	}
	told := false
	for {
		set, err := Open(f.dir, o)
		if !errors.Is(err, ErrLocked) {
			return set, err
		}
		if !told {
			f.log.Warn("waiting until no other process works on the replicas", "error", err)
			told = true
		}
		if !sleep(ctx, storageRetry) {
			return nil, ctx.Err()
		}
	}
}

func (f *Follower) noteRead(volume string, m journal.Message) {
	switch e := m.Event.(type) {
	case *events.Heartbeat:
		f.noteBeat(volume, m.Seq, e)
	case *events.Mark:
		f.mu.Lock()
		f.marked = max(f.marked, e.Token.Barrier)
		f.mu.Unlock()
	case *events.PassDone:
		if e.Pass == events.PassScrub {
			f.mu.Lock()
			f.scrubbed[volume] = m.Header.Time
			f.mu.Unlock()
		}
	}
}

func (f *Follower) noteBeat(volume string, seq uint64, h *events.Heartbeat) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if seq > f.beats[volume].seq {
		f.beats[volume] = beat{seq, h}
	}
}

// trouble notes what is wrong of a kind, as told by a source; "" is that nothing is.
func (f *Follower) trouble(condition, source, message string) {
	f.mu.Lock()
	key := condition + "/" + source
	changed := f.troubles[key] != message
	f.troubles[key] = message
	if message == "" {
		delete(f.troubles, key)
	}
	f.mu.Unlock()
	switch {
	case changed && message != "":
		f.log.Error("something keeps the replicas from following", "condition", condition, "problem", message)
	case changed:
		f.log.Info("following again", "condition", condition, "source", source)
	}
}
