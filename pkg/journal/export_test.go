package journal

import (
	"context"

	"github.com/nats-io/nats.go"
)

// TrimTo lets tests trim at once: the margin is at least a minute otherwise.
func (w *Writer) TrimTo(ctx context.Context, margin uint64) error { return w.trimTo(ctx, margin) }

// DeleteOlder lets tests delete older generations at once.
func (w *Writer) DeleteOlder(ctx context.Context) error { return w.deleteOlder(ctx) }

// Message returns what the writer would send as seq.
func (w *Writer) Message(data []byte, seq uint64) *nats.Msg { return w.chain.message(data, seq, "") }

// Fed returns up to where the DR site is known to have stored the stream; 0 while that can't be asked.
func Fed(ctx context.Context, s *Site, id StreamID) uint64 {
	seq, err := s.fed(ctx, id)
	if err != nil {
		return 0
	}
	return seq
}
