package journal

import "context"

// TrimTo lets tests trim at once: the margin is at least a minute otherwise.
func (w *Writer) TrimTo(ctx context.Context, margin uint64) error { return w.trimTo(ctx, margin) }
