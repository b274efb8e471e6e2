// Package clock measures the difference between two sites' clocks over NATS: one side serves its
// time on a subject of the group, the other asks and halves the round trip.
package clock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Subject is where the group's primary site tells its time.
func Subject(group string) string { return "fsctl." + group + ".clock" }

// Answer is the body of an answer, as JSON.
type Answer struct {
	Time time.Time `json:"time"` // of the answering side's clock
}

// Offset is a measurement.
type Offset struct {
	Offset    time.Duration // the answering side's clock minus ours
	RoundTrip time.Duration // the measurement is off by at most half of it
}

// ErrUnavailable means that nobody answers.
var ErrUnavailable = errors.New("no snapshotter tells its time")

// Serve answers with now's time until ctx ends; nil means time.Now.
func Serve(ctx context.Context, conn *nats.Conn, group string, now func() time.Time) error {
	if now == nil {
		now = time.Now
	}
	sub, err := conn.Subscribe(Subject(group), func(m *nats.Msg) {
		body, err := json.Marshal(Answer{Time: now().UTC()})
		if err == nil {
			_ = m.Respond(body) // lost answers are the asker's time-out
		}
	})
	if err != nil {
		return fmt.Errorf("serve clock: %w", err)
	}
	<-ctx.Done()
	_ = sub.Unsubscribe() // fails only where the connection is closed already
	return nil
}

// Measure asks once. The asking side's clock must not be set meanwhile. The answer is good to half
// the round trip: take the one of several with the shortest.
func Measure(ctx context.Context, conn *nats.Conn, group string) (Offset, error) {
	sent := time.Now()
	m, err := conn.RequestWithContext(ctx, Subject(group), nil)
	trip := time.Since(sent)
	if errors.Is(err, nats.ErrNoResponders) {
		return Offset{}, ErrUnavailable
	}
	if err != nil {
		return Offset{}, fmt.Errorf("measure clock: %w", err)
	}
	var a Answer
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return Offset{}, fmt.Errorf("measure clock: decode answer: %w", err)
	}
	return Offset{Offset: a.Time.Sub(sent.Round(0).Add(trip / 2)), RoundTrip: trip}, nil
}
