package barrier

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/farshore/farshore/pkg/events"
)

// RequestMark asks the group's snapshotter for a labelled barrier now and returns its commit,
// which is stored in the control stream.
func RequestMark(ctx context.Context, conn *nats.Conn, group, label string, timeout time.Duration) (*events.Commit, error) {
	return nil, ErrNoSnapshotter
}
