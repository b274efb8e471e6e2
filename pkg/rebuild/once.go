package rebuild

import (
	"context"
	"time"
)

// Once reconciles toward state until every object is in place or was refused often enough, deletes what an earlier call
// made that state doesn't have, and returns what is refused. It is for a Rebuilder that doesn't Run: a replay into an API server.
// released tells which form is applied; what is applied in that form is never touched again. An API server that is down is an error.
func (r *Rebuilder) Once(ctx context.Context, state State, released bool) ([]Step, error) {
	rec := r.reconciler()
	f := formHeld
	if released {
		f = formReleased
	}
	r.mu.Lock()
	rules := r.rules
	r.mu.Unlock()
	rec.adopt(state, rules, f, true)
	if err := rec.look(ctx); err != nil {
		return nil, err
	}
	for {
		if err := rec.pass(ctx); err != nil {
			return nil, err
		}
		if err := rec.sweep(ctx); err != nil {
			return nil, err
		}
		if rec.spent() {
			break
		}
		if err := pause(ctx, firstRetry/4); err != nil {
			return nil, err
		}
	}
	rec.tell()
	return rec.failures(), nil
}

// failures are the objects that are refused.
func (r *reconciler) failures() (out []Step) {
	for _, id := range sortedTargets(r.items) {
		it := r.items[id]
		if it.refusal == "" {
			continue
		}
		s := Step{Object: refOf(it.entry.Key), Refused: it.refusal}
		if it.p != nil {
			s.Object, s.Phase = it.p.ref, it.p.kind.phase.String()
		}
		out = append(out, s)
	}
	return out
}

func now() time.Time { return time.Now().UTC() }
