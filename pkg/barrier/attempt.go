package barrier

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// answersPerVote is how many answers of one tap are kept while they wait to be read.
const answersPerVote = 8

// attempt is one try at a barrier: its token and what has been answered to it. take may be called
// concurrently, everything else belongs to the coordinator's loop.
type attempt struct {
	token   events.Token
	votes   map[string]*vote
	answers chan answer
	until   time.Time    // by then every tap has to be told to mark: behind it the holds end by themselves
	seen    events.Token // newest token that a refusal told
}

// vote is one tap's part in an attempt.
type vote struct {
	identity
	volume string
	member bool    // else it is joining, and the barrier goes on without it if need be
	at     outcome // the newest answer; "" before the first
	hold   time.Duration
	seq    uint64
	read   string // revision that the mark has to prove; empty where none was asked for
	proven string // revision that the mark proves
	reason string // of a refusal
}

// objects tells whether the vote is that of the objects' watcher.
func (v *vote) objects() bool { return v.volume == journal.Objects }

// reached tells whether the tap has come at least as far as want.
func (v *vote) reached(want outcome) bool {
	return v.at != refused && slices.Index(progression, v.at) >= slices.Index(progression, want)
}

// due tells whether the barrier has to wait for the vote to come as far as want. The objects' gate keeps nobody
// waiting while their revision is proven, so only their stored mark is waited for.
func (v *vote) due(want outcome) bool {
	return v.member && !v.reached(want) && !(v.objects() && want == opened)
}

var progression = []outcome{"", held, read, opened, stored}

func newAttempt(t events.Token, votes []*vote) *attempt {
	a := &attempt{token: t, votes: make(map[string]*vote), answers: make(chan answer, answersPerVote*len(votes))}
	for _, v := range votes {
		a.votes[v.volume] = v
	}
	return a
}

// take hands an answer to the attempt; one that belongs to another is dropped. It doesn't block.
func (a *attempt) take(ans answer) {
	if ans.Token != a.token {
		return
	}
	select {
	case a.answers <- ans:
	default: // more than a tap has to say: a lost answer only fails the barrier
	}
}

// note counts an answer, if it is from the tap that was asked and comes next.
func (a *attempt) note(ans answer) {
	v := a.votes[ans.Volume]
	if v == nil || ans.Token != a.token || v.at == stored || v.at == refused {
		return
	}
	if ans.identity != v.identity {
		if v.older(ans.identity) {
			v.at, v.reason = refused, "the capturer was started again"
		}
		return
	}
	switch ans.Outcome {
	case held:
		if v.at == "" {
			v.at = held
		}
	case read:
		if v.at == held && ans.Revision != "" {
			v.at, v.read = read, ans.Revision
		}
	case opened:
		if v.at == held || v.at == read {
			v.at, v.hold, v.proven = opened, ans.Hold, ans.Revision
		}
	case stored:
		if v.at != "" && ans.Seq > 0 {
			v.at, v.hold, v.proven, v.seq = stored, ans.Hold, ans.Revision, ans.Seq
		}
	case refused:
		v.at, v.reason = refused, ans.Reason
		if ans.Seen.Compare(a.seen) > 0 {
			a.seen = ans.Seen
		}
	}
}

// collect counts answers until done or until the time has come; the caller looks what it got.
// The error is ctx's.
func (a *attempt) collect(ctx context.Context, until time.Time, done func() bool) error {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return nil
		case ans := <-a.answers:
			a.note(ans)
		}
	}
	return nil
}

// settle waits for every member to come as far as want, until the time at most, and names the
// members that did not. When they all have, it gives those that are joining a last grace and
// drops what is still behind. Without members the joining ones have the whole time.
func (a *attempt) settle(ctx context.Context, want outcome, until time.Time, grace time.Duration) (dropped []*vote, err error) {
	if err := a.members(ctx, want, until); err != nil {
		return nil, err
	}
	if late := time.Now().Add(grace); late.Before(until) && a.any(func(v *vote) bool { return v.member }) {
		until = late
	}
	err = a.collect(ctx, until, func() bool {
		return !a.any(func(v *vote) bool { return v.at != refused && !v.reached(want) })
	})
	if err != nil {
		return nil, err
	}
	for name, v := range a.votes {
		if !v.reached(want) && !v.member {
			dropped = append(dropped, v)
			delete(a.votes, name)
		}
	}
	return dropped, a.missing(want)
}

// members waits for the members only.
func (a *attempt) members(ctx context.Context, want outcome, until time.Time) error {
	err := a.collect(ctx, until, func() bool {
		behind := a.any(func(v *vote) bool { return v.due(want) })
		return !behind || a.any(func(v *vote) bool { return v.member && v.at == refused })
	})
	if err != nil {
		return err
	}
	return a.missing(want)
}

// missing names the members that have not come as far as want. Where one refused, those that were
// not waited for are not blamed.
func (a *attempt) missing(want outcome) error {
	if a.seen.Epoch > a.token.Epoch {
		return ErrSuperseded
	}
	var refusals, silent []Absent
	for _, v := range a.votes {
		switch {
		case v.member && v.at == refused:
			refusals = append(refusals, Absent{v.volume, v.reason})
		case v.due(want):
			silent = append(silent, Absent{v.volume, v.silence(want)})
		}
	}
	if len(refusals) > 0 {
		return missingError(refusals)
	}
	if len(silent) > 0 {
		return missingError(silent)
	}
	return nil
}

// silence is what a vote is blamed for that didn't come as far as want.
func (v *vote) silence(want outcome) string {
	switch {
	case want == held:
		return "did not confirm the hold in time"
	case want == read:
		return "the API server did not tell its revision while the volumes were held"
	case want == opened:
		return "did not mark in time"
	case v.at == read:
		return "did not prove revision " + v.read + " in time"
	}
	return "its mark was not stored in time"
}

func missingError(members []Absent) *MissingError {
	slices.SortFunc(members, func(a, b Absent) int { return strings.Compare(a.Volume, b.Volume) })
	return &MissingError{Members: members}
}

func (a *attempt) any(is func(*vote) bool) bool {
	for _, v := range a.votes {
		if is(v) {
			return true
		}
	}
	return false
}

// sorted returns the votes by volume.
func (a *attempt) sorted() []*vote {
	out := make([]*vote, 0, len(a.votes))
	for _, v := range a.votes {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b *vote) int { return strings.Compare(a.volume, b.volume) })
	return out
}
