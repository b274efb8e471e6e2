package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sort"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
)

// ErrNotEmpty means that the directory to recover into holds something.
var ErrNotEmpty = errors.New("the directory is not empty: name a new one, nothing is overwritten")

// progressEvery is how often Progress is told.
const progressEvery = 200 * time.Millisecond

// Progress is how far a replay has come, in bytes of journal and of base. Total is an estimate from
// the number of messages; at the end Done equals it.
type Progress struct {
	Done, Total int64
}

// Options tell what to recover, and where to.
type Options struct {
	Site   *journal.Site // the DR site
	Group  string
	Dir    string // the group's directory at the DR site; need not exist
	Target string // Latest, a time in RFC 3339, a barrier's number, or a label
	Into   string // a directory that is empty or doesn't exist

	Progress func(Progress) // nil: nobody wants to know; called from one goroutine at a time
	Log      *slog.Logger   // nil: silent
}

// Volume is one recovered volume.
type Volume struct {
	Name string `json:"name"`
	Path string `json:"path"`
	Size int64  `json:"size"` // bytes
}

// Result is what was recovered.
type Result struct {
	Point   Point         `json:"point"`
	Volumes []Volume      `json:"volumes"`
	Bytes   int64         `json:"read"` // of journal and base
	Took    time.Duration `json:"took"` // nanoseconds
}

// Run recovers the target point. Every event is verified before it is applied; a damaged or missing
// one is an error that names it, and Into then holds no recovery point. While it runs the
// DR site trims nothing.
func Run(ctx context.Context, o Options) (*Result, error) {
	started := time.Now()
	if err := checkEmpty(o.Into); err != nil {
		return nil, err
	}
	hold, err := holdBase(ctx, o.Dir)
	if err != nil {
		return nil, err
	}
	defer hold.Close()
	h, err := open(ctx, o.Site, o.Group, o.Dir)
	if err != nil {
		return nil, err
	}
	point, err := choose(h.points(), o.Target)
	if err != nil {
		return nil, fmt.Errorf("recover group %s: %w", o.Group, err)
	}
	m := &meter{total: h.estimate(point)}
	stop := m.report(ctx, o.Progress)
	set, err := h.restore(ctx, o, point, m)
	stop()
	if err != nil {
		return nil, fmt.Errorf("recover barrier %d of group %s: %w", point.Barrier, o.Group, err)
	}
	defer set.Close()
	r := &Result{Point: *point, Bytes: m.done.Load(), Took: time.Since(started)}
	for name, v := range set.Checkpoint().Volumes {
		if v.State == replica.Member {
			r.Volumes = append(r.Volumes, Volume{Name: name, Path: set.Path(name), Size: v.Size})
		}
	}
	sort.Slice(r.Volumes, func(i, j int) bool { return r.Volumes[i].Name < r.Volumes[j].Name })
	return r, nil
}

func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("recover into %s: %w", dir, err)
	case len(entries) > 0:
		return fmt.Errorf("recover into %s: %w", dir, ErrNotEmpty)
	}
	return nil
}

// holdBase keeps the beginning of the history where it is. On a machine without the group's directory
// there is no base to hold, and nobody here who trims.
func holdBase(ctx context.Context, dir string) (io.Closer, error) {
	if _, err := os.Stat(dir); err != nil {
		return io.NopCloser(nil), nil
	}
	for {
		hold, err := replica.HoldBase(dir)
		if !errors.Is(err, replica.ErrLocked) {
			return hold, err
		}
		select { // it is being advanced, which ends
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(progressEvery):
		}
	}
}

// restore makes the set in o.Into.
func (h *history) restore(ctx context.Context, o Options, point *Point, m *meter) (*replica.Set, error) {
	if h.base != nil {
		if err := replica.Clone(ctx, replica.BaseDir(h.dir), o.Into, m.add); err != nil {
			return nil, err
		}
	}
	set, err := replica.Open(o.Into, replica.Options{
		Group: o.Group, Log: o.Log,
		Hooks: replica.Hooks{Read: func(_ string, msg journal.Message) { m.add(int64(msg.Size)) }},
	})
	if err != nil {
		return nil, err
	}
	if err := set.Fill(ctx, h, point.commit); err != nil {
		return nil, errors.Join(err, set.Close())
	}
	return set, nil
}

// Open implements replica.Source with the mirrors.
func (h *history) Open(ctx context.Context, id journal.StreamID, from uint64) (replica.Reader, error) {
	m, ok := h.mirrors[id]
	if !ok {
		return nil, fmt.Errorf("stream %s has no mirror here", id.Name())
	}
	return h.site.OpenReader(ctx, m.Name, from)
}

// estimate returns about how many bytes restoring point reads.
func (h *history) estimate(point *Point) int64 {
	total := int64(0)
	for _, v := range point.commit.Vector {
		m := h.mirrors[journal.StreamID{Group: h.group, Part: v.Volume, Generation: v.Position.Generation}]
		if start := h.start(v.Volume, v.Position.Generation); m.Messages > 0 && v.Position.Seq >= start {
			total += int64(float64(m.Bytes) / float64(m.Messages) * float64(v.Position.Seq-start+1))
		}
	}
	if h.base == nil {
		return total
	}
	for name := range h.base.Volumes {
		if st, err := os.Stat(replica.VolumePath(replica.BaseDir(h.dir), name)); err == nil {
			total += allocated(st)
		}
	}
	return total
}

func allocated(st os.FileInfo) int64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return sys.Blocks * 512
	}
	return st.Size()
}

// meter counts what is read.
type meter struct {
	done  atomic.Int64
	total int64
}

func (m *meter) add(n int64) { m.done.Add(n) }

// report tells progress until the result is called.
func (m *meter) report(ctx context.Context, tell func(Progress)) (stop func()) {
	if tell == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				done := m.done.Load()
				tell(Progress{Done: done, Total: max(done, m.total)})
			}
		}
	}()
	return func() {
		cancel()
		<-ended
		done := m.done.Load()
		tell(Progress{Done: done, Total: done})
	}
}
