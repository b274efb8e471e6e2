package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/cmd/internal/daemon"
	"github.com/farshore/farshore/pkg/cdc"
	"github.com/farshore/farshore/pkg/group"
)

// drainLimit bounds how long an end waits for the journal. What isn't stored by then is on the devices,
// and the pass of the next start sends it.
const drainLimit = 15 * time.Second

// capturer is the process: its volumes and the budget they share.
type capturer struct {
	env     *daemon.Env
	volumes []group.Volume
	writer  string // identity
	state   string // directory of the activity logs
}

func (c *capturer) run(ctx context.Context) (err error) {
	budget := cdc.NewBudget(int64(c.env.Group.Spec.Capture.Memory))
	var taps []*tap
	defer func() {
		for _, t := range taps {
			err = errors.Join(err, t.close())
		}
	}()
	// All devices are locked before any stream's epoch is raised: whoever has the device is the
	// one that may take the stream.
	for _, v := range c.volumes {
		t, err := newTap(c.env, v, c.writer, c.state)
		if err != nil {
			return err
		}
		taps = append(taps, t)
	}
	site, err := c.env.Primary(ctx)
	if err != nil {
		return err
	}
	opening, opened := errgroup.WithContext(ctx)
	for _, t := range taps {
		opening.Go(func() error { return t.attach(opened, site, budget) })
	}
	if err := opening.Wait(); err != nil {
		return err
	}
	return c.serve(ctx, taps)
}

// serve runs pipelines and fronts until ctx ends or one of them fails. Then the fronts are closed
// first and the pipelines drained: nothing that an application was told is left behind.
func (c *capturer) serve(ctx context.Context, taps []*tap) error {
	fronts, closeFronts := context.WithCancel(ctx)
	defer closeFronts()
	pipelines, endPipelines := context.WithCancel(context.WithoutCancel(ctx))
	defer endPipelines()

	var first error
	var once sync.Once
	failed := func(err error) {
		if err != nil {
			once.Do(func() { first = err })
			closeFronts()
		}
	}
	var recording, serving sync.WaitGroup
	for _, t := range taps {
		recording.Go(func() { failed(t.record(pipelines)) })
		serving.Go(func() { failed(t.vote(fronts)) })
		serving.Go(func() { failed(t.export(fronts)) })
	}
	c.env.Log.Info("ready", "volumes", len(taps))
	<-fronts.Done()
	serving.Wait()

	limited, cancel := context.WithTimeout(pipelines, drainLimit)
	defer cancel()
	var draining sync.WaitGroup
	for _, t := range taps {
		draining.Go(func() { failed(t.drain(limited)) })
	}
	draining.Wait()
	endPipelines()
	recording.Wait()
	return first
}
