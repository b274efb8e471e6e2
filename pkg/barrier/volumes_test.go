package barrier

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
)

// A running group follows its document: a volume that it no longer lists leaves although its tap is gone,
// a new one joins, and one that comes back joins again.
func TestVolumesChangeLive(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	gone := r.serve("a", 1, new(fakeTap))
	r.serve("b", 1, new(fakeTap))
	c := r.coordinate(Options{Volumes: volumes("a"), Interval: 5 * time.Millisecond})
	vector := func(want ...string) {
		t.Helper()
		r.eventually(fmt.Sprintf("the vector has %v", want), func() error {
			commits := r.commits()
			if len(commits) == 0 {
				return errors.New("no commit yet")
			}
			var got []string
			for _, v := range commits[len(commits)-1].Vector {
				got = append(got, v.Volume)
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				return fmt.Errorf("it has %v", got)
			}
			return nil
		})
	}
	vector("a")
	c.SetParts(volumes("a", "b"), false)
	vector("a", "b")
	gone.stop()
	r.eventually("a is missed", func() error {
		if len(c.Missing()) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	c.SetParts(volumes("a"), false) // replaced by the next before it is read, or not: b leaves or stays
	c.SetParts(volumes("b"), false)
	vector("b")
	r.serve("a", 2, &fakeTap{seq: 1000})
	c.SetParts(volumes("a", "b"), false)
	vector("a", "b")
	last := map[string]events.MemberState{}
	for _, m := range of[*events.Member](r.control()) {
		last[m.Volume] = m.State
	}
	if last["a"] != events.Joined || last["b"] != events.Joined {
		t.Errorf("states are %v", last)
	}
}
