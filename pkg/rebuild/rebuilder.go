package rebuild

import (
	"context"

	"github.com/farshore/farshore/pkg/group"
)

// Rebuilder keeps the objects of one group at one API server. Its methods may be called concurrently.
type Rebuilder struct {
	o Options
}

// New returns a Rebuilder. It doesn't reach the API server yet.
func New(o Options) (*Rebuilder, error) { return &Rebuilder{o: o}, nil }

// Want makes state what the API server should hold. at is the state's commit. A state of no commit (Barrier
// 0) is ignored, and so is every state once a release began.
func (r *Rebuilder) Want(state State, at group.Point) {}

// Update makes rules the ones to follow; what they change is applied again.
func (r *Rebuilder) Update(rules Rules) {}

// Plan tells what a release of the newest state would do. It writes nothing.
func (r *Rebuilder) Plan(ctx context.Context) (*Plan, error) { return nil, ErrNoState }

// Release undoes the holding, in the order of Phases, and returns once every object was released or is refused; ctx
// bounds the wait, not the release. From its call on the state is frozen, nothing is held or deleted any more, and what is
// released is not touched again. The caller makes it durable, before, that a release was asked for and calls it again after
// a restart. progress may be nil.
func (r *Rebuilder) Release(ctx context.Context, progress func(Progress)) (Progress, error) {
	return Progress{}, ErrNoState
}

// Once reconciles toward state until every object is in place or refused, and returns those that are refused. It is for a
// Rebuilder that doesn't Run: a replay into an API server. released tells which form is applied.
func (r *Rebuilder) Once(ctx context.Context, state State, at group.Point, released bool) ([]Step, error) {
	return nil, ctx.Err()
}

func (r *Rebuilder) run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
