package replica

import (
	"errors"
	"fmt"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

// verifier proves that events continue what a replica holds, one after the other. What it refuses
// is named by stream and sequence: a *journal.GapError, *journal.EpochError or *events.MessageError.
type verifier struct {
	stream string
	at     Volume // after the last event
}

var (
	errNoEpoch  = errors.New("the stream does not begin with an epoch")
	errOutside  = errors.New("operation reaches beyond the volume")
	errShrink   = errors.New("a volume never shrinks")
	errBase     = errors.New("the history continues from a base that this replica does not hold")
	errNotAMark = errors.New("a commit names this event as its mark, and it is none of this barrier")
	errKind     = errors.New("this kind of event has no place in a volume's stream")
)

func (v *verifier) next(m journal.Message) error {
	if m.Seq != v.at.Seq+1 {
		return &journal.GapError{Stream: v.stream, Want: v.at.Seq + 1, Got: m.Seq}
	}
	epoch, opens := m.Event.(*events.Epoch)
	switch {
	case !opens && v.at.Epoch == 0:
		return v.refuse(m, errNoEpoch)
	case opens && m.Header.Epoch <= v.at.Epoch, !opens && m.Header.Epoch != v.at.Epoch:
		return &journal.EpochError{Stream: v.stream, Seq: m.Seq, Want: v.at.Epoch, Got: m.Header.Epoch}
	}
	if err := v.event(m, epoch); err != nil {
		return v.refuse(m, err)
	}
	v.at.Seq, v.at.Epoch, v.at.Time = m.Seq, m.Header.Epoch, m.Header.Time
	return nil
}

func (v *verifier) event(m journal.Message, epoch *events.Epoch) error {
	switch e := m.Event.(type) {
	case *events.Epoch:
		return v.epoch(epoch)
	case *events.Frame:
		for _, op := range e.Ops {
			if err := inside(op.Offset, op.Length, v.at.Size); err != nil {
				return fmt.Errorf("%w: %w", errOutside, err)
			}
		}
	case *events.RegionHash:
		if err := inside(e.Offset, e.Length, v.at.Size); err != nil {
			return fmt.Errorf("%w: %w", errOutside, err)
		}
	case *events.Resize:
		if e.Old != v.at.Size || e.New < e.Old {
			return fmt.Errorf("%w: from %d to %d bytes at a size of %d", errShrink, e.Old, e.New, v.at.Size)
		}
		v.at.Size = e.New
	case *events.Mark, *events.PassDone, *events.Heartbeat:
	default:
		return fmt.Errorf("%w: %d", errKind, m.Event.Kind())
	}
	return nil
}

// epoch checks whose history goes on. A volume that grew while no capturer ran has its new size here.
func (v *verifier) epoch(e *events.Epoch) error {
	if v.at.Epoch == 0 {
		if e.Base != nil {
			return fmt.Errorf("%w: generation %d, sequence %d, barrier %d", errBase, e.Base.Generation, e.Base.Seq, e.Base.Barrier)
		}
		if v.at.UID != "" && v.at.UID != e.UID {
			return fmt.Errorf("%w: the stream is of volume UID %q, expected is %q", ErrForeign, e.UID, v.at.UID)
		}
		v.at.UID, v.at.Size = e.UID, e.Size
		return nil
	}
	if e.UID != v.at.UID {
		return fmt.Errorf("%w: the stream goes on with volume UID %q, the replica is of %q", ErrForeign, e.UID, v.at.UID)
	}
	if e.Size < v.at.Size {
		return fmt.Errorf("%w: from %d to %d bytes", errShrink, v.at.Size, e.Size)
	}
	v.at.Size = e.Size
	return nil
}

func (v *verifier) refuse(m journal.Message, err error) error {
	return &events.MessageError{Stream: v.stream, Seq: m.Seq, Err: err}
}

// Damage tells which message of which stream err is about, if it is about what the journal holds:
// a gap, a damaged message, or one that does not continue what came before.
func Damage(err error) (stream string, seq uint64, ok bool) {
	var gap *journal.GapError
	var epoch *journal.EpochError
	var message *events.MessageError
	switch {
	case errors.As(err, &gap):
		return gap.Stream, gap.Want, true
	case errors.As(err, &epoch):
		return epoch.Stream, epoch.Seq, true
	case errors.As(err, &message):
		return message.Stream, message.Seq, true
	}
	return "", 0, false
}

// item is what is left of an event once it is verified: what has to be done to the replica.
type item struct {
	seq     uint64
	size    int64 // of the volume behind the event
	frame   *events.Frame
	content []byte // of frame
	hash    *events.RegionHash
	pass    bool   // a region pass ended here
	after   Volume // position behind the event; set while streaming
}

// weight is what keeping the item costs, in bytes.
func (i *item) weight() int64 {
	const fixed = 256
	if i.frame == nil {
		return fixed
	}
	return int64(len(i.content)+24*len(i.frame.Ops)) + fixed
}

// take verifies m and reads its content, into buf where that is possible.
func (v *verifier) take(m journal.Message, buf []byte) (item, error) {
	if err := v.next(m); err != nil {
		return item{}, err
	}
	it := item{seq: m.Seq, size: v.at.Size}
	switch e := m.Event.(type) {
	case *events.Frame:
		content, err := e.Content(buf)
		if err != nil {
			return item{}, v.refuse(m, err)
		}
		it.frame, it.content = e, content
	case *events.RegionHash:
		it.hash = e
	case *events.PassDone:
		it.pass = e.Pass != events.PassScrub
	}
	return it, nil
}
