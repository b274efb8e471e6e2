package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

// Damaged is a message that can't be used: missing, or not what was written. Nothing from it on can be.
type Damaged struct {
	Stream string `json:"stream"` // the mirror
	Seq    uint64 `json:"seq"`
	Reason string `json:"reason"`
}

func damageKey(groupName string) string { return groupName + ".damage" }

// KnownDamage returns what the group's applier found damaged in the mirrors at site and what did not heal
// since. An applier that never ran knows of none.
func KnownDamage(ctx context.Context, site *journal.Site, groupName string) ([]Damaged, error) {
	kv, err := site.JetStream().KeyValue(ctx, group.StatusBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read known damage: %w", err)
	}
	entry, err := kv.Get(ctx, damageKey(groupName))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read known damage: %w", err)
	}
	var out []Damaged
	if err := json.Unmarshal(entry.Value(), &out); err != nil {
		return nil, fmt.Errorf("read known damage: %w", err)
	}
	return out, nil
}

func publishDamage(ctx context.Context, kv jetstream.KeyValue, groupName string, list []Damaged) error {
	if list == nil {
		list = []Damaged{}
	}
	body, err := json.Marshal(list)
	if err != nil {
		return err
	}
	_, err = kv.Put(ctx, damageKey(groupName), body)
	return err
}
