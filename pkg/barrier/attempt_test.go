package barrier

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
)

var tenure = identity{Generation: 1, Epoch: 7}

func voters(names ...string) []*vote {
	var votes []*vote
	for _, n := range names {
		votes = append(votes, &vote{identity: tenure, volume: n, member: true})
	}
	return votes
}

// The answers of a regular vote count, and nothing else does: neither another token's, nor another
// tenure's, nor one that comes out of turn.
func TestOnlyTheRightAnswersCount(t *testing.T) {
	token, late := events.Token{Epoch: 2, Barrier: 9}, events.Token{Epoch: 2, Barrier: 8}
	restarted, leftover := identity{1, 8}, identity{1, 6}
	for name, tt := range map[string]struct {
		answers []answer
		want    outcome
	}{
		"vote": {[]answer{
			{tenure, held, "a", token, 0, 0, "", "", events.Token{}},
			{tenure, opened, "a", token, 1, 0, "", "", events.Token{}},
			{tenure, stored, "a", token, 1, 5, "", "", events.Token{}},
		}, stored},
		"opened got lost": {[]answer{
			{identity: tenure, Outcome: held, Volume: "a", Token: token},
			{identity: tenure, Outcome: stored, Volume: "a", Token: token, Seq: 5},
		}, stored},
		"late answer of another barrier": {[]answer{{identity: tenure, Outcome: held, Volume: "a", Token: late}}, ""},
		"same number, older epoch":       {[]answer{{identity: tenure, Outcome: held, Volume: "a", Token: events.Token{Epoch: 1, Barrier: 9}}}, ""},
		"unknown volume":                 {[]answer{{identity: tenure, Outcome: held, Volume: "b", Token: token}}, ""},
		"leftover process":               {[]answer{{identity: leftover, Outcome: held, Volume: "a", Token: token}}, ""},
		"restarted process":              {[]answer{{identity: restarted, Outcome: held, Volume: "a", Token: token}}, refused},
		"restarted between hold and mark": {[]answer{
			{identity: tenure, Outcome: held, Volume: "a", Token: token},
			{identity: restarted, Outcome: stored, Volume: "a", Token: token, Seq: 3},
		}, refused},
		"mark without a hold":           {[]answer{{identity: tenure, Outcome: stored, Volume: "a", Token: token, Seq: 5}}, ""},
		"stored nowhere":                {[]answer{{identity: tenure, Outcome: held, Volume: "a", Token: token}, {identity: tenure, Outcome: stored, Volume: "a", Token: token}}, held},
		"refusal is final":              {[]answer{{identity: tenure, Outcome: refused, Volume: "a", Token: token}, {identity: tenure, Outcome: held, Volume: "a", Token: token}}, refused},
		"held again behind the opening": {[]answer{{identity: tenure, Outcome: held, Volume: "a", Token: token}, {identity: tenure, Outcome: opened, Volume: "a", Token: token}, {identity: tenure, Outcome: held, Volume: "a", Token: token}}, opened},
		"an outcome of a later version": {[]answer{{identity: tenure, Outcome: "pondering", Volume: "a", Token: token}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAttempt(token, voters("a"))
			for _, ans := range tt.answers {
				a.note(ans)
			}
			if got := a.votes["a"].at; got != tt.want {
				t.Errorf("got as far as %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTakeDropsOtherTokensAndFloods(t *testing.T) {
	token := events.Token{Epoch: 2, Barrier: 9}
	a := newAttempt(token, voters("a"))
	a.take(answer{identity: tenure, Outcome: held, Volume: "a", Token: events.Token{Epoch: 2, Barrier: 8}})
	if len(a.answers) != 0 {
		t.Error("an answer to another attempt was taken")
	}
	for range 100 {
		a.take(answer{identity: tenure, Outcome: held, Volume: "a", Token: token})
	}
	if len(a.answers) != answersPerVote {
		t.Errorf("%d answers are kept, want %d", len(a.answers), answersPerVote)
	}
}

func TestSettleNamesWhoIsMissing(t *testing.T) {
	token := events.Token{Epoch: 2, Barrier: 9}
	a := newAttempt(token, voters("a", "b", "c"))
	a.take(answer{identity: tenure, Outcome: held, Volume: "b", Token: token})
	_, err := a.settle(t.Context(), held, time.Now().Add(time.Millisecond), 0)
	var missing *MissingError
	if !errors.As(err, &missing) || len(missing.Members) != 2 || missing.Members[0].Volume != "a" || missing.Members[1].Volume != "c" {
		t.Fatalf("got %v, want a and c to be missing", err)
	}
}

// A refusal ends the waiting at once and is blamed alone.
func TestSettleEndsAtARefusal(t *testing.T) {
	token := events.Token{Epoch: 2, Barrier: 9}
	a := newAttempt(token, voters("a", "b"))
	a.take(answer{identity: tenure, Outcome: refused, Volume: "b", Token: token, Reason: "because"})
	_, err := a.settle(t.Context(), held, time.Now().Add(time.Hour), time.Hour)
	var missing *MissingError
	if !errors.As(err, &missing) || len(missing.Members) != 1 || missing.Members[0] != (Absent{"b", "because"}) {
		t.Fatalf("got %v, want b alone", err)
	}
}

func TestSettleKnowsWhenItIsSuperseded(t *testing.T) {
	token := events.Token{Epoch: 2, Barrier: 9}
	a := newAttempt(token, voters("a"))
	a.take(answer{identity: tenure, Outcome: refused, Volume: "a", Token: token, Seen: events.Token{Epoch: 3, Barrier: 1}})
	if _, err := a.settle(t.Context(), held, time.Now().Add(time.Hour), 0); !errors.Is(err, ErrSuperseded) {
		t.Fatalf("got %v", err)
	}
}

// A joining volume costs the members its grace at most, and drops out.
func TestSettleGoesOnWithoutTheJoining(t *testing.T) {
	token := events.Token{Epoch: 2, Barrier: 9}
	a := newAttempt(token, append(voters("a"), &vote{identity: tenure, volume: "j"}))
	a.take(answer{identity: tenure, Outcome: held, Volume: "a", Token: token})
	dropped, err := a.settle(t.Context(), held, time.Now().Add(time.Hour), time.Millisecond)
	if err != nil || len(dropped) != 1 || dropped[0].volume != "j" || len(a.votes) != 1 {
		t.Fatalf("dropped %v, %v", dropped, err)
	}
}

func TestSettleEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a := newAttempt(events.Token{Epoch: 2, Barrier: 9}, voters("a"))
	if _, err := a.settle(ctx, held, time.Now().Add(time.Hour), 0); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func TestLabels(t *testing.T) {
	for label, ok := range map[string]bool{
		"before-upgrade": true, "vor dem Löschen, №1": true, "x": true, string(make100('a')): true,
		"": false, string(make100('a')) + "a": false, "a\nb": false, "a\x00": false, "a\x7f": false, "\xff": false, "a\u0085": false,
	} {
		if err := CheckLabel(label); (err == nil) != ok {
			t.Errorf("%q: %v", label, err)
		}
	}
}

func make100(c byte) []byte {
	b := make([]byte, MaxLabel)
	for i := range b {
		b[i] = c
	}
	return b
}
