package repair

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/farshore/farshore/pkg/events"
)

// answerLimit bounds the work on one request, and the wait for its answer.
const answerLimit = 30 * time.Second

// The subjects cross the leafnode: the first one from the primary to the DR site, the second one back, and
// answers either way. Answers have a subject of their own and not an inbox, so that the DR site's server
// may send answers to the primary, and nothing into anybody's inbox.
func recoverySubject(group string) string        { return "fsctl." + group + ".recovery" }
func captureSubject(group, volume string) string { return "fsctl." + group + ".repair." + volume }
func answerSubject(group string) string          { return "fsctl." + group + ".answer." + nuid.Next() }

// noResponders is the status of a server's answer where nobody listens.
const noResponders = "503"

// question is a request. Each verb uses the fields that its method has.
type question struct {
	Verb       string      `json:"verb"`
	Part       string      `json:"part,omitempty"`
	UID        string      `json:"uid,omitempty"`
	Generation uint32      `json:"generation,omitempty"`
	Base       events.Base `json:"base,omitzero"`
	Range      Range       `json:"range,omitzero"`
	Ranges     []Range     `json:"ranges,omitempty"`
	Number     uint64      `json:"number,omitempty"` // incarnation, or scrub
	From       uint64      `json:"from,omitempty"`
	Until      time.Time   `json:"until,omitzero"`
	Reason     string      `json:"reason,omitempty"`
}

// reply answers a question: a value, or why there is none.
type reply struct {
	Value   json.RawMessage `json:"value,omitempty"`
	Failure string          `json:"failure,omitempty"`
	Message string          `json:"message,omitempty"`
}

var failures = map[string]error{"busy": ErrBusy, "gone": ErrGone, "refused": ErrRefused, "failed": nil}

func replyOf(value any, err error) reply {
	if err == nil {
		body, encodeErr := json.Marshal(value)
		if encodeErr == nil {
			return reply{Value: body}
		}
		err = encodeErr
	}
	for name, sentinel := range failures {
		if sentinel != nil && errors.Is(err, sentinel) {
			return reply{Failure: name, Message: err.Error()}
		}
	}
	return reply{Failure: "failed", Message: err.Error()}
}

func (r *reply) error() error {
	if r.Failure == "" {
		return nil
	}
	if sentinel := failures[r.Failure]; sentinel != nil {
		return &answered{sentinel, r.Message}
	}
	return errors.New(r.Message)
}

// answered is an error of the other side, which has named it already.
type answered struct {
	sentinel error
	message  string
}

func (e *answered) Error() string { return e.message }
func (e *answered) Unwrap() error { return e.sentinel }

// asker asks one party.
type asker struct {
	conn           *nats.Conn
	group, subject string
}

// ask sends a question and decodes the answer into value.
func (a asker) ask(ctx context.Context, q question, value any) error {
	r, err := a.answer(ctx, q)
	if err == nil {
		err = r.error()
	}
	if err == nil && value != nil {
		if err = json.Unmarshal(r.Value, value); err != nil {
			err = fmt.Errorf("decode answer: %w", err)
		}
	}
	if err != nil {
		return fmt.Errorf("ask %s to %s: %w", a.subject, q.Verb, err)
	}
	return nil
}

func (a asker) answer(ctx context.Context, q question) (r reply, err error) {
	body, err := json.Marshal(q)
	if err != nil {
		return r, err
	}
	subject := answerSubject(a.group)
	sub, err := a.conn.SubscribeSync(subject)
	if err != nil {
		return r, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only where the connection is closed already
	if err := a.conn.PublishRequest(a.subject, subject, body); err != nil {
		return r, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	limited, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	m, err := sub.NextMsgWithContext(limited)
	switch {
	case err != nil:
		return r, fmt.Errorf("%w: %w", ErrUnavailable, err)
	case len(m.Data) == 0 && m.Header.Get("Status") == noResponders:
		return r, ErrUnavailable
	}
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return r, fmt.Errorf("decode answer: %w", err)
	}
	return r, nil
}

// serve answers questions until ctx ends, each on a goroutine of its own.
func serve(ctx context.Context, conn *nats.Conn, subject string, answer func(context.Context, question) (any, error)) error {
	var work sync.WaitGroup
	defer work.Wait()
	sub, err := conn.Subscribe(subject, func(m *nats.Msg) {
		var q question
		if m.Reply == "" || json.Unmarshal(m.Data, &q) != nil {
			return
		}
		work.Go(func() {
			limited, cancel := context.WithTimeout(ctx, answerLimit)
			defer cancel()
			if body, err := json.Marshal(replyOf(answer(limited, q))); err == nil {
				_ = m.Respond(body) // a lost answer is the asker's time-out
			}
		})
	})
	if err != nil {
		return fmt.Errorf("answer on %s: %w", subject, err)
	}
	<-ctx.Done()
	_ = sub.Unsubscribe() // fails only where the connection is closed already
	return nil
}

func unknown(q question) error {
	return fmt.Errorf("%w: verb %q is not known here: are both sites on the same version?", ErrRefused, q.Verb)
}
