package archiver

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
)

// How often an Archiver does what it does.
const (
	lookEvery    = time.Second     // at the commits that there are
	readEvery    = 5 * time.Minute // the points of the archive, which others prune, too
	retryFirst   = 5 * time.Second
	retryTimes   = 60 // longest pause between two attempts, in shortest ones
	pruneRetry   = 5 * time.Minute
	patience     = 2 * time.Minute        // with a journal that doesn't go on
	snapshotWait = 2 * time.Second        // the replicas wait that long, too
	lockRetry    = 300 * time.Millisecond // of the base
	lostShown    = 24 * time.Hour
	pruneLook    = time.Minute
)

// mostTries is how often a commit that was passed is tried to be built from a journal that doesn't lead there.
const mostTries = 3

// Names in the directory of a group at the DR site.
const (
	scratchDir = "archive-build"  // of points that were passed; it doesn't outlive an attempt
	indexDir   = "archive-index"  // what can be had from the archive again
	prunedFile = "archive-pruned" // its time is that of the last prune
)

// IndexDirectory returns where the group directory dir has what the applier keeps of an archive to find its way in it; it can be
// removed at any time while no applier runs.
func IndexDirectory(dir string) string { return filepath.Join(dir, indexDir) }

// Options shape an Archiver.
type Options struct {
	Site  *journal.Site // the DR site
	Group *group.Group
	// Open opens the group's archive, or makes it.
	Open func(context.Context, *group.Group) (*archive.Archive, error)

	Log   *slog.Logger // nil: silent
	Meter metric.Meter // nil: not measured

	// Retry is how long after a failure the next attempt begins, at first; it doubles up to 60 times as long. 0: 5 s.
	Retry time.Duration
	// Look is how often it is looked for commits that are still to be archived; 0: 1 s.
	Look time.Duration
}

// Archiver archives commits of one group. It is a replica.Archiver.
type Archiver struct {
	o       Options
	group   string
	dir     string
	log     *slog.Logger
	metrics *instruments
	wake    chan struct{} // a token: something changed that Run waits for
	handed  chan handed   // what Reached has taken
	room    func(dir string) error

	// inUse is held shared by whoever uses the open archive, and alone to close it.
	inUse  sync.RWMutex
	open   *archive.Archive
	openAt string // its place

	mu       sync.Mutex
	document *group.Group
	points   []archive.Point    // that the archive has, oldest first
	known    bool               // points were read
	readAt   time.Time          // when that was
	free     bool               // Run waits for a snapshot to be handed over
	failures int                // one behind the other
	at       replica.Commit     // that the replicas are at
	holds    replica.Checkpoint // of the replicas, at that commit
	aheadAt  time.Time          // when what changed was last read ahead
	labeled  []replica.Commit
	looked   uint64 // newest barrier that is, or isn't, in labeled
	tries    map[uint64]*try
	lost     []loss
	running  *run
	pruned   *time.Time
	problems map[string]string // by what can't be done
}

var _ replica.Archiver = (*Archiver)(nil)

// handed is a snapshot that was taken, or why it was not.
type handed struct {
	snapshot *replica.Snapshot
	err      error
}

// try is how often the journal did not lead to a commit.
type try struct {
	n    int
	next time.Time
}

// loss is a commit that can't be archived any more.
type loss struct {
	replica.Commit
	at time.Time
}

// New returns an Archiver of a group; Run makes it work.
func New(o Options) (*Archiver, error) {
	name := o.Group.Metadata.Name
	metrics, err := newInstruments(o.Meter, name)
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Retry, o.Look = cmp.Or(o.Retry, retryFirst), cmp.Or(o.Look, lookEvery)
	return &Archiver{
		o: o, group: name, dir: filepath.Join(o.Group.Spec.Recovery.Directory, name), log: o.Log, metrics: metrics,
		wake: make(chan struct{}, 1), handed: make(chan handed, 1), document: o.Group,
		room: roomLeft, tries: make(map[uint64]*try), problems: make(map[string]string),
	}, nil
}

// Update makes the archiver go by a changed document of the same group, at once: what is archived to a place that the document doesn't name
// any more is given up. It may be called at any time; g is not to be changed any more.
func (a *Archiver) Update(g *group.Group) {
	a.mu.Lock()
	a.document = g
	a.mu.Unlock()
	a.poke()
}

func (a *Archiver) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// place tells where the archive is, so that it can be compared; "": there is none.
func place(g *group.Group) string {
	spec := g.Spec.Recovery.Archive
	if spec == nil {
		return ""
	}
	body, _ := json.Marshal([]any{g.ArchiveDirectory(), spec.S3, spec.Recipients, spec.Identities})
	return string(body)
}

// spec returns what the document says of the archive; nil: there is none. a.mu is held.
func (a *Archiver) spec() *group.Archive { return a.document.Spec.Recovery.Archive }

// policy returns what is kept.
func policy(spec *group.Archive) archive.Policy {
	k := spec.Keep
	return archive.Policy{
		Last: k.Last, Hourly: k.Hourly, Daily: k.Daily, Weekly: k.Weekly, Monthly: k.Monthly, Yearly: k.Yearly,
		Within: time.Duration(k.Within), Labels: k.Labels,
	}
}

// newest returns the newest point by its commit's time; nil: there is none. a.mu is held.
func (a *Archiver) newest() *archive.Point {
	var newest *archive.Point
	for i := range a.points {
		if p := &a.points[i]; newest == nil || p.Time.After(newest.Time) {
			newest = p
		}
	}
	return newest
}

// has tells whether the archive has a point of a barrier; a.mu is held.
func (a *Archiver) has(barrier uint64) bool {
	return slices.ContainsFunc(a.points, func(p archive.Point) bool { return p.Barrier == barrier })
}

// wants tells whether a commit is to be archived that is not yet; a.mu is held, and the points are known.
func (a *Archiver) wants(c replica.Commit) bool {
	spec := a.spec()
	switch {
	case spec == nil || a.has(c.Barrier):
		return false
	case a.wantsLabel(c):
		return true
	case spec.Every == 0:
		return false
	}
	newest := a.newest()
	return newest == nil || c.Time.Sub(newest.Time) >= time.Duration(spec.Every)
}

// wantsLabel tells whether a commit is to be archived for its label. One that would be removed at once isn't: where it was archived and
// removed, it is not archived again.
func (a *Archiver) wantsLabel(c replica.Commit) bool {
	spec := a.spec()
	if spec == nil || !spec.Labeled || c.Label == "" || a.has(c.Barrier) || slices.ContainsFunc(a.lost, func(l loss) bool { return l.Commit == c }) {
		return false
	}
	candidate := archive.Point{Barrier: c.Barrier, Time: c.Time, Kind: c.Kind, Label: c.Label}
	all := append(slices.Clone(a.points), candidate)
	slices.SortStableFunc(all, func(x, y archive.Point) int { return x.Time.Compare(y.Time) })
	for _, k := range policy(spec).Apply(all) {
		if k.Point.Barrier == c.Barrier && len(k.Reasons) > 0 {
			return true
		}
	}
	return false
}

// Wanted implements replica.Archiver.
func (a *Archiver) Wanted(c replica.Commit) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.free && a.wants(c)
}

// Reached implements replica.Archiver: it takes a snapshot where the commit is to be archived and nothing else is being archived.
func (a *Archiver) Reached(ctx context.Context, s *replica.Set) {
	cp := s.Checkpoint()
	c := cp.Commit
	a.mu.Lock()
	a.at, a.holds = c, cp
	take := a.free && a.wants(c)
	if take {
		a.free = false // whoever waits takes what is handed over
	}
	a.mu.Unlock()
	if !take {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, snapshotWait)
	defer cancel()
	snapshot, err := s.Snapshot(ctx, a.dir)
	a.handed <- handed{snapshot, err}
}

// Needs implements replica.Archiver. What is needed is the way from the newest point before the oldest labelled commit that is not archived,
// or, where there is no such point, from that commit on: the base is before it then. What was not looked at yet may be labelled.
func (a *Archiver) Needs() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	spec := a.spec()
	if spec == nil || !spec.Labeled {
		return 0
	}
	needs := max(a.looked, 1)
	for _, c := range a.labeled {
		if a.known && !a.wantsLabel(c) {
			continue
		}
		needs = min(needs, c.Barrier)
		break
	}
	if needs == a.looked || !a.known {
		return needs
	}
	from := uint64(0)
	for _, p := range a.points {
		if p.Barrier < needs {
			from = max(from, p.Barrier)
		}
	}
	if from > 0 {
		return from
	}
	return needs
}
