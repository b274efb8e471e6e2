package replica

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// maxPending bounds the commits that wait to be applied. Beyond it every second one without a label is left out: the
// replicas pass over it, a replay can still stop there.
const maxPending = 1 << 16

// timeline is what the control stream told: the group's commits and who lacked a vote.
type timeline struct {
	mu      sync.Mutex
	all     []place          // every commit still in the mirror, oldest first
	pending []*events.Commit // those that are not applied, oldest first
	missing []string         // members whose vote the last barrier lacked
	at      events.Position  // in the control stream: the last event that was read
	highest uint64           // barrier that any commit had
	reached reached          // the highest of everything else

	arrived chan struct{} // a token: there is something new
}

// reached is what a new control stream has to go on above.
type reached struct {
	epoch  uint64 // of a writer
	roster uint64 // version
	time   time.Time
}

// place is where a commit is in the control stream.
type place struct {
	Commit
	at events.Position
}

// most returns the highest epoch, roster and time that the control stream has told of.
func (t *timeline) most() reached {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.reached
}

func newTimeline() *timeline { return &timeline{arrived: make(chan struct{}, 1)} }

// take notes one event of a generation of the control stream.
func (t *timeline) take(generation uint32, m journal.Message) {
	t.mu.Lock()
	t.at = events.Position{Generation: generation, Seq: m.Seq}
	t.reached.epoch = max(t.reached.epoch, m.Header.Epoch)
	switch e := m.Event.(type) {
	case *events.Member:
		t.reached.roster = max(t.reached.roster, e.Roster)
	case *events.Commit:
		if e.Time.After(t.reached.time) {
			t.reached.time = e.Time
		}
		if e.Token.Barrier <= t.highest {
			break // read again
		}
		t.highest = e.Token.Barrier
		t.all = append(t.all, place{CommitOf(e), t.at})
		t.pending = append(t.pending, e)
		if len(t.pending) > maxPending {
			t.thin()
		}
		t.missing = nil
	case *events.Heartbeat:
		t.missing = slices.Clone(e.Missing)
	}
	t.mu.Unlock()
	if m.Event.Kind() == events.KindCommit {
		select {
		case t.arrived <- struct{}{}:
		default:
		}
	}
}

// enter goes on with a later generation, which continues the one read before from its last event on. What was read
// behind that is not part of the history any more.
func (t *timeline) enter(last uint64, generation uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := uint64(0)
	t.all = slices.DeleteFunc(t.all, func(p place) bool { return p.at.Generation == t.at.Generation && p.at.Seq > last })
	if n := len(t.all); n > 0 {
		kept = t.all[n-1].Barrier
	}
	t.pending = slices.DeleteFunc(t.pending, func(c *events.Commit) bool { return c.Token.Barrier > kept })
	t.highest = kept
	t.at = events.Position{Generation: generation}
}

func (t *timeline) thin() {
	kept := t.pending[:0]
	for i, c := range t.pending {
		if i%2 == 0 || c.Label != "" || i == len(t.pending)-1 {
			kept = append(kept, c)
		}
	}
	clear(t.pending[len(kept):])
	t.pending = kept
}

// applied forgets the commits up to a barrier as waiting.
func (t *timeline) applied(barrier uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for n < len(t.pending) && t.pending[n].Token.Barrier <= barrier {
		n++
	}
	t.pending = slices.Delete(t.pending, 0, n)
}

// waiting returns the commits that are not applied, oldest first.
func (t *timeline) waiting() []*events.Commit {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.pending)
}

// trimmed forgets the places of commits before a barrier.
func (t *timeline) trimmed(barrier uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for n < len(t.all) && t.all[n].Barrier < barrier {
		n++
	}
	t.all = slices.Delete(t.all, 0, n)
}

// oldest returns the first commit in the mirror.
func (t *timeline) oldest() (Commit, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.all) == 0 {
		return Commit{}, false
	}
	return t.all[0].Commit, true
}

// behind returns the commits in the mirror behind a barrier, oldest first.
func (t *timeline) behind(barrier uint64) (out []Commit) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, _ := slices.BinarySearchFunc(t.all, barrier+1, func(p place, b uint64) int { return cmp.Compare(p.Barrier, b) })
	for _, p := range t.all[i:] {
		out = append(out, p.Commit)
	}
	return out
}

// last returns the newest place that want accepts.
func (t *timeline) last(want func(Commit) bool) (place, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range slices.Backward(t.all) {
		if want(p.Commit) {
			return p, true
		}
	}
	return place{}, false
}

// beyond returns the oldest place and the one that about a part of the whole history, from 0 to 1, lies before, at
// most at barrier limit, and how many points lie between. There is none where the oldest is all that may go.
func (t *timeline) beyond(part float64, limit uint64) (oldest, target place, points int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := -1
	for i, p := range t.all {
		if p.Barrier <= limit {
			last = i
		}
	}
	n := min(int(part*float64(len(t.all)))+1, last)
	if n < 1 {
		return place{}, place{}, 0, false
	}
	return t.all[0], t.all[n], n, true
}

func (t *timeline) votesMissing() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.missing)
}

// position returns the place of the last event that was read; zero: none was.
func (t *timeline) position() events.Position {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.at
}

// newest returns the highest barrier of any commit that was read.
func (t *timeline) newest() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.highest
}
