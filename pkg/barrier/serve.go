package barrier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/propagation"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

const (
	// readyEvery is how often a tap is asked whether its readiness changed.
	readyEvery = 100 * time.Millisecond
	// maxRequests is how many requests may wait for a tap; more are lost, which fails a barrier.
	maxRequests = 256
)

// Serve lets the group's coordinators reach tap and announces it, until ctx ends. It returns nil
// then, and an error only where the connection can't be used at all. While the connection is
// down the tap takes no part in barriers and opens by its hold limit; nothing needs to be repeated
// afterwards. When Serve returns, no hold is left closed.
//
// info is fixed for the call: a tap whose stream gets a new writer needs a new call.
func Serve(ctx context.Context, conn *nats.Conn, group, volume string, info Info, tap Tap) error {
	return serve(ctx, conn, group, volume, info, volumePart{tap})
}

// part is what a server needs of what it serves.
type part interface {
	Hold(t events.Token, limit time.Duration) error
	Release(t events.Token)
	Ready() (bool, events.Progress)
	mark(ctx context.Context, t events.Token) (marked, error)
	revision(ctx context.Context, t events.Token) (string, error)
}

// marked is a Mark of any stream.
type marked struct {
	Hold     time.Duration
	Revision string // of objects
	Stored   func(ctx context.Context) (uint64, error)
}

// volumePart is a volume as a server sees its part of the group.
type volumePart struct{ Tap }

func (v volumePart) mark(ctx context.Context, t events.Token) (marked, error) {
	m, err := v.Mark(ctx, t)
	return marked{Hold: m.Hold, Stored: m.Stored}, err
}

func (volumePart) revision(context.Context, events.Token) (string, error) {
	return "", errors.New("a volume has no revision")
}

func serve(ctx context.Context, conn *nats.Conn, group, name string, info Info, p part) error {
	s := &server{
		conn: conn, group: group, name: name, info: info, part: p,
		identity: identity{Generation: info.Generation, Epoch: info.Epoch},
	}
	requests := make(chan *nats.Msg, maxRequests)
	sub, err := conn.ChanSubscribe(tapSubject(group, name), requests)
	if err != nil {
		return fmt.Errorf("serve tap of %s: %w", name, err)
	}
	defer func() {
		_ = sub.Unsubscribe() // fails only where the connection is closed already
		if s.held != (events.Token{}) {
			p.Release(s.held)
		}
		s.tasks.Wait()
	}()
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	s.announce()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.announceIfDue()
		case m := <-requests:
			s.handle(ctx, m)
		}
	}
}

// server is one tap's side. Its fields belong to Serve's goroutine.
type server struct {
	identity
	conn        *nats.Conn
	group, name string
	info        Info
	part        part

	seen   events.Token // newest token of any request
	held   events.Token // token whose hold was confirmed and that wasn't told to mark or release yet
	asked  events.Token // newest token whose revision was asked for
	marked events.Token // newest token that was told to mark

	announced time.Time
	ready     bool // as announced

	tasks sync.WaitGroup // goroutines that ask for a revision or see a mark through
}

func (s *server) announceIfDue() {
	ready, _ := s.part.Ready()
	if ready != s.ready || time.Since(s.announced) >= AnnounceEvery {
		s.announce()
	}
}

func (s *server) announce() {
	ready, progress := s.part.Ready()
	s.ready, s.announced = ready, time.Now()
	body, err := json.Marshal(announcement{
		identity: s.identity, Volume: s.name, UID: s.info.UID, Size: s.info.Size,
		Ready: ready, Progress: progress, Seen: s.seen,
	})
	if err == nil {
		_ = s.conn.Publish(announceSubject(s.group), body) // a lost one is followed by the next
	}
}

// handle does what a request wants, unless it is meant for another tenure of the stream or its
// token is stale. It doesn't block: what has to wait goes to a goroutine of its own.
func (s *server) handle(ctx context.Context, m *nats.Msg) {
	var r request
	if json.Unmarshal(m.Data, &r) != nil {
		return // not from a coordinator
	}
	if r.Verb == verbAnnounce {
		s.announce()
		return
	}
	if r.Token.Epoch == 0 || r.Token.Barrier == 0 {
		return // not from a coordinator
	}
	if s.older(r.identity) {
		return // this tap is a leftover: a newer one answers
	}
	if r.older(s.identity) {
		s.refuse(m.Reply, r.Token, "the capturer was started again")
		return
	}
	switch r.Verb {
	case verbHold:
		s.hold(m.Reply, r)
	case verbRevision:
		s.revision(ctx, m.Reply, r)
	case verbMark:
		s.mark(ctx, m, r)
	case verbRelease:
		s.release(r)
	}
}

func (s *server) hold(reply string, r request) {
	switch r.Token.Compare(s.seen) {
	case -1:
		s.refuse(reply, r.Token, "the hold's token is stale")
		return
	case 0:
		return // delivered twice: the first one was answered, and a token closes a tap at most once
	}
	s.seen = r.Token
	if err := s.part.Hold(r.Token, r.Limit); err != nil {
		s.refuse(reply, r.Token, err.Error())
		return
	}
	// Asked behind the hold: what becomes of the volume from now on is not part of the cut.
	if ready, progress := s.part.Ready(); !ready {
		s.part.Release(r.Token)
		s.refuse(reply, r.Token, notReady(s.name, progress))
		return
	}
	s.held = r.Token
	s.answer(reply, answer{Outcome: held, Token: r.Token})
}

// revision asks for the revision that the mark of the same token has to prove.
func (s *server) revision(ctx context.Context, reply string, r request) {
	if r.Token == s.asked {
		return // delivered twice: the first one is being answered
	}
	if r.Token != s.held {
		s.refuse(reply, r.Token, "the revision was asked for without a hold")
		return
	}
	s.asked = r.Token
	seen := s.seen
	s.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, r.Limit)
		defer cancel()
		revision, err := s.part.revision(ctx, r.Token)
		if err == nil && revision == "" {
			err = errors.New("the API server told no revision")
		}
		if err != nil {
			s.answer(reply, answer{Outcome: refused, Token: r.Token, Reason: "revision was not read: " + err.Error(), Seen: seen})
			return
		}
		s.answer(reply, answer{Outcome: read, Token: r.Token, Revision: revision})
	})
}

func (s *server) mark(ctx context.Context, m *nats.Msg, r request) {
	if r.Token == s.marked {
		return // delivered twice: the first one is being answered
	}
	if r.Token != s.held {
		s.refuse(m.Reply, r.Token, "the mark has no hold")
		return
	}
	s.held, s.marked = events.Token{}, r.Token
	seen := s.seen
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(m.Header))
	s.tasks.Go(func() { s.vote(ctx, m.Reply, r, seen) })
}

// vote appends the mark and tells when it is stored. It runs beside Serve's goroutine and uses
// only what doesn't change.
func (s *server) vote(ctx context.Context, reply string, r request, seen events.Token) {
	ctx, cancel := context.WithTimeout(ctx, r.Limit)
	defer cancel()
	refuse := func(reason string) {
		s.answer(reply, answer{Outcome: refused, Token: r.Token, Reason: reason, Seen: seen})
	}
	m, err := s.part.mark(ctx, r.Token)
	if err != nil {
		s.part.Release(r.Token) // a mark that gave up must not leave it closed
		refuse(err.Error())
		return
	}
	s.answer(reply, answer{Outcome: opened, Token: r.Token, Hold: m.Hold, Revision: m.Revision})
	seq, err := m.Stored(ctx)
	if err != nil {
		refuse("mark was not stored: " + err.Error())
		return
	}
	s.answer(reply, answer{Outcome: stored, Token: r.Token, Hold: m.Hold, Revision: m.Revision, Seq: seq})
}

// release also makes a hold of the same token that is still under way stale.
func (s *server) release(r request) {
	if r.Token.Compare(s.seen) > 0 {
		s.seen = r.Token
	}
	if r.Token == s.held {
		s.held = events.Token{}
	}
	s.part.Release(r.Token)
}

func (s *server) refuse(reply string, t events.Token, reason string) {
	s.answer(reply, answer{Outcome: refused, Token: t, Reason: reason, Seen: s.seen})
}

func (s *server) answer(reply string, a answer) {
	if reply == "" {
		return
	}
	a.identity, a.Volume = s.identity, s.name
	if body, err := json.Marshal(a); err == nil {
		_ = s.conn.Publish(reply, body) // a lost answer is a missing vote
	}
}

func notReady(name string, p events.Progress) string {
	what := "regions"
	if name == journal.Objects {
		what = "objects"
	}
	switch p.Pass {
	case events.PassSeed:
		what = "the seed"
	case events.PassResync:
		what = "a resync"
	case events.PassScrub:
		what = "a scrub"
	}
	if p.Pass == 0 || p.Total <= 0 {
		return "not ready: " + what + " must be sent first"
	}
	return fmt.Sprintf("not ready: %s is at %d %%", what, p.Done*100/p.Total)
}
