package release

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/farshore/farshore/pkg/rebuild"
)

const (
	// planLimit bounds the making of a plan, answerLimit the other answers.
	planLimit   = 5 * time.Minute
	answerLimit = 10 * time.Second
	// maxAnswer bounds an answer once it is unpacked.
	maxAnswer = 256 << 20
)

// Both ends are at the DR site, so answers go to an inbox.
func subject(group string) string { return "fsctl." + group + ".release" }

// The verbs.
const (
	verbPlan     = "plan"
	verbBegin    = "begin"
	verbProgress = "progress"
)

// question is a request.
type question struct {
	Verb string `json:"verb"`
}

// answer is a value, or why there is none. On the wire it is compressed: a plan names every object.
type answer struct {
	Plan     *rebuild.Plan     `json:"plan,omitempty"`
	Progress *rebuild.Progress `json:"progress,omitempty"`
	Failure  string            `json:"failure,omitempty"`
	None     bool              `json:"none,omitempty"` // Failure is ErrNone
}

// Serve answers for a group's applier until ctx ends; it returns nil then.
func Serve(ctx context.Context, conn *nats.Conn, groupName string, a Applier) error {
	var work sync.WaitGroup
	defer work.Wait()
	sub, err := conn.Subscribe(subject(groupName), func(m *nats.Msg) {
		var q question
		if m.Reply == "" || json.Unmarshal(m.Data, &q) != nil {
			return
		}
		work.Go(func() {
			body, err := pack(ask(ctx, a, q))
			if err == nil {
				err = m.Respond(body)
			}
			if err != nil { // too large: say so; a lost answer is the asker's time-out
				if body, err = pack(&answer{Failure: "answer: " + err.Error()}); err == nil {
					_ = m.Respond(body)
				}
			}
		})
	})
	if err != nil {
		return fmt.Errorf("answer on %s: %w", subject(groupName), err)
	}
	<-ctx.Done()
	_ = sub.Unsubscribe() // fails only where the connection is closed already
	return nil
}

func ask(ctx context.Context, a Applier, q question) *answer {
	limit := answerLimit
	if q.Verb == verbPlan {
		limit = planLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var out answer
	var err error
	switch q.Verb {
	case verbPlan:
		out.Plan, err = a.Plan(ctx)
	case verbBegin:
		err = a.Begin(ctx)
	case verbProgress:
		var p rebuild.Progress
		p, err = a.Progress(ctx)
		p.Failed = p.Failed[:min(len(p.Failed), maxRefused)]
		out.Progress = &p
	default:
		err = fmt.Errorf("verb %q is not known here: are applier and farshore of the same version?", q.Verb)
	}
	if err != nil {
		return &answer{Failure: err.Error(), None: errors.Is(err, ErrNone) || errors.Is(err, rebuild.ErrNoState)}
	}
	return &out
}

func pack(a *answer) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := json.NewEncoder(z).Encode(a); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func unpack(body []byte) (*answer, error) {
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	var a answer
	if err := json.NewDecoder(io.LimitReader(z, maxAnswer)).Decode(&a); err != nil {
		return nil, err
	}
	return &a, nil
}

// ApplierOf returns the applier of a group as the operator's command asks it, through a connection to the DR site.
func ApplierOf(conn *nats.Conn, groupName string) Applier { return &applier{conn, subject(groupName)} }

type applier struct {
	conn    *nats.Conn
	subject string
}

// Plan implements Applier.
func (a *applier) Plan(ctx context.Context) (*rebuild.Plan, error) {
	out, err := a.ask(ctx, verbPlan, planLimit)
	if err != nil {
		return nil, err
	}
	if out.Plan == nil {
		return nil, errors.New("ask for the plan: the answer has none")
	}
	return out.Plan, nil
}

// Begin implements Applier.
func (a *applier) Begin(ctx context.Context) error {
	_, err := a.ask(ctx, verbBegin, answerLimit)
	return err
}

// Progress implements Applier.
func (a *applier) Progress(ctx context.Context) (rebuild.Progress, error) {
	out, err := a.ask(ctx, verbProgress, answerLimit)
	if err != nil {
		return rebuild.Progress{}, err
	}
	if out.Progress == nil {
		return rebuild.Progress{}, errors.New("ask for the progress: the answer has none")
	}
	return *out.Progress, nil
}

// answered is a failure that the applier told.
type answered struct {
	sentinel error
	message  string
}

func (e *answered) Error() string { return e.message }
func (e *answered) Unwrap() error { return e.sentinel }

func (a *applier) ask(ctx context.Context, verb string, limit time.Duration) (*answer, error) {
	body, err := json.Marshal(question{verb})
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	m, err := a.conn.RequestWithContext(limited, a.subject, body)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w on %s: %w", ErrUnavailable, a.subject, err)
	}
	out, err := unpack(m.Data)
	switch {
	case err != nil:
		return nil, fmt.Errorf("decode answer on %s: %w", a.subject, err)
	case out.Failure == "":
		return out, nil
	case out.None:
		return nil, &answered{ErrNone, out.Failure}
	}
	return nil, &answered{nil, out.Failure}
}
