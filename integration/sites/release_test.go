package sites

import (
	"context"
	"testing"
	"time"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/rebuild"
	"github.com/farshore/farshore/pkg/release"
)

// taken is an applier that has released everything.
type taken struct{}

func (taken) Plan(context.Context) (*rebuild.Plan, error) { return &rebuild.Plan{}, nil }
func (taken) Begin(context.Context) error                 { return nil }
func (taken) Progress(context.Context) (rebuild.Progress, error) {
	return rebuild.Progress{Mode: rebuild.ModeReleased, Done: 3}, nil
}

// With the permissions that are deployed an operator at the DR site asks the applier for a takeover, and the applier makes it durable.
func TestOperatorReleases(t *testing.T) {
	p := startPair(t)
	applier, operator := p.connect(t, "dr", "applier"), p.connect(t, "dr", "operator")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- release.Serve(ctx, applier.Conn(), "shop", taken{}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	harness.Eventually(t, 15*time.Second, "the release is over", func() error {
		_, err := release.Run(t.Context(), release.ApplierOf(operator.Conn(), "shop"), nil)
		return err
	})
	want := release.Record{Mode: rebuild.ModeReleased}
	if err := release.Save(t.Context(), applier, "shop", want); err != nil {
		t.Fatal(err)
	}
	if got, err := release.Load(t.Context(), applier, "shop"); err != nil || got.Mode != want.Mode {
		t.Errorf("%+v, %v", got, err)
	}
}
