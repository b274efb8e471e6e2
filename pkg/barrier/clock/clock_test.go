package clock

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/journal/journaltest"
)

func TestMeasure(t *testing.T) {
	conn := journaltest.One(t).Conn()
	if _, err := Measure(t.Context(), conn, "shop"); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("nobody answers, got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	const ahead = time.Hour
	go func() { ended <- Serve(ctx, conn, "shop", func() time.Time { return time.Now().Add(ahead) }) }()
	limit, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	o, err := Measure(limit, conn, "shop")
	for errors.Is(err, ErrUnavailable) && limit.Err() == nil {
		o, err = Measure(limit, conn, "shop")
	}
	if err != nil {
		t.Fatal(err)
	}
	if off := (o.Offset - ahead).Abs(); o.RoundTrip <= 0 || off > o.RoundTrip/2 {
		t.Errorf("measured %s with a round trip of %s, want %s", o.Offset, o.RoundTrip, ahead)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
