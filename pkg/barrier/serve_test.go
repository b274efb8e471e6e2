package barrier

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/farshore/farshore/pkg/events"
)

// ask sends a request and doesn't wait for an answer.
func (r *rig) ask(volume string, q request) *nats.Subscription {
	r.t.Helper()
	inbox := nats.NewInbox()
	sub, err := r.site.Conn().SubscribeSync(inbox)
	if err != nil {
		r.t.Fatal(err)
	}
	body, err := json.Marshal(q)
	if err == nil {
		err = r.site.Conn().PublishRequest(tapSubject(testGroup, volume), inbox, body)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return sub
}

// answered returns the next answer.
func (r *rig) answered(sub *nats.Subscription) answer {
	r.t.Helper()
	m, err := sub.NextMsg(10 * time.Second)
	if err != nil {
		r.t.Fatal(err)
	}
	var a answer
	if err := json.Unmarshal(m.Data, &a); err != nil {
		r.t.Fatal(err)
	}
	return a
}

// served is a tap that hears requests.
func (r *rig) served(f *fakeTap) *process {
	r.t.Helper()
	sub, err := r.site.Conn().SubscribeSync(announceSubject(testGroup))
	if err != nil {
		r.t.Fatal(err)
	}
	p := r.serve("a", 5, f)
	if _, err := sub.NextMsg(10 * time.Second); err != nil {
		r.t.Fatal(err)
	}
	return p
}

func tapRig(t *testing.T) *rig {
	r := newRig(t)
	r.coordinate(Options{Volumes: volumes("x"), Interval: onDemand}).stop() // makes the stream that is checked at the end
	return r
}

func ofTap(v verb, epoch, barrier uint64) request {
	return request{identity: identity{1, 5}, Verb: v, Token: events.Token{Epoch: epoch, Barrier: barrier}, Limit: time.Minute}
}

func TestTapVotes(t *testing.T) {
	t.Parallel()
	r := tapRig(t)
	f := &fakeTap{seq: 41}
	r.served(f)
	if a := r.answered(r.ask("a", ofTap(verbHold, 1, 1))); a.Outcome != held || a.Volume != "a" || a.identity != (identity{1, 5}) {
		t.Fatalf("got %+v", a)
	}
	sub := r.ask("a", ofTap(verbMark, 1, 1))
	if a := r.answered(sub); a.Outcome != opened || a.Hold != time.Millisecond {
		t.Fatalf("got %+v", a)
	}
	if a := r.answered(sub); a.Outcome != stored || a.Seq != 42 || a.Token != (events.Token{Epoch: 1, Barrier: 1}) {
		t.Fatalf("got %+v", a)
	}
}

// [I] A token closes a tap at most once, and only the newest does.
func TestTapRefusesStaleTokens(t *testing.T) {
	t.Parallel()
	r := tapRig(t)
	f := new(fakeTap)
	r.served(f)
	r.answered(r.ask("a", ofTap(verbHold, 2, 5)))
	for _, old := range []request{ofTap(verbHold, 2, 4), ofTap(verbHold, 1, 99)} {
		a := r.answered(r.ask("a", old))
		if a.Outcome != refused || a.Seen != (events.Token{Epoch: 2, Barrier: 5}) {
			t.Errorf("%+v got %+v", old, a)
		}
	}
	if a := r.answered(r.ask("a", ofTap(verbMark, 2, 4))); a.Outcome != refused {
		t.Errorf("a mark without a hold got %+v", a)
	}
	// The tap opens by itself, and the hold is delivered again: nothing may be closed.
	f.set(func(f *fakeTap) { f.held, f.newest = false, events.Token{} })
	r.ask("a", ofTap(verbHold, 2, 5))
	r.answered(r.ask("a", ofTap(verbHold, 2, 6)))
	if did := f.did(); did != "hold 5, hold 6" {
		t.Errorf("the tap was asked to %s", did)
	}
	// A mark that is delivered twice is answered once.
	sub := r.ask("a", ofTap(verbMark, 2, 6))
	again := r.ask("a", ofTap(verbMark, 2, 6))
	r.answered(sub)
	r.answered(sub)
	if _, err := again.NextMsg(10 * time.Millisecond); !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("the second mark got %v", err)
	}
	// A release that overtakes its hold makes it stale.
	r.ask("a", ofTap(verbRelease, 3, 1))
	r.ask("a", ofTap(verbHold, 3, 1))
	r.answered(r.ask("a", ofTap(verbHold, 3, 2)))
	if strings.Count(f.did(), "hold 1") != 0 {
		t.Errorf("the tap was asked to %s", f.did())
	}
}

// A tap answers for its own tenure of the stream only.
func TestTapKnowsItsTenure(t *testing.T) {
	t.Parallel()
	r := tapRig(t)
	f := new(fakeTap)
	r.served(f)
	older, newer := ofTap(verbHold, 1, 1), ofTap(verbHold, 1, 1)
	older.Epoch, newer.Epoch = 4, 6
	silent := r.ask("a", newer)
	if a := r.answered(r.ask("a", older)); a.Outcome != refused || !strings.Contains(a.Reason, "started again") || a.Epoch != 5 {
		t.Errorf("got %+v", a)
	}
	if _, err := silent.NextMsg(10 * time.Millisecond); !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("a leftover answered for the newer process: %v", err)
	}
	if f.did() != "" {
		t.Errorf("the tap was asked to %s", f.did())
	}
}

func TestTapThatIsNotReadyRefusesTheHold(t *testing.T) {
	t.Parallel()
	r := tapRig(t)
	f := &fakeTap{unready: true}
	r.served(f)
	if a := r.answered(r.ask("a", ofTap(verbHold, 1, 1))); a.Outcome != refused || !strings.Contains(a.Reason, "not ready") {
		t.Errorf("got %+v", a)
	}
	if f.isHeld() {
		t.Error("it stays closed")
	}
}

// [I] No hold outlives the tap's side.
func TestServeLeavesNoHold(t *testing.T) {
	t.Parallel()
	r := tapRig(t)
	f := new(fakeTap)
	p := r.served(f)
	r.answered(r.ask("a", ofTap(verbHold, 1, 1)))
	if err := p.stop(); err != nil || f.isHeld() {
		t.Errorf("ended with %v, held: %v", err, f.isHeld())
	}
}

// Whatever is sent to a tap, it goes on working.
func TestTapSurvivesGarbage(t *testing.T) {
	t.Parallel()
	r := tapRig(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	f := new(fakeTap)
	r.served(f)
	valid, err := json.Marshal(ofTap(verbHold, 1, 1))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		body := append([]byte(nil), valid...)
		for range rnd.IntN(6) {
			body[rnd.IntN(len(body))] = byte(rnd.Uint32())
		}
		if i%3 == 0 {
			body = body[:rnd.IntN(len(body))]
		}
		if err := r.site.Conn().PublishRequest(tapSubject(testGroup, "a"), nats.NewInbox(), body); err != nil {
			t.Fatal(err)
		}
	}
	top := events.Token{Epoch: 1 << 62, Barrier: 1}
	r.eventually("a hold is confirmed", func() error {
		top.Barrier++
		if a := r.answered(r.ask("a", request{identity: identity{1, 5}, Verb: verbHold, Token: top, Limit: time.Minute})); a.Outcome != held {
			return errors.New(a.Reason)
		}
		return nil
	})
}

// A tap that is asked to announces itself at once, so a coordinator that has just begun waits for nobody.
func TestTapAnnouncesItselfWhenAsked(t *testing.T) {
	t.Parallel()
	r := tapRig(t)
	r.served(new(fakeTap))
	sub, err := r.site.Conn().SubscribeSync(announceSubject(testGroup))
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // far more than it says unasked in that time
		r.ask("a", request{Verb: verbAnnounce})
	}
	r.answered(r.ask("a", ofTap(verbHold, 1, 1)))
	if n, _, err := sub.Pending(); err != nil || n < 20 {
		t.Errorf("%d announcements, %v", n, err)
	}
}
