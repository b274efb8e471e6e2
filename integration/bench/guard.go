package main

import "context"

// guarded runs the case.
func (m *measuring) guarded(ctx context.Context) error { return m.c.run(ctx, m) }
