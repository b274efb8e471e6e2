package archive

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"
)

// Cost is what restoring takes.
type Cost struct {
	Bytes    int64 // to be read from the store
	Requests int64
	// Rate is what the store gave of a sample, in bytes per second; 0: no sample was taken.
	Rate float64
	// Time is how long Bytes take at Rate.
	Time time.Duration
}

const (
	sampleRequests = 16
	sampleLimit    = 5 * time.Second // for which a sample is read
)

// Cost tells what restoring parts from the beginning takes. It reads their trees, and a sample of their data, for at most 5 seconds; the
// rate is that at which it was read and verified.
func (a *Archive) Cost(ctx context.Context, parts []Part) (Cost, error) {
	e := estimate{a: a}
	for _, p := range parts {
		cut := newWindows(p.Size, 0, windowChunks, func(w *window) error { return e.window(ctx, w) })
		v := cut.visitor()
		v.enter = func(id ID, level int, first int64) (bool, error) { return true, e.node(ctx, id, level, first) }
		if err := a.walk(ctx, p.Root, p.Size, 0, v); err != nil {
			return Cost{}, err
		}
		if err := errors.Join(cut.flush(), e.flushNodes(ctx)); err != nil {
			return Cost{}, err
		}
	}
	return e.cost, e.measure(ctx)
}

// estimate counts what a restore would read.
type estimate struct {
	a      *Archive
	cost   Cost
	nodes  []ID
	batch  [2]int64 // of nodes: their level, and which one there
	sample []*request
	seen   int // requests for data
}

// count counts what fills a window.
func (e *estimate) count(ctx context.Context, w *window) ([]*request, error) {
	list, err := w.requests(ctx, e.a)
	for _, q := range list {
		e.cost.Bytes += q.end - q.off
		e.cost.Requests++
	}
	return list, err
}

// node counts a node, together with those that a walk reads at once.
func (e *estimate) node(ctx context.Context, id ID, level int, first int64) error {
	if batch := [2]int64{int64(level), first / (lookahead * span(level))}; batch != e.batch {
		if err := e.flushNodes(ctx); err != nil {
			return err
		}
		e.batch = batch
	}
	e.nodes = append(e.nodes, id)
	return nil
}

func (e *estimate) flushNodes(ctx context.Context) error {
	if len(e.nodes) == 0 {
		return nil
	}
	_, err := e.count(ctx, &window{ids: e.nodes})
	e.nodes = nil
	return err
}

// window counts what a window is filled by, and takes some of it for the sample: of all requests, each with the same probability.
func (e *estimate) window(ctx context.Context, w *window) error {
	list, err := e.count(ctx, w)
	for _, q := range list {
		e.seen++
		if len(e.sample) < sampleRequests {
			e.sample = append(e.sample, q)
		} else if i := rand.IntN(e.seen); i < sampleRequests {
			e.sample[i] = q
		}
	}
	return err
}

// measure reads the sample.
func (e *estimate) measure(ctx context.Context) error {
	if len(e.sample) == 0 {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(e.a.requests)
	began := time.Now()
	var bytes int64
	for _, q := range e.sample {
		if time.Since(began) > sampleLimit {
			break
		}
		bytes += q.end - q.off
		g.Go(func() error {
			return e.a.read(ctx, q.reading, q.in, nil, func(int, []byte) error { return nil })
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	e.cost.Rate = float64(bytes) / max(time.Since(began), time.Microsecond).Seconds()
	e.cost.Time = time.Duration(float64(e.cost.Bytes) / e.cost.Rate * float64(time.Second))
	return nil
}
