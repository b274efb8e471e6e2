package repair

import (
	"context"

	"github.com/nats-io/nats.go"

	"github.com/farshore/farshore/pkg/events"
)

// The verbs of Recovery.
const (
	verbFound  = "found"
	verbHashes = "hashes"
	verbStored = "stored"
)

// ServeRecovery answers for a group's applier until ctx ends; it returns nil then.
func ServeRecovery(ctx context.Context, conn *nats.Conn, group string, r Recovery) error {
	return serve(ctx, conn, recoverySubject(group), func(ctx context.Context, q question) (any, error) {
		switch q.Verb {
		case verbFound:
			return r.Found(ctx, q.Part, q.UID)
		case verbHashes:
			return r.Hashes(ctx, q.Part, q.Base, q.Range.Offset, q.Range.Length)
		case verbStored:
			return r.Stored(ctx, q.Part, q.Generation)
		}
		return nil, unknown(q)
	})
}

// RecoveryOf returns the applier of a group as a process at the primary asks it, through conn.
func RecoveryOf(conn *nats.Conn, group string) Recovery {
	return &recovery{asker{conn, group, recoverySubject(group)}}
}

type recovery struct{ asker }

func (r *recovery) Found(ctx context.Context, part, uid string) (f Foundation, err error) {
	err = r.ask(ctx, question{Verb: verbFound, Part: part, UID: uid}, &f)
	return f, err
}

func (r *recovery) Hashes(ctx context.Context, volume string, base events.Base, off, length int64) (h [][32]byte, err error) {
	err = r.ask(ctx, question{Verb: verbHashes, Part: volume, Base: base, Range: Range{off, length}}, &h)
	return h, err
}

func (r *recovery) Stored(ctx context.Context, part string, generation uint32) (seq uint64, err error) {
	err = r.ask(ctx, question{Verb: verbStored, Part: part, Generation: generation}, &seq)
	return seq, err
}
