package replica

import (
	"fmt"
	"strings"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica/objects"
)

// toldRefusals is how many refusals a condition names.
const toldRefusals = 3

// tellObjects hands the objects on to whoever rebuilds them.
func (f *Follower) tellObjects() {
	if v := f.set.Objects(); v != nil && f.o.Applied != nil {
		f.o.Applied(v)
	}
}

// objectsStatus tells how the objects stand; nil: there are none.
func (f *Follower) objectsStatus(m seen, mirrored bool, tails map[string]journal.Tail, cp *Checkpoint, primary time.Time) *group.ObjectsStatus {
	at, held := cp.Volumes[journal.Objects]
	if !mirrored && !held {
		return nil
	}
	s := new(group.ObjectsStatus)
	if f.o.Objects != nil {
		if told := f.o.Objects(); told != nil {
			*s = *told
		}
	}
	if s.Refused == nil {
		s.Refused = []group.Refusal{}
	}
	s.State, s.Generation, s.AppliedSeq, s.Revision = string(Joining), at.Generation, at.Seq, at.Revision
	if at.State == Member || at.State == Left {
		s.State = string(at.State)
	}
	if v := f.set.Objects(); v != nil {
		s.Count = v.Len()
	}
	if !mirrored {
		return s
	}
	stream := m.Newest()
	s.Generation, s.Incarnation, s.StoredSeq = stream.ID.Generation, stream.Incarnation, m.Last()
	if at.Generation < stream.ID.Generation {
		at.Seq, s.AppliedSeq = 0, 0 // nothing of this generation is applied yet
	}
	if tail, ok := tails[journal.Objects]; ok && tail.Messages > 0 {
		s.StoredSeq = max(s.StoredSeq, tail.Last)
		s.Lags.TransitLagSeconds = seconds(primary.Sub(tail.Header.Time))
		s.Lags.ReplayDebt = replayDebt(&tail, &at)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if b := f.beats[journal.Objects].body; b != nil {
		s.Lags.CaptureDebt = &group.Debt{Seconds: *seconds(b.DebtAge), Bytes: uint64(max(0, b.DebtBytes))}
	}
	return s
}

// objectsProblems tells what is wrong with the objects, by type of condition.
func objectsProblems(s *group.ObjectsStatus, problems map[string][]string) {
	if s == nil {
		return
	}
	if lag := s.Lags.TransitLagSeconds; s.State != string(Left) && lag != nil && *lag > connectedWithin.Seconds() {
		problems[group.ConditionConnected] = append(problems[group.ConditionConnected],
			fmt.Sprintf("nothing arrived from the objects' watcher for %.0f s", *lag))
	}
	if s.Problem != "" {
		problems[group.ConditionObjects] = append(problems[group.ConditionObjects], s.Problem)
	}
	if s.Refusals > 0 {
		problems[group.ConditionObjects] = append(problems[group.ConditionObjects], tellRefusals(s))
	}
}

// tellRefusals names the first objects that the DR API server doesn't take.
func tellRefusals(s *group.ObjectsStatus) string {
	var named []string
	for i := range s.Refused[:min(len(s.Refused), toldRefusals)] {
		r := &s.Refused[i]
		key := events.ObjectKey{Group: r.Group, Version: r.Version, Resource: r.Resource, Namespace: r.Namespace, Name: r.Name}
		named = append(named, fmt.Sprintf("%s: %s", objects.Name(key), r.Reason))
	}
	more := ""
	if n := s.Refusals - len(named); n > 0 && len(named) > 0 {
		more = fmt.Sprintf("; and %d more", n)
	}
	return fmt.Sprintf("the DR API server refuses %d objects: %s%s", s.Refusals, strings.Join(named, "; "), more)
}
