// Package release is how an operator asks a group's applier to take over: to undo what keeps the group's objects at
// the DR site from acting.
//
// The applier does the work, so there is one code path. That a release was asked for is durable, at the DR site,
// before the first object is touched: an applier that is started again goes on with it, and never holds
// again what was released. Requests are core NATS at the DR site; each can be repeated.
package release

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/rebuild"
)

// ErrUnavailable means that no applier of the group answers at this site.
var ErrUnavailable = errors.New("no applier answers")

// ErrNone means that the applier has no objects to release: it captures none, applies to no API server, or has seen no commit.
var ErrNone = errors.New("nothing to release")

// Record is what is durable about a group's release.
type Record struct {
	Mode  rebuild.Mode `json:"mode"`
	Since time.Time    `json:"since"` // when the release was asked for; zero in ModeStandby
	Point group.Point  `json:"point"` // that the objects were released at
	// Refused is what the API server had refused when the release ended, the first few hundred.
	Refused []rebuild.Step `json:"refused,omitempty"`
}

// maxRefused bounds a record, and an answer.
const maxRefused = 300

// RecordOf is what is to be durable of a release.
func RecordOf(p rebuild.Progress) Record {
	return Record{Mode: p.Mode, Since: p.Since, Point: p.Point, Refused: p.Failed[:min(len(p.Failed), maxRefused)]}
}

// Progress is the inverse of RecordOf, for Rebuilder.Resume.
func (r Record) Progress() rebuild.Progress {
	return rebuild.Progress{Mode: r.Mode, Since: r.Since, Point: r.Point, Failed: r.Refused}
}

func recordKey(groupName string) string { return groupName + ".release" }

// Load returns the group's record; one of ModeStandby where there is none.
func Load(ctx context.Context, dr *journal.Site, groupName string) (Record, error) {
	standby := Record{Mode: rebuild.ModeStandby}
	kv, err := dr.JetStream().KeyValue(ctx, group.StatusBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return standby, nil
	}
	if err != nil {
		return Record{}, fmt.Errorf("read record of the release: %w", err)
	}
	entry, err := kv.Get(ctx, recordKey(groupName))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return standby, nil
	}
	if err != nil {
		return Record{}, fmt.Errorf("read record of the release: %w", err)
	}
	var r Record
	if err := json.Unmarshal(entry.Value(), &r); err != nil {
		return Record{}, fmt.Errorf("read record of the release: %w", err)
	}
	return r, nil
}

// Save makes record durable.
func Save(ctx context.Context, dr *journal.Site, groupName string, record Record) error {
	kv, err := dr.KV(ctx, group.StatusBucket, 0)
	if err != nil {
		return fmt.Errorf("keep record of the release: %w", err)
	}
	body, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("keep record of the release: %w", err)
	}
	if _, err := kv.Put(ctx, recordKey(groupName), body); err != nil {
		return fmt.Errorf("keep record of the release: %w", err)
	}
	return nil
}

// Applier is what answers.
type Applier interface {
	// Plan tells what a release would do. It may take as many milliseconds as there are objects, times a few.
	Plan(ctx context.Context) (*rebuild.Plan, error)
	// Begin makes the release durable and starts it, unless it was started before; it doesn't wait for its end. A release that
	// ended with refusals is gone on with.
	Begin(ctx context.Context) error
	// Progress tells how far the release is; its Mode is ModeStandby before.
	Progress(ctx context.Context) (rebuild.Progress, error)
}

// pollEvery is the time between two questions of Run.
const pollEvery = 250 * time.Millisecond

// Run begins a release and waits for its end, that is until Progress tells ModeReleased. progress, if not
// nil, is called as it goes on. Cancelling ctx ends the wait, not the release; nor does an applier that is started again.
func Run(ctx context.Context, a Applier, progress func(rebuild.Progress)) (rebuild.Progress, error) {
	if err := a.Begin(ctx); err != nil {
		return rebuild.Progress{}, err
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var last rebuild.Progress
	for {
		p, err := a.Progress(ctx)
		switch {
		case err == nil:
			last = p
			if progress != nil {
				progress(p)
			}
			if p.Mode == rebuild.ModeReleased {
				return p, nil
			}
		case !errors.Is(err, ErrUnavailable):
			return last, err
		}
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-tick.C:
		}
	}
}
