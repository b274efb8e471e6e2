package barrier

import (
	"errors"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/journaltest"
)

// While the bus is gone barriers fail or wait, and nothing needs help when it is back.
func TestBarriersOutliveTheBus(t *testing.T) {
	t.Parallel()
	p := journaltest.Sites(t)
	r := &rig{t: t, site: p.Primary}
	t.Cleanup(func() { checkControl(t, 1, r.control()) })
	a := new(fakeTap)
	r.serve("a", 1, a)
	c := r.coordinate(Options{Volumes: volumes("a"), Interval: 5 * time.Millisecond, HoldLimit: 50 * time.Millisecond, VoteTimeout: time.Second})
	before := r.mark("before")
	for range 2 {
		p.StopPrimary()
		p.StartPrimary()
		after := r.mark("after")
		if after.Token.Barrier <= before.Token.Barrier || after.Token.Epoch != before.Token.Epoch {
			t.Errorf("token %+v behind %+v", after.Token, before.Token)
		}
		before = after
	}
	if err := c.stop(); err != nil {
		t.Error(err)
	}
}

// A snapshotter that is stopped and started again and again, at any moment, keeps the stream's
// rules (they are checked at the end), and a tap that is started again votes as itself.
func TestRestartsAtAnyMoment(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.serve("a", 1, new(fakeTap))
	tap := r.serve("b", 1, new(fakeTap))
	for i := range 12 {
		c := r.coordinate(Options{Volumes: volumes("a", "b"), Interval: time.Millisecond, HoldLimit: 50 * time.Millisecond})
		r.mark("round")
		if i%3 == 0 {
			tap.stop()
			tap = r.serve("b", uint64(i+2), &fakeTap{seq: uint64(i+1) * 100000})
		}
		if err := c.stop(); err != nil && !errors.Is(err, journal.ErrFenced) {
			t.Fatal(err)
		}
	}
}
