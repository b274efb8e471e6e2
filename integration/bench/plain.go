package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/farshore/farshore/integration/harness"
)

func init() {
	parts["publish"] = publish
	parts["consume"] = consume
}

// plainStream is a stream at the primary with a mirror at the DR site, made as those of volumes are.
const plainStream = "PLAIN"

func makePlainStream(ctx context.Context, p *harness.Pair, primary, dr jetstream.JetStream) error {
	_, err := primary.CreateStream(ctx, jetstream.StreamConfig{
		Name: plainStream, Subjects: []string{"plain"}, Discard: jetstream.DiscardOld, MaxBytes: 1 << 30,
	})
	if err != nil {
		return err
	}
	_, err = primary.CreatePushConsumer(ctx, plainStream, jetstream.ConsumerConfig{
		Durable: "to_dr", DeliverSubject: "plainmirror", DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy: jetstream.AckFlowControlPolicy, FlowControl: true, IdleHeartbeat: time.Second, MaxAckPending: 20000,
	})
	if err != nil {
		return err
	}
	_, err = dr.CreateStream(ctx, jetstream.StreamConfig{Name: plainStream + "M", Mirror: &jetstream.StreamSource{
		Name: plainStream, External: &jetstream.ExternalStream{APIPrefix: "$JS.primary.API"},
		Consumer: &jetstream.StreamConsumerSource{Name: "to_dr", DeliverSubject: "plainmirror"},
	}})
	if err != nil {
		return err
	}
	_, err = dr.CreateConsumer(ctx, plainStream+"M", jetstream.ConsumerConfig{Durable: "reader", AckPolicy: jetstream.AckNonePolicy})
	return err
}

// published is what the publishing process tells at its end.
type published struct {
	Begun    time.Time `json:"begun"`
	Messages int64     `json:"messages"`
	Last     uint64    `json:"last"` // sequence
}

// publish publishes random messages: publish URL BYTES DURATION.
func publish(ctx context.Context, args []string) error {
	length, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	d, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	nc, err := nats.Connect(args[0])
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.NewWithDomain(nc, "primary", jetstream.WithPublishAsyncMaxPending(max(16, min(4096, (64<<20)/length))))
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(1, 2))
	out := published{Begun: time.Now()}
	var last jetstream.PubAckFuture
	for time.Since(out.Begun) < d && ctx.Err() == nil {
		if last, err = js.PublishAsync("plain", content(r, length), jetstream.WithStallWait(10*time.Second)); err != nil {
			return err
		}
		out.Messages++
	}
	select {
	case ack := <-last.Ok():
		out.Last = ack.Sequence
	case err := <-last.Err():
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// consume reads the mirror until it is told to end: consume URL.
func consume(ctx context.Context, args []string) error {
	nc, err := nats.Connect(args[0])
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.NewWithDomain(nc, "dr")
	if err != nil {
		return err
	}
	c, err := js.Consumer(ctx, plainStream+"M", "reader")
	if err != nil {
		return err
	}
	reading, err := c.Consume(func(jetstream.Msg) {}, jetstream.PullMaxMessages(64))
	if err != nil {
		return err
	}
	defer reading.Stop()
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
	return nil
}

// plainRun publishes messages of a length for a while, and returns how many bytes a second arrived at a consumer of
// the mirror.
func plainRun(ctx context.Context, p *harness.Pair, dr jetstream.JetStream, length int, d time.Duration) (float64, error) {
	publisher, err := self("publish", p.PrimaryURL, strconv.Itoa(length), d.String())
	if err != nil {
		return 0, err
	}
	select {
	case <-publisher.done:
	case <-ctx.Done():
		publisher.stop()
		return 0, ctx.Err()
	}
	var out published
	if err := json.Unmarshal(publisher.said.Bytes(), &out); err != nil {
		return 0, fmt.Errorf("publish: %w: %s", err, publisher.said.String())
	}
	for limit := time.Now().Add(time.Minute); ; pause(ctx, 5*time.Millisecond) {
		c, err := dr.Consumer(ctx, plainStream+"M", "reader")
		if err != nil {
			return 0, err
		}
		if i := c.CachedInfo(); i.Delivered.Stream >= out.Last {
			return float64(out.Messages*int64(length)) / time.Since(out.Begun).Seconds(), nil
		}
		if time.Now().After(limit) {
			return 0, fmt.Errorf("messages don't arrive at the DR site's consumer")
		}
	}
}
