package demo

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// witness looks at the DR site's mirrors on its own account: it takes nobody's word for when a commit
// became recoverable.
type witness struct {
	site  *journal.Site
	group string

	mu     sync.Mutex
	points []arrival
}

// arrival is a commit whose whole vector is stored at the DR site.
type arrival struct {
	barrier   uint64
	committed time.Time // of the cut
	arrived   time.Time
	hold      time.Duration
	objects   bool                 // there are Kubernetes objects in it
	vector    []events.VectorEntry // of the volumes
}

// poll is how often the witness looks, and so what it may add to an RPO.
const poll = 5 * time.Millisecond

// run watches until ctx ends.
func (w *witness) run(ctx context.Context) error {
	err := w.watch(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (w *witness) watch(ctx context.Context) error {
	name, err := w.control(ctx)
	if err != nil {
		return err
	}
	r, err := w.site.OpenReader(ctx, name, 1)
	if err != nil {
		return fmt.Errorf("watch commits: %w", err)
	}
	defer r.Close()
	for {
		m, err := r.Next(ctx)
		if err != nil {
			return fmt.Errorf("watch commits: %w", err)
		}
		c, ok := m.Event.(*events.Commit)
		if !ok {
			continue
		}
		vector := c.Vector
		if c.Objects != nil {
			vector = append(slices.Clone(vector), events.VectorEntry{Volume: journal.Objects, Position: *c.Objects})
		}
		if err := w.until(ctx, func() (bool, error) { return w.stored(ctx, vector) }); err != nil {
			return fmt.Errorf("watch barrier %d: %w", c.Token.Barrier, err)
		}
		w.mu.Lock()
		w.points = append(w.points, arrival{c.Token.Barrier, c.Time, time.Now(), c.Hold, c.Objects != nil, c.Vector})
		w.mu.Unlock()
	}
}

// control waits for the control stream's mirror and returns its name.
func (w *witness) control(ctx context.Context) (name string, err error) {
	err = w.until(ctx, func() (bool, error) {
		streams, err := w.site.Streams(ctx, w.group)
		for _, s := range streams {
			if s.ID.Part == journal.Control {
				name = s.Name
			}
		}
		return name != "", err
	})
	return name, err
}

// stored tells whether the DR site holds everything up to the vector.
func (w *witness) stored(ctx context.Context, vector []events.VectorEntry) (bool, error) {
	streams, err := w.site.Streams(ctx, w.group)
	if err != nil {
		return false, err
	}
	for _, v := range vector {
		if !slices.ContainsFunc(streams, func(s journal.StreamInfo) bool {
			return s.ID.Part == v.Volume && s.ID.Generation == v.Position.Generation && s.Last >= v.Position.Seq
		}) {
			return false, nil
		}
	}
	return true, nil
}

func (w *witness) until(ctx context.Context, holds func() (bool, error)) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		if ok, err := holds(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// newest returns the newest point; ok is false where there is none.
func (w *witness) newest() (a arrival, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.points) == 0 {
		return arrival{}, false
	}
	return w.points[len(w.points)-1], true
}

// during returns the recoverable RPO at every hundredth of a second from one time to the other, and
// the holds of the barriers that arrived meanwhile, both sorted.
func (w *witness) during(from, to time.Time) (rpo, holds []time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return during(w.points, from, to)
}

func during(points []arrival, from, to time.Time) (rpo, holds []time.Duration) {
	for _, p := range points {
		if !p.arrived.Before(from) && !p.arrived.After(to) {
			holds = append(holds, p.hold)
		}
	}
	i := -1
	for t := from; !t.After(to); t = t.Add(10 * time.Millisecond) {
		for i+1 < len(points) && !points[i+1].arrived.After(t) {
			i++
		}
		if i >= 0 {
			rpo = append(rpo, t.Sub(points[i].committed))
		}
	}
	slices.Sort(rpo)
	slices.Sort(holds)
	return rpo, holds
}

// percentile returns the value below or at which p percent of the sorted values are.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	i := int(float64(len(sorted))*p/100+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}
