package barrier

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/propagation"

	"github.com/farshore/farshore/pkg/events"
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
	s := &server{
		conn: conn, group: group, volume: volume, info: info, tap: tap,
		identity: identity{Generation: info.Generation, Epoch: info.Epoch},
	}
	requests := make(chan *nats.Msg, maxRequests)
	sub, err := conn.ChanSubscribe(tapSubject(group, volume), requests)
	if err != nil {
		return fmt.Errorf("serve tap of volume %s: %w", volume, err)
	}
	defer func() {
		_ = sub.Unsubscribe() // fails only where the connection is closed already
		if s.held != (events.Token{}) {
			tap.Release(s.held)
		}
		s.marks.Wait()
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
	conn          *nats.Conn
	group, volume string
	info          Info
	tap           Tap

	seen   events.Token // newest token of any request
	held   events.Token // token whose hold was confirmed and that wasn't told to mark or release yet
	marked events.Token // newest token that was told to mark

	announced time.Time
	ready     bool // as announced

	marks sync.WaitGroup // goroutines that see a mark through
}

func (s *server) announceIfDue() {
	ready, _ := s.tap.Ready()
	if ready != s.ready || time.Since(s.announced) >= AnnounceEvery {
		s.announce()
	}
}

func (s *server) announce() {
	ready, progress := s.tap.Ready()
	s.ready, s.announced = ready, time.Now()
	body, err := json.Marshal(announcement{
		identity: s.identity, Volume: s.volume, UID: s.info.UID, Size: s.info.Size,
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
	if json.Unmarshal(m.Data, &r) != nil || r.Token.Epoch == 0 || r.Token.Barrier == 0 {
		return // not from a coordinator
	}
	if s.older(r.identity) {
		return // this tap is a leftover: a newer one answers for the volume
	}
	if r.older(s.identity) {
		s.refuse(m.Reply, r.Token, "the capturer was started again")
		return
	}
	switch r.Verb {
	case verbHold:
		s.hold(m.Reply, r)
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
	if err := s.tap.Hold(r.Token, r.Limit); err != nil {
		s.refuse(reply, r.Token, err.Error())
		return
	}
	// Asked behind the hold: what becomes of the volume from now on is not part of the cut.
	if ready, progress := s.tap.Ready(); !ready {
		s.tap.Release(r.Token)
		s.refuse(reply, r.Token, notReady(progress))
		return
	}
	s.held = r.Token
	s.answer(reply, answer{Outcome: held, Token: r.Token})
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
	s.marks.Go(func() { s.vote(ctx, m.Reply, r, seen) })
}

// vote appends the mark and tells when it is stored. It runs beside Serve's goroutine and uses
// only what doesn't change.
func (s *server) vote(ctx context.Context, reply string, r request, seen events.Token) {
	ctx, cancel := context.WithTimeout(ctx, r.Limit)
	defer cancel()
	refuse := func(reason string) {
		s.answer(reply, answer{Outcome: refused, Token: r.Token, Reason: reason, Seen: seen})
	}
	m, err := s.tap.Mark(ctx, r.Token)
	if err != nil {
		s.tap.Release(r.Token) // a mark that gave up must not leave the volume closed
		refuse(err.Error())
		return
	}
	s.answer(reply, answer{Outcome: opened, Token: r.Token, Hold: m.Hold})
	seq, err := m.Stored(ctx)
	if err != nil {
		refuse("mark was not stored: " + err.Error())
		return
	}
	s.answer(reply, answer{Outcome: stored, Token: r.Token, Hold: m.Hold, Seq: seq})
}

// release also makes a hold of the same token that is still under way stale.
func (s *server) release(r request) {
	if r.Token.Compare(s.seen) > 0 {
		s.seen = r.Token
	}
	if r.Token == s.held {
		s.held = events.Token{}
	}
	s.tap.Release(r.Token)
}

func (s *server) refuse(reply string, t events.Token, reason string) {
	s.answer(reply, answer{Outcome: refused, Token: t, Reason: reason, Seen: s.seen})
}

func (s *server) answer(reply string, a answer) {
	if reply == "" {
		return
	}
	a.identity, a.Volume = s.identity, s.volume
	if body, err := json.Marshal(a); err == nil {
		_ = s.conn.Publish(reply, body) // a lost answer is a missing vote
	}
}

func notReady(p events.Progress) string {
	what := "regions"
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
