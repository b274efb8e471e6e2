package archiver

import (
	"context"
	"errors"
	"time"

	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica"
)

// errStalled says that the journal did not go on.
var errStalled = errors.New("the journal did not go on for minutes")

// mirrors is what the journal is read from.
type mirrors interface {
	replica.Source
	replica.Ends
}

// patient is a journal that is waited for only so long. A stream that was deleted or cut short under a reader would be waited for without
// end: it is errStalled instead. What the reader does between two events is not counted.
type patient struct {
	mirrors
	limit time.Duration
}

// Open implements replica.Source.
func (p patient) Open(ctx context.Context, id journal.StreamID, from uint64) (replica.Reader, error) {
	r, err := p.mirrors.Open(ctx, id, from)
	if err != nil {
		return nil, err
	}
	return patientReader{r, p.limit}, nil
}

type patientReader struct {
	replica.Reader
	limit time.Duration
}

// Next implements replica.Reader.
func (r patientReader) Next(ctx context.Context) (journal.Message, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.limit, errStalled)
	defer cancel()
	m, err := r.Reader.Next(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		err = errStalled
	}
	return m, err
}
