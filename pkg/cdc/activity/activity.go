package activity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// RegionSize is the length in bytes of the regions that the log lists; the last one of a volume may be
// shorter.
const RegionSize = 4 << 20

// MaxRegions is how many regions one Begin may touch; longer mutations are split, best at multiples of
// RegionSize.
const MaxRegions = 32

// DefaultHot is how many regions can be hot where Options doesn't tell, and DefaultKeep how long
// a region that was covered stays listed with its sequence.
const (
	DefaultHot  = 1024
	DefaultKeep = 10 * time.Minute
)

// Options are what a log is opened with.
type Options struct {
	Path string // of the log's file; its directory is made. Path + ".new" and Path + ".lock" belong to the log too
	UID  string // of the volume: the log of another one is foreign
	Size int64  // of the device, in bytes

	// Hot is how many regions can be hot: what a crash makes to be sent again is at most Hot*RegionSize,
	// beside what was stale before. 0: DefaultHot. No fewer than MaxRegions.
	Hot int
	// Keep is how long a covered region stays listed with the sequence that covered it. 0: DefaultKeep.
	Keep time.Duration
	// Flush makes what was written to the device durable. It is called from within Begin, Run and Close, and
	// so must not wait for what a caller of Begin holds. Nil: only FlushBegun and Flushed tell of flushes.
	Flush func() error
	// Modified tells when the device was last changed, if that can be told. A log that was closed remembers
	// it, and doesn't fit a device that was changed since. Nil: not checked.
	Modified func() (time.Time, error)

	FS         FS               // nil: OS
	Now        func() time.Time // nil: time.Now
	Log        *slog.Logger     // nil: none
	Meter      metric.Meter     // nil: no metrics
	Attributes attribute.Set    // of the metrics

	small bool // for tests: a file of few sectors, and any Hot
}

// Stream is what a log is kept against: the sequences that it knows are of this stream.
type Stream struct {
	Generation uint32
	Created    time.Time // of the stream, as its server tells
	Epoch      uint64    // of the writer that adopted it
}

// ErrClosed is what a closed log answers.
var ErrClosed = errors.New("the activity log is closed")

// Log is the activity log of one volume. Its methods may be called concurrently.
type Log struct {
	o      Options
	eighth int // of Hot: how many regions are cleared at once
	lock   io.Closer
	store  *store

	mu      sync.Mutex
	closed  bool
	fresh   string // why the log began anew
	size    int64
	regions uint32

	listed bitmap // durably dirty, and nothing was written that says otherwise
	stale  bitmap
	taken  bitmap // of stale: given out by NextStale, and nothing made it stale since

	hot   map[uint32]*entry // regions that are hot, and stale ones that are pinned
	peak  int               // of len(hot) since the map was made
	lru   lru               // of the hot ones only
	spare *entry            // a few entries to use again
	room  []*roomWait       // who waits for room in lru, in their order

	stored   uint64 // the highest place that is stored
	last     uint64 // the highest place heard of
	places   places
	flushes  flushes
	flushing bool // by the log itself

	tenure Stream
	acked  uint64
	noted  uint64 // acked as it was last written
	seeded bool
	recent recents

	sets    []uint32 // regions to list with the next commit
	clears  []cover  // regions to take off the list with it
	urgent  bool     // something beside sets has to become durable soon
	whole   bool     // the next commit writes everything
	next    *batch   // gathers who waits for the next commit
	writing bool

	tick  uint32 // seconds that Run has seen
	work  chan struct{}
	count counters
	stop  func() // takes the metrics back
}

// Open opens the log of a volume, or begins it anew with every region stale: where there is none,
// where it is damaged or foreign, or where its device was changed behind a log that was closed. What
// was hot is stale now.
func Open(o Options) (*Log, error) {
	if o.Size <= 0 || o.Size/RegionSize >= 1<<31 {
		return nil, fmt.Errorf("open activity log %s: a device of %d bytes", o.Path, o.Size)
	}
	o = o.withDefaults()
	l := &Log{
		o: o, eighth: max(1, o.Hot/8), hot: make(map[uint32]*entry), flushes: flushes{begun: 1},
		work: make(chan struct{}, 1), places: newPlaces(),
	}
	l.lru.init()
	if err := l.load(); err != nil {
		return nil, err
	}
	stop, err := l.observe(o.Meter)
	if err != nil {
		return nil, errors.Join(err, l.release())
	}
	l.stop = stop
	return l, nil
}

func (o Options) withDefaults() Options {
	if o.Hot <= 0 {
		o.Hot = DefaultHot
	}
	if !o.small {
		o.Hot = max(o.Hot, MaxRegions)
	}
	if o.Keep <= 0 {
		o.Keep = DefaultKeep
	}
	if o.FS == nil {
		o.FS = OS{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Fresh tells whether nothing is known of what a stream holds of the volume, and why: the log began anew
// when it was opened, or no stream was ever adopted with it.
func (l *Log) Fresh() (reason string, fresh bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fresh, l.fresh != ""
}

// Tenure returns the stream that the log is kept against, and the highest sequence known to have been
// acknowledged there; what was acknowledged in the last second before a crash may be missing.
func (l *Log) Tenure() (s Stream, acked uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tenure, l.acked
}

// Adopt notes, durably, the stream that the log is kept against from now on. Where it is another stream
// than before (and not only another epoch of it), no region is listed with a sequence any more, and places
// that are stored by now count as what the stream is founded on.
func (l *Log) Adopt(s Stream) error {
	l.mu.Lock()
	if s.Generation != l.tenure.Generation || !s.Created.Equal(l.tenure.Created) {
		l.acked = 0
		l.recent = recents{}
		l.places.restart(l.stored)
		l.taken.empty() // what was sent of them is not in this stream
		for i := range l.clears {
			l.clears[i].seq = 0
		}
	}
	l.tenure = s
	return l.commitLocked()
}

// Seeded tells whether SetSeeded was called since the log began anew.
func (l *Log) Seeded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seeded
}

// SetSeeded notes, durably, that the volume was sent as a whole once.
func (l *Log) SetSeeded() error {
	l.mu.Lock()
	l.seeded = true
	return l.commitLocked()
}

// Size is how long the device is, in bytes, as far as the log knows.
func (l *Log) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size
}

// Grow notes, durably, that the device has become longer. With stale, what was added may hold
// anything; else it is known to read as zero on both sides.
func (l *Log) Grow(size int64, stale bool) error {
	l.mu.Lock()
	if size < l.size || size/RegionSize >= 1<<31 {
		defer l.mu.Unlock()
		return fmt.Errorf("grow activity log %s from %d to %d bytes: not a growth", l.o.Path, l.size, size)
	}
	old := l.size
	l.resize(size)
	if stale && size > old {
		for r := uint32(old / RegionSize); r < l.regions; r++ {
			l.setStale(r)
		}
	}
	return l.commitLocked()
}

func (l *Log) resize(size int64) {
	l.size, l.regions = size, uint32((size+RegionSize-1)/RegionSize)
	for _, b := range []*bitmap{&l.listed, &l.stale, &l.taken} {
		b.grow(l.regions)
	}
	l.whole = true
}

// span returns the regions that a range touches.
func (l *Log) span(off, length int64) (first, end uint32, err error) {
	if off < 0 || length < 0 || length > l.size || off > l.size-length {
		return 0, 0, fmt.Errorf("activity log %s: %d bytes at %d of %d", l.o.Path, length, off, l.size)
	}
	if length == 0 {
		return 0, 0, nil
	}
	return uint32(off / RegionSize), uint32((off+length-1)/RegionSize) + 1, nil
}

// Close clears what can be cleared, notes that the log was closed, and ends it. Mutations that haven't
// ended keep their regions listed.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	for _, w := range l.room {
		w.wake()
	}
	if l.lru.n > 0 {
		l.flushDevice()
	}
	l.evict(l.lru.n)
	b := l.join(true)
	l.mu.Unlock()
	err := l.await(context.Background(), b)
	l.stop()
	return errors.Join(err, l.release())
}

// commitLocked makes everything that was noted durable. It is called with l.mu held and lets go of it.
func (l *Log) commitLocked() error {
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.urgent = true
	b := l.join(true)
	l.mu.Unlock()
	return l.await(context.Background(), b)
}
