package replica

import (
	"strings"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
)

// [I] A checkpoint past the mirror's end waits, and says so: nothing is picked until the mirror is there again.
func TestCheckpointPastMirrorWaits(t *testing.T) {
	g := group.Default()
	g.Metadata.Name = "g"
	f, err := NewFollower(FollowerOptions{Group: g})
	if err != nil {
		t.Fatal(err)
	}
	id := journal.StreamID{Group: "g", Part: "v", Generation: 1}
	look := func(last uint64) {
		i := journal.StreamInfo{Name: MirrorName(id), ID: id, Incarnation: 1, From: 1, First: 1, Last: last, Messages: last, Bytes: 5000}
		f.view.mirrors[id] = seen{Mirror: journal.Mirror{ID: id, Incarnations: []journal.StreamInfo{i}}}
		f.view.newest["v"] = 1
	}
	look(50)
	cp := &Checkpoint{Commit: Commit{Barrier: 3}, Volumes: map[string]Volume{"v": {State: Member, Generation: 1, Seq: 60}}}
	commit := func(seq uint64) *events.Commit {
		return &events.Commit{Token: events.Token{Barrier: 4}, Vector: []events.VectorEntry{{Volume: "v", Position: events.Position{Generation: 1, Seq: seq}}}}
	}
	for _, seq := range []uint64{50, 70} {
		if _, ok := f.reach(cp, commit(seq), true); ok {
			t.Errorf("from 60 to %d with a mirror that ends at 50", seq)
		}
	}
	s := &group.Status{Time: time.Now()}
	f.conditions(s, map[string]seen{"v": f.view.mirrors[id]}, cp)
	for _, c := range s.Conditions {
		if c.Type == group.ConditionComplete && (c.OK || !strings.Contains(c.Message, MirrorName(id))) {
			t.Errorf("the condition is %+v", c)
		}
	}
	look(70)
	if _, ok := f.reach(cp, commit(70), true); !ok {
		t.Error("the mirror is there again, and nothing goes on")
	}
}

// Damage and holes behind what is applied keep nothing back; those ahead do, and damage is looked at again.
func TestBlocked(t *testing.T) {
	g := group.Default()
	g.Metadata.Name = "g"
	f, err := NewFollower(FollowerOptions{Group: g})
	if err != nil {
		t.Fatal(err)
	}
	id := func(part string) journal.StreamID { return journal.StreamID{Group: "g", Part: part, Generation: 1} }
	f.view.mirrors[id("m")] = seen{holes: []journal.Hole{{From: 5, To: 5}, {From: 20, To: 22}}}
	f.damage[id("d")] = Damaged{Stream: "d", Seq: 10}
	for _, tt := range []struct {
		part        string
		after, upTo uint64
		overDamage  bool
		want        bool
	}{
		{"m", 0, 4, false, false}, {"m", 4, 5, false, true}, {"m", 5, 19, false, false}, {"m", 5, 20, true, true}, {"m", 20, 21, false, true}, {"m", 22, 99, false, false},
		{"d", 0, 9, false, false}, {"d", 9, 10, false, true}, {"d", 9, 10, true, false}, {"d", 10, 99, false, false},
		{"other", 0, 99, false, false},
	} {
		m := f.view.mirrors[id(tt.part)]
		if got := f.blocked(id(tt.part), &m, Leg{1, tt.after, tt.upTo}, tt.overDamage); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}
