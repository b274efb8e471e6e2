package statusview

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

// ErrNone tells that no applier wrote a status yet.
var ErrNone = errors.New("no status yet: is the group's applier running?")

// Read reads the status of a group at its DR site. A group that has none yet gives ErrNone.
func Read(ctx context.Context, site *journal.Site, name string) (*group.Status, error) {
	none := fmt.Errorf("group %s at %s: %w", name, site.Conn().ConnectedUrlRedacted(), ErrNone)
	kv, err := site.JetStream().KeyValue(ctx, group.StatusBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, none
	}
	if err != nil {
		return nil, fmt.Errorf("read status of group %s: %w", name, err)
	}
	entry, err := kv.Get(ctx, name)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, none
	}
	if err != nil {
		return nil, fmt.Errorf("read status of group %s: %w", name, err)
	}
	var st group.Status
	if err := json.Unmarshal(entry.Value(), &st); err != nil {
		return nil, fmt.Errorf("decode status of group %s: %w", name, err)
	}
	return &st, nil
}
