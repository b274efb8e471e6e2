package replicatest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/repair"
)

// Capturer answers for the capturer of a part, as far as its streams are concerned; what else it is asked for it notes.
type Capturer struct {
	rig  *Rig
	part string

	mu      sync.Mutex
	healed  []repair.Range
	renewed []string // reasons
	paused  time.Time
	pauses  int
}

var _ repair.Capture = (*Capturer)(nil)

// Capturer begins to answer for a part's capturer, until the test ends.
func (r *Rig) Capturer(part string) *Capturer {
	r.t.Helper()
	c := &Capturer{rig: r, part: part}
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	done := make(chan error, 1)
	go func() { done <- repair.ServeCapture(ctx, r.Pair.Primary.Conn(), r.Group, part, c) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("the capturer of %s ended with %v", part, err)
		}
	})
	return c
}

// Healed returns the ranges that were asked for.
func (c *Capturer) Healed() []repair.Range {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]repair.Range(nil), c.healed...)
}

// Renewed returns the reasons for which a new generation was asked for.
func (c *Capturer) Renewed() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.renewed...)
}

// Paused returns until when the mirror is to be paused, and how often it was asked.
func (c *Capturer) Paused() (until time.Time, asked int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paused, c.pauses
}

// Heal implements repair.Capture.
func (c *Capturer) Heal(_ context.Context, ranges []repair.Range) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.healed = append(c.healed, ranges...)
	return nil
}

// Incarnate implements repair.Capture.
func (c *Capturer) Incarnate(ctx context.Context, generation uint32, n int, from uint64) error {
	id := journal.StreamID{Group: c.rig.Group, Part: c.part, Generation: generation}
	err := c.rig.Pair.Primary.EnsureIncarnation(ctx, id, n, from)
	var gap *journal.GapError
	if errors.As(err, &gap) {
		return fmt.Errorf("%w: %w", repair.ErrGone, err)
	}
	return err
}

// Pause implements repair.Capture.
func (c *Capturer) Pause(ctx context.Context, generation uint32, until time.Time) error {
	c.mu.Lock()
	c.paused, c.pauses = until, c.pauses+1
	c.mu.Unlock()
	return c.rig.Pair.Primary.PauseMirror(ctx, journal.StreamID{Group: c.rig.Group, Part: c.part, Generation: generation}, until)
}

// Renew implements repair.Capture: the test does it.
func (c *Capturer) Renew(_ context.Context, _ uint32, reason string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.renewed = append(c.renewed, reason)
	return nil
}

// Scrub implements repair.Capture.
func (c *Capturer) Scrub(context.Context) (repair.Scrub, error) {
	return repair.Scrub{}, repair.ErrRefused
}

// Scrubbed implements repair.Capture.
func (c *Capturer) Scrubbed(context.Context, uint64) (repair.Scrub, error) {
	return repair.Scrub{}, repair.ErrRefused
}

// Found asks the recovery site where a part's history can go on, until it can tell.
func (r *Rig) Found(part string) repair.Foundation {
	r.t.Helper()
	var found repair.Foundation
	Eventually(r.t, "the DR site tells where "+part+" can go on", func() (err error) {
		found, err = repair.RecoveryOf(r.Pair.Primary.Conn(), r.Group).Found(r.t.Context(), part, r.UID(part))
		return err
	})
	return found
}

// RenewOn begins a new generation of a volume on its state at a commit, or, with nil, on a blank one.
func (r *Rig) RenewOn(volume string, c *events.Commit) {
	r.t.Helper()
	r.StopWriter(volume)
	r.Renewed(volume)
	r.open(volume, func(uint64) *events.Epoch {
		e := r.Epoch(volume)
		e.Base = BaseAt(volume, c)
		return e
	})
	r.must(r.Resend(volume, c))
}

// RenewObjectsOn begins a new generation of the objects on their state at a commit, or, with nil, on none.
func (r *Rig) RenewObjectsOn(c *events.Commit) {
	r.t.Helper()
	r.StopWriter(journal.Objects)
	r.Renewed(journal.Objects)
	r.objects.forget()
	r.open(journal.Objects, func(uint64) *events.Epoch {
		e := r.Epoch(journal.Objects)
		e.Base = objectsBase(c)
		return e
	})
	r.must(r.ResendObjects(c != nil))
}

// RenewControl begins a new generation of the control stream.
func (r *Rig) RenewControl(base *events.Base) {
	r.t.Helper()
	r.StopWriter(journal.Control)
	r.Renewed(journal.Control)
	r.open(journal.Control, func(uint64) *events.Epoch { return &events.Epoch{Writer: "snapshotter", Base: base} })
}
