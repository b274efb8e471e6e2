package archiver

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
)

// aheadEvery is how often it is read ahead what changed, at most.
const aheadEvery = 15 * time.Second

// ahead is what changed of a volume since a point, as far as the journal was read ahead: a snapshot that has to wait for the rest of
// it keeps less.
type ahead struct {
	point uint64         // barrier
	at    replica.Volume // where it was read to
	set   *grid.Set
}

// readAhead reads what changed between the newest point and what the replicas hold, from time to time. It is memory alone: what is not
// known of it is read when it is needed.
func (w *worker) readAhead(ctx context.Context) {
	w.mu.Lock()
	cp, newest := w.holds, w.newest()
	due := newest != nil && time.Since(w.aheadAt) >= min(aheadEvery, 15*w.o.Look) && cp.Commit.Barrier > newest.Barrier
	var p archive.Point
	if due {
		p, w.aheadAt = *newest, time.Now()
	}
	w.mu.Unlock()
	if !due {
		return
	}
	was, err := Checkpoint(p)
	if err != nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(cp.Volumes)) {
		now, before := cp.Volumes[name], was.Volumes[name]
		if name == journal.Objects || before.Seq == 0 || now.State != replica.Member || before.UID != now.UID {
			delete(w.ahead, name)
			continue
		}
		if _, err := w.changes(ctx, p.Barrier, name, before, now); err != nil {
			w.log.Debug("what changed was not read ahead", "volume", name, "error", err)
			return
		}
	}
}

// changes returns what changed of a volume between a point and now; nil: it can't be told. What was read before isn't read again.
func (w *worker) changes(ctx context.Context, point uint64, name string, was, now replica.Volume) (*grid.Set, error) {
	a := w.ahead[name]
	if a == nil || a.point != point {
		a = &ahead{point: point, at: was, set: grid.New(was.Size)}
	}
	rest, err := w.between(ctx, name, a.at, now)
	if err != nil {
		return nil, err
	}
	delete(w.ahead, name)
	if rest == nil && a.at.Barrier != was.Barrier { // it went on from somewhere else since
		a = &ahead{point: point, set: grid.New(was.Size)}
		rest, err = w.between(ctx, name, was, now)
	}
	if rest == nil || err != nil {
		return nil, err
	}
	for c := range a.set.All() {
		rest.Add(c)
	}
	w.ahead[name] = &ahead{point: point, at: now, set: rest}
	return rest.Clone(), nil
}

// between is replica.Changes. A journal that doesn't go on to where it led can't tell either.
func (w *worker) between(ctx context.Context, name string, from, to replica.Volume) (*grid.Set, error) {
	set, err := replica.Changes(ctx, w.source, w.group, name, from, to)
	if errors.Is(err, errStalled) {
		w.log.Warn("what changed can't be told: the journal did not go on where it went on before", "volume", name, "barrier", to.Barrier)
		return nil, nil
	}
	return set, err
}
