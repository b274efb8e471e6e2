// Package release is how an operator asks a group's applier to take over: to undo what keeps the group's objects at
// the DR site from acting.
//
// The applier does the work, so there is one code path. That a release was asked for is durable, at the DR site,
// before the first object is touched: an applier that is started again goes on with it, and never holds
// again what was released. Requests are core NATS at the DR site; each can be repeated.
package release

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/rebuild"
)

// ErrUnavailable means that no applier of the group answers at this site.
var ErrUnavailable = errors.New("no applier answers")

// Record is what is durable about a group's release.
type Record struct {
	Mode  rebuild.Mode `json:"mode"`
	Since time.Time    `json:"since"` // when Mode was entered
	Point group.Point  `json:"point"` // that the objects were released at
	// Refused is what the API server had refused when the release ended.
	Refused []rebuild.Step `json:"refused,omitempty"`
}

// Load returns the group's record; one of ModeStandby where there is none.
func Load(ctx context.Context, dr *journal.Site, groupName string) (Record, error) {
	return Record{Mode: rebuild.ModeStandby}, ctx.Err()
}

// Save makes record durable.
func Save(ctx context.Context, dr *journal.Site, groupName string, record Record) error {
	return ctx.Err()
}

// Applier is what answers.
type Applier interface {
	// Plan tells what a release would do.
	Plan(ctx context.Context) (*rebuild.Plan, error)
	// Begin makes the release durable and starts it, unless it was started before; it doesn't wait for its end.
	Begin(ctx context.Context) error
	// Progress tells how far the release is; its Mode is ModeStandby before.
	Progress(ctx context.Context) (rebuild.Progress, error)
}

// Serve answers for a group's applier until ctx ends; it returns nil then.
func Serve(ctx context.Context, conn *nats.Conn, groupName string, a Applier) error {
	<-ctx.Done()
	return nil
}

// ApplierOf returns the applier of a group as the operator's command asks it, through a connection to the DR site.
func ApplierOf(conn *nats.Conn, groupName string) Applier { return nil }

// Run begins a release and waits for its end, that is until Progress tells ModeReleased. progress, if not
// nil, is called as it goes on. Cancelling ctx ends the wait, not the release.
func Run(ctx context.Context, a Applier, progress func(rebuild.Progress)) (rebuild.Progress, error) {
	return rebuild.Progress{}, ctx.Err()
}
