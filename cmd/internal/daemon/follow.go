package daemon

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/farshore/farshore/pkg/group"
)

const (
	// lookEvery is how often the document is looked at; SIGHUP makes it at once.
	lookEvery = 2 * time.Second
	// settled is how long a changed document has to stay as it is before it is read: one that is
	// still being written could be valid and lack volumes.
	settled = 250 * time.Millisecond
)

// Follow calls apply with the document each time that it has changed, until ctx ends; it returns nil then,
// or apply's error. Nothing else than what group.Update lets follow differs from one call to the next.
//
// A document that can't be read, has problems, or changes what can't change while a process runs is
// reported, and the one before stays in force. Follow may be called once.
func (e *Env) Follow(ctx context.Context, apply func(*group.Group) error) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	f := follower{env: e, current: e.Group, seen: e.document}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-e.hangup:
			e.Log.Info("reading the document again, as asked", "document", e.flags.group)
			f.failure, f.seen = "", nil
		}
		if next := f.look(ctx); next != nil {
			if err := apply(next); err != nil {
				return err
			}
		}
	}
}

// follower is the state of Follow.
type follower struct {
	env     *Env
	current *group.Group // in force
	seen    []byte       // the document as it was last read
	failure string       // to read it, as reported
	later   []string     // settings that wait for a start, as reported
}

// look returns the document to follow where it changed, else nil.
func (f *follower) look(ctx context.Context) *group.Group {
	data, err := f.read(ctx)
	if err != nil {
		if ctx.Err() == nil && err.Error() != f.failure {
			f.failure = err.Error()
			f.env.Log.Error("document can't be read, the one before stays in force", "document", f.env.flags.group, "error", err)
		}
		return nil
	}
	f.failure = ""
	if bytes.Equal(data, f.seen) {
		return nil
	}
	f.seen = data
	next, err := group.LoadFrom(f.env.flags.group, data)
	if err == nil {
		var merged *group.Group
		var later []string
		if merged, later, err = f.current.Update(next); err == nil {
			f.current = merged
			f.tell(later)
			return merged
		}
	}
	log := f.env.Log.With("document", f.env.flags.group)
	var problems *group.ProblemsError
	if !errors.As(err, &problems) {
		log.Error("changed document is not used, the one before stays in force", "error", err)
		return nil
	}
	log.Error("changed document is not used, the one before stays in force", "problems", len(problems.Problems))
	for _, p := range problems.Problems {
		log.Error("problem of the changed document", "field", p.Path, "problem", p.Message)
	}
	return nil
}

// read returns the document once it has stayed the same for a moment.
func (f *follower) read(ctx context.Context) ([]byte, error) {
	data, err := os.ReadFile(f.env.flags.group)
	for err == nil && !bytes.Equal(data, f.seen) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(settled):
		}
		var again []byte
		if again, err = os.ReadFile(f.env.flags.group); bytes.Equal(again, data) {
			break
		}
		data = again
	}
	return data, err
}

func (f *follower) tell(later []string) {
	f.env.Log.Info("document changed", "document", f.env.flags.group, "volumes", len(f.current.Spec.Volumes))
	if len(later) > 0 && !slices.Equal(later, f.later) {
		f.env.Log.Warn("changed settings take effect at the next start of this process", "settings", later)
	}
	f.later = later
}

// hangups returns where SIGHUP arrives: without anybody who takes it, it would end the process.
func hangups(ctx context.Context) <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	context.AfterFunc(ctx, func() { signal.Stop(c) })
	return c
}
