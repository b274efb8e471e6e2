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
	objects    bool // of an objects stream; what its events hold a batch verifies
	bare       bool // the content of frames isn't wanted
	stream     string
	generation uint32 // of stream
	at         Volume // after the last event
}

var (
	errNoEpoch  = errors.New("the stream does not begin with an epoch")
	errOutside  = errors.New("operation reaches beyond the volume")
	errShrink   = errors.New("a volume never shrinks")
	errBase     = errors.New("the history continues from a base that this replica does not hold")
	errBlank    = errors.New("the history begins with a blank volume, and the replica is none")
	errNotAMark = errors.New("a commit names this event as its mark, and it is none of this barrier")
	errKind     = errors.New("this kind of event has no place in this stream")
)

// enter goes on with a stream of a generation: the one that at is in, or one that begins there.
func (v *verifier) enter(stream string, generation uint32) {
	v.stream, v.generation = stream, generation
}

func (v *verifier) next(m journal.Message) error {
	begins, want := v.at.Seq == 0 || v.generation != v.at.Generation, v.at.Seq+1
	if begins {
		want = 1
	}
	if m.Seq != want {
		return &journal.GapError{Stream: v.stream, Want: want, Got: m.Seq}
	}
	epoch, opens := m.Event.(*events.Epoch)
	switch {
	case begins && !opens:
		return v.refuse(m, errNoEpoch)
	case begins:
		if err := v.begin(epoch); err != nil {
			return v.refuse(m, err)
		}
	case opens && m.Header.Epoch <= v.at.Epoch, !opens && m.Header.Epoch != v.at.Epoch:
		return &journal.EpochError{Stream: v.stream, Seq: m.Seq, Want: v.at.Epoch, Got: m.Header.Epoch}
	default:
		if err := v.event(m); err != nil {
			return v.refuse(m, err)
		}
	}
	v.at.Barrier = 0
	if mark, ok := m.Event.(*events.Mark); ok {
		v.at.Barrier = mark.Token.Barrier
	}
	v.at.Generation, v.at.Seq, v.at.Epoch, v.at.Time = v.generation, m.Seq, m.Header.Epoch, m.Header.Time
	return nil
}

func (v *verifier) event(m journal.Message) error {
	switch e := m.Event.(type) {
	case *events.Epoch:
		return v.tenure(e)
	case *events.Object, *events.Listed:
		if !v.objects {
			return fmt.Errorf("%w: %s", errKind, m.Event.Kind())
		}
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
		return fmt.Errorf("%w: %s", errKind, m.Event.Kind())
	}
	return nil
}

// begin checks what a generation begins with: a blank volume, or exactly the place where the replica stands.
func (v *verifier) begin(e *events.Epoch) error {
	b := e.Base
	switch {
	case v.at.Seq > 0 && b == nil:
		return errBlank
	case v.at.Seq > 0 && (b.Generation != v.at.Generation || b.Seq != v.at.Seq || b.Barrier != v.at.Barrier):
		return fmt.Errorf("%w: generation %d, sequence %d, barrier %d; it is at generation %d, sequence %d, barrier %d",
			errBase, b.Generation, b.Seq, b.Barrier, v.at.Generation, v.at.Seq, v.at.Barrier)
	case v.at.Seq > 0:
		return v.tenure(e)
	case b != nil:
		return fmt.Errorf("%w: generation %d, sequence %d, barrier %d; it is blank", errBase, b.Generation, b.Seq, b.Barrier)
	case v.at.UID != "" && v.at.UID != e.UID:
		return fmt.Errorf("%w: the stream is of volume UID %q, expected is %q", ErrForeign, e.UID, v.at.UID)
	}
	v.at.UID, v.at.Size = e.UID, e.Size
	return nil
}

// tenure checks whose history goes on. A volume that grew while no capturer ran has its new size here.
func (v *verifier) tenure(e *events.Epoch) error {
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
	after   Volume // position behind the event
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
	it := item{seq: m.Seq, size: v.at.Size, after: v.at}
	switch e := m.Event.(type) {
	case *events.Frame:
		if it.frame = e; v.bare {
			break
		}
		content, err := e.Content(buf)
		if err != nil {
			return item{}, v.refuse(m, err)
		}
		it.content = content
	case *events.RegionHash:
		it.hash = e
	case *events.PassDone:
		it.pass = e.Pass != events.PassScrub
	}
	return it, nil
}
