package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/journal"
)

// The lease that admits one applier to a group. It lives a little longer than three renewals, so
// that a restarted server takes it from nobody.
const (
	leaseBucket = "farshore-leases"
	leaseTTL    = 10 * time.Second
	leaseRenew  = 3 * time.Second
)

// ErrLeaseLost means that another applier works on the group: this one must not trim anything any more.
var ErrLeaseLost = errors.New("another applier has the group's lease")

// holder is the content of a lease.
type holder struct {
	Instance string `json:"instance"`
	Replica  string `json:"replica"` // UUID of the set: whoever has it locked is the one that may go on
}

// lease is the right to follow a group.
type lease struct {
	kv       jetstream.KeyValue
	key      string
	me       holder
	revision uint64
	log      *slog.Logger
}

// acquire waits until nobody else holds the lease. One of the same set is taken over at once: its holder
// is gone, or it would have the set locked.
func acquire(ctx context.Context, site *journal.Site, group string, me holder, log *slog.Logger) (*lease, error) {
	l := &lease{key: group, me: me, log: log}
	told := ""
	for {
		other, err := l.try(ctx, site)
		if err == nil {
			return l, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if reason := err.Error() + other.Instance; reason != told {
			log.Warn("waiting for the group's lease", "holder", other.Instance, "error", err)
			told = reason
		}
		if !sleep(ctx, time.Second) {
			return nil, ctx.Err()
		}
	}
}

func (l *lease) try(ctx context.Context, site *journal.Site) (other holder, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if l.kv == nil {
		if l.kv, err = site.KV(ctx, leaseBucket, leaseTTL); err != nil {
			return other, err
		}
	}
	body, err := json.Marshal(l.me)
	if err != nil {
		return other, err
	}
	l.revision, err = l.kv.Create(ctx, l.key, body)
	if !errors.Is(err, jetstream.ErrKeyExists) {
		return other, err
	}
	entry, err := l.kv.Get(ctx, l.key)
	if err != nil {
		return other, err
	}
	if err := json.Unmarshal(entry.Value(), &other); err != nil {
		return other, fmt.Errorf("read lease: %w", err)
	}
	if other.Replica != l.me.Replica {
		return other, ErrLeaseLost
	}
	l.revision, err = l.kv.Update(ctx, l.key, body, entry.Revision())
	return other, err
}

// keep renews the lease until ctx ends, then gives it back. A server that doesn't answer is waited for;
// somebody else's lease is ErrLeaseLost.
func (l *lease) keep(ctx context.Context, site *journal.Site) error {
	body, err := json.Marshal(l.me)
	if err != nil {
		return err
	}
	for sleep(ctx, leaseRenew) {
		attempt, cancel := context.WithTimeout(ctx, requestTimeout)
		revision, err := l.kv.Update(attempt, l.key, body, l.revision)
		if err == nil {
			l.revision = revision
		} else if _, retry := l.try(attempt, site); errors.Is(retry, ErrLeaseLost) {
			cancel()
			return retry
		}
		cancel()
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := l.kv.Delete(last, l.key, jetstream.LastRevision(l.revision)); err != nil {
		l.log.Debug("the lease runs out by itself", "error", err)
	}
	return nil
}

// sleep waits; it tells whether ctx lives.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
