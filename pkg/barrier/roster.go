package barrier

import (
	"fmt"
	"maps"
	"slices"

	"github.com/farshore/farshore/pkg/events"
)

// roster is which volumes the group has, as the control stream tells.
type roster struct {
	version uint64 // of the last Member event
	volumes map[string]seat
}

// seat is one volume's place in the roster.
type seat struct {
	uid        string
	generation uint32
	state      events.MemberState
}

func newRoster() *roster { return &roster{volumes: make(map[string]seat)} }

// apply follows a Member event. One whose version isn't behind the last one's is refused: the
// stream has a single writer, so it would mean a stream that is not what it should be.
func (r *roster) apply(m *events.Member) error {
	if m.Roster <= r.version {
		return fmt.Errorf("roster version %d of volume %s stands behind version %d", m.Roster, m.Volume, r.version)
	}
	r.version = m.Roster
	r.volumes[m.Volume] = seat{uid: m.UID, generation: m.Stream.Generation, state: m.State}
	return nil
}

// change makes the event that puts a volume into s. It changes nothing; apply does.
func (r *roster) change(volume string, s seat, seq uint64, comment string) *events.Member {
	return &events.Member{
		Volume: volume, UID: s.uid, State: s.state, Roster: r.version + 1,
		Stream: events.Position{Generation: s.generation, Seq: seq}, Comment: comment,
	}
}

// names returns the volumes in a state, sorted.
func (r *roster) names(state events.MemberState) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(r.volumes)) {
		if r.volumes[name].state == state {
			names = append(names, name)
		}
	}
	return names
}
