package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
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
	// OpenTarget opens the replicas; nil: files and block devices.
	OpenTarget func(TargetSpec) (Target, error)
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

	set      *Set
	mirrors  *Mirrors
	timeline *timeline

	seeds sync.WaitGroup // the volumes being seeded

	mu         sync.Mutex
	streams    map[string]journal.StreamInfo // the mirrors, by part, as last seen
	generation map[string]uint32             // the newest, by part
	holes      map[string]hole               // by mirror
	damage     map[string]Damaged            // by mirror
	retryAt    time.Time                     // until then nothing is applied over damage
	single     bool                          // advance by one commit at a time: there was no room for more
	troubles   map[string]string             // by condition type and source: what is wrong
	since      map[string]condition
	beats      map[string]beat // by volume
	mismatches map[string]uint64
	seeding    map[string]bool
	offset     *time.Duration // the primary's clock minus ours
}

// beat is the newest heartbeat known of a stream.
type beat struct {
	seq  uint64
	body *events.Heartbeat
}

// hole is what a mirror lacks, and what the mirror looked like when that was found.
type hole struct {
	messages, last uint64
	missing        []uint64 // ascending
}

// behind returns the first missing message behind a sequence; 0 is that none is.
func (h hole) behind(seq uint64) uint64 {
	i, _ := slices.BinarySearch(h.missing, seq+1)
	if i == len(h.missing) {
		return 0
	}
	return h.missing[i]
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
	name := o.Group.Metadata.Name
	return &Follower{
		o: o, group: name, dir: filepath.Join(o.Group.Spec.Recovery.Directory, name), log: o.Log, metrics: metrics,
		timeline: newTimeline(), streams: make(map[string]journal.StreamInfo), generation: make(map[string]uint32),
		holes: make(map[string]hole), damage: make(map[string]Damaged), troubles: make(map[string]string),
		since: make(map[string]condition), beats: make(map[string]beat), mismatches: make(map[string]uint64),
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
	if f.set, err = f.open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.set.Close()) }()
	cp := f.set.Checkpoint()
	lease, err := acquire(ctx, f.o.Site, f.group, holder{Instance: f.o.Instance, Replica: cp.Replica}, f.log)
	if err != nil {
		return fmt.Errorf("acquire lease: %w", err)
	}
	f.log.Info("following", "directory", f.dir, "barrier", cp.Commit.Barrier, "applying", cp.Applying != nil)
	f.recallDamage(ctx)
	if err := f.discover(ctx); err != nil {
		return err
	}
	f.mirrors = NewMirrors(f.o.Site)
	defer f.mirrors.Close()
	g, ctx := errgroup.WithContext(ctx)
	for _, part := range []func(context.Context) error{
		func(ctx context.Context) error { return lease.keep(ctx, f.o.Site) },
		f.keepDiscovering, f.readControl, f.follow, f.publishStatus, f.measureClock, f.retain,
	} {
		g.Go(func() error { return part(ctx) })
	}
	if f.o.Ready != nil {
		f.o.Ready()
	}
	return g.Wait()
}

func (f *Follower) open(ctx context.Context) (*Set, error) {
	o := f.setOptions()
	o.OpenTarget = f.o.OpenTarget
	for _, v := range f.o.Group.Spec.Volumes {
		if v.Replica.Path != "" {
			o.Devices[v.Name] = v.Replica.Path
		}
	}
	o.Hooks = Hooks{
		Read: f.noteRead,
		Written: func(volume string, bytes int64) {
			f.metrics.appliedBytes.Add(context.WithoutCancel(ctx), bytes, f.metrics.of(volume))
		},
		Mismatch: func(volume string, region Extent) {
			f.log.Error("a region differs from its hash", "volume", volume, "offset", region.Offset, "length", region.Length)
			f.metrics.mismatches.Add(context.WithoutCancel(ctx), 1, f.metrics.of(volume))
			f.mu.Lock()
			f.mismatches[volume]++
			f.mu.Unlock()
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

func (f *Follower) setOptions() Options {
	o := Options{Group: f.group, Devices: make(map[string]string), UIDs: make(map[string]string), Log: f.log}
	for _, v := range f.o.Group.Spec.Volumes {
		o.UIDs[v.Name] = v.UID
	}
	return o
}

func (f *Follower) noteRead(volume string, m journal.Message) {
	if h, ok := m.Event.(*events.Heartbeat); ok {
		f.noteBeat(volume, m.Seq, h)
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
