package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/group"
)

// joinRetry is the pause between two attempts to open a volume that the document got while the capturer
// runs: its device may still be locked by the capturer that had it before.
const joinRetry = time.Second

// errLeft is the cause of a tap's end when the document took the volume away.
var errLeft = errors.New("the document no longer gives the volume to this capturer")

// capturer is the process: its volumes and the budget they share.
type capturer struct {
	env    *daemon.Env
	name   string
	writer string // identity
	state  string // directory of the activity logs
	budget *cdc.Budget
	reads  *cdc.Reservation // in the budget

	group   atomic.Pointer[group.Group] // in force
	taps    taps                        // that are open
	objects *watching                   // nil: no API server is reached

	// The rest belongs to run, and then to apply.
	work    *errgroup.Group
	running map[string]*seat
	leaving map[string]<-chan struct{} // closed once the volume's last tap has let go of it
}

// seat is a volume's place in the process, whether its tap is open yet or not.
type seat struct {
	cancel context.CancelCauseFunc
	done   chan struct{}

	mu   sync.Mutex
	tap  *tap
	size int64 // that the document wants; 0: whatever the device has
}

// run serves the document's volumes until ctx ends or one of them fails for good; then each tap closes
// its front and drains its pipeline: nothing that an application was told is left behind.
func (c *capturer) run(ctx context.Context, volumes []group.Volume) error {
	c.group.Store(c.env.Group)
	c.budget = cdc.NewBudget(int64(c.env.Group.Spec.Capture.Memory))
	c.reads = c.budget.Reserve(outgoing)
	stop, err := c.observe()
	if err != nil {
		return err
	}
	defer stop()
	c.running, c.leaving = make(map[string]*seat), make(map[string]<-chan struct{})
	// All devices are locked before any stream's epoch is raised: whoever has the device is the
	// one that may take the stream.
	var taps []*tap
	for _, v := range volumes {
		t, err := c.open(ctx, v)
		if err != nil {
			for _, t := range taps {
				err = errors.Join(err, t.close())
			}
			return err
		}
		taps = append(taps, t)
	}
	var working context.Context
	c.work, working = errgroup.WithContext(ctx)
	for _, t := range taps {
		c.seat(working, t.volume, t)
	}
	if c.objects != nil {
		c.work.Go(func() error { return c.objects.run(working) })
	} else if c.env.Group.Spec.Objects != nil {
		c.env.Log.Info("the group's objects are left to other capturers: this one was given no Kubernetes API server")
	}
	c.env.Log.Info("ready", "volumes", len(taps))
	c.work.Go(func() error {
		return c.env.Follow(working, func(g *group.Group) error {
			c.apply(working, g)
			return nil
		})
	})
	return c.work.Wait()
}

// seat runs a volume's tap until ctx ends, the document takes it away, or it fails. Without a tap it opens
// one first.
func (c *capturer) seat(ctx context.Context, v group.Volume, t *tap) {
	before := c.leaving[v.Name]
	ctx, cancel := context.WithCancelCause(ctx)
	s := &seat{cancel: cancel, done: make(chan struct{}), tap: t, size: int64(v.Size)}
	c.running[v.Name] = s
	c.work.Go(func() error {
		defer close(s.done)
		defer cancel(nil)
		if t == nil {
			if before != nil {
				<-before
			}
			if t = c.join(ctx, v); t == nil {
				return nil
			}
			s.mu.Lock()
			s.tap = t
			s.mu.Unlock()
		}
		err := t.run(ctx, s.wanted)
		if errors.Is(context.Cause(ctx), errLeft) {
			t.log.Info("volume has left this capturer", "error", err)
			return nil
		}
		return err
	})
}

// wanted is the size that the document gives the volume.
func (s *seat) wanted() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size
}

// join opens a volume that the document got while the capturer runs. What keeps it from being opened is no
// reason to end the others; nil: it was not opened when ctx ended.
func (c *capturer) join(ctx context.Context, v group.Volume) *tap {
	told := ""
	for {
		t, err := c.open(ctx, v)
		if err == nil {
			t.log.Info("volume has joined this capturer")
			return t
		}
		if ctx.Err() == nil && err.Error() != told {
			told = err.Error()
			c.env.Log.Error("volume can't be served yet, trying again", "volume", v.Name, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(joinRetry):
		}
	}
}

// apply makes the process follow a changed document.
func (c *capturer) apply(ctx context.Context, g *group.Group) {
	c.group.Store(g)
	if c.objects != nil {
		c.objects.want(g.Spec.Objects)
	}
	wanted := make(map[string]group.Volume)
	for _, v := range g.VolumesOf(c.name) {
		wanted[v.Name] = v
	}
	for name, s := range c.running {
		if _, ok := wanted[name]; !ok {
			s.cancel(errLeft)
			c.leaving[name] = s.done
			delete(c.running, name)
		}
	}
	for name, v := range wanted {
		s, ok := c.running[name]
		if !ok {
			c.seat(ctx, v, nil)
			continue
		}
		s.mu.Lock()
		s.size = int64(v.Size)
		t := s.tap
		s.mu.Unlock()
		if t != nil {
			t.poke()
		}
	}
}

// open opens and locks a volume's device and its activity log, and binds its address. It doesn't need
// the journal.
func (c *capturer) open(ctx context.Context, v group.Volume) (*tap, error) {
	t, err := newTap(ctx, c, v)
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	return t, nil
}
