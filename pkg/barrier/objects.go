package barrier

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// ObjectsTap is what a barrier needs of the watcher of the group's Kubernetes objects. Its gate lies before its
// stream: while it is closed the watcher goes on watching and appends nothing. No writer of objects ever waits.
// Calls may be concurrent.
type ObjectsTap interface {
	// Hold closes the gate within the call: from its return on nothing is appended until Mark, Release, a hold
	// with a newer token, or until limit has passed. A token that isn't newer than every one seen is refused
	// and changes nothing.
	Hold(t events.Token, limit time.Duration) error
	// Revision asks the API server for its revision now: all that it had acknowledged before the call is at or
	// below it, and nothing that it acknowledges behind the call's return is. It is called behind Hold, in app
	// and labelled barriers only, and binds the Mark of the same token. It ends with ctx. An error names what
	// keeps the API server from answering.
	Revision(ctx context.Context, t events.Token) (string, error)
	// Mark appends a Mark and opens the gate, if the gate has been closed for t without a break since
	// Hold. From then on the limit doesn't count, ctx does. Behind a Revision for t it first appends all
	// changes up to that revision, and none above it, and proves that none is missing. Without one it appends
	// nothing but the Mark, at once, with the revision that was proven last. If it fails, or Release comes in
	// between, no Mark is appended.
	Mark(ctx context.Context, t events.Token) (ObjectsMarked, error)
	// Release opens the gate if it is closed for t, and ends a Mark for t that is still proving.
	Release(t events.Token)
	// Ready tells whether the watcher may vote: every kind was listed and what the stream lacked was appended.
	// An API server that doesn't answer for a while changes nothing about it. Progress counts objects.
	Ready() (bool, events.Progress)
}

// ObjectsMarked is a Mark that has its place in the objects stream.
type ObjectsMarked struct {
	Hold     time.Duration // how long the gate was closed, the proof included
	Revision string        // proven: every selected change up to it stands before the Mark
	// Stored waits until the Mark is stored and returns its sequence.
	Stored func(ctx context.Context) (uint64, error)
}

// ServeObjects is Serve for the group's objects: info's UID and Size are empty. Of several watchers only the one
// that writes the objects stream may call it.
func ServeObjects(ctx context.Context, conn *nats.Conn, group string, info Info, tap ObjectsTap) error {
	return serve(ctx, conn, group, journal.Objects, info, objectsPart{tap})
}

// objectsPart is the objects as a server sees its part of the group.
type objectsPart struct{ ObjectsTap }

func (o objectsPart) mark(ctx context.Context, t events.Token) (marked, error) {
	m, err := o.Mark(ctx, t)
	return marked(m), err
}

func (o objectsPart) revision(ctx context.Context, t events.Token) (string, error) {
	return o.Revision(ctx, t)
}
