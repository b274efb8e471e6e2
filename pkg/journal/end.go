package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/pkg/events"
)

// errUnclaimed is a stream whose last message is gone.
var errUnclaimed = fmt.Errorf("%w: somebody purged its last message, which tells whose it is", ErrHistoryLost)

// end is where a stream stands.
type end struct {
	seq     uint64
	epoch   uint64 // of the message at seq; 0 where there is none
	data    []byte // of the message at seq; nil where there is none
	created time.Time
	bytes   int64 // that the stream holds
	config  jetstream.StreamConfig
}

// end reads the stream's last sequence and the message there.
func (w *Writer) end(ctx context.Context) (end, error) {
	attempt, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	stream, err := w.site.js.Stream(attempt, w.id.Name())
	if err != nil {
		return end{}, err
	}
	info := stream.CachedInfo()
	e := end{seq: info.State.LastSeq, created: info.Created, bytes: int64(info.State.Bytes), config: info.Config}
	if info.State.Msgs == 0 {
		if e.seq != 0 {
			return end{}, errUnclaimed
		}
		return e, nil
	}
	m, err := stream.GetMsg(attempt, e.seq)
	if err != nil {
		return end{}, fmt.Errorf("read message %d: %w", e.seq, err)
	}
	h, _, err := events.DecodeHeader(w.id.Name(), e.seq, m.Data)
	switch {
	case errors.Is(err, events.ErrNewerVersion):
		return end{}, err
	case err != nil: // nobody can go on behind it
		return end{}, fmt.Errorf("%w: %w", ErrHistoryLost, err)
	}
	e.epoch, e.data = h.Epoch, m.Data
	return e, nil
}
