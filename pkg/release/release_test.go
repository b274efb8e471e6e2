package release

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal/journaltest"
	"github.com/farshore/farshore/pkg/rebuild"
)

// takeover is an applier whose release takes a few questions.
type takeover struct {
	mu       sync.Mutex
	plan     rebuild.Plan
	err      error
	progress rebuild.Progress
	begun    int
}

func (a *takeover) Plan(context.Context) (*rebuild.Plan, error) { return &a.plan, a.err }

func (a *takeover) Begin(context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.begun++
	if a.err == nil {
		a.progress.Mode = rebuild.ModeReleasing
	}
	return a.err
}

func (a *takeover) Progress(context.Context) (rebuild.Progress, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.progress.Mode == rebuild.ModeReleasing {
		if a.progress.Done++; a.progress.Done == a.progress.Total {
			a.progress.Mode = rebuild.ModeReleased
		}
	}
	return a.progress, a.err
}

// A plan of more objects than fit a message uncompressed, the release and its progress reach who asks; so do refusals.
func TestOperatorAsksTheApplier(t *testing.T) {
	conn := journaltest.Sites(t).DR.Conn()
	a := &takeover{progress: rebuild.Progress{Mode: rebuild.ModeStandby, Total: 3}}
	for i := range 20_000 {
		a.plan.Steps = append(a.plan.Steps, rebuild.Step{
			Object: rebuild.Ref{Group: "apps", Version: "v1", Resource: "deployments", Kind: "Deployment", Namespace: "bank", Name: fmt.Sprint("web-", i)},
			Phase:  "workloads", Action: rebuild.ActionRelease, Detail: "spec.replicas 0 → 3",
		})
	}
	asked := ApplierOf(conn, "bank")
	if _, err := asked.Progress(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("nobody answers: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, conn, "bank", a) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; {
		p, err := asked.Progress(t.Context())
		if err == nil && reflect.DeepEqual(p, a.progress) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v, %v", p, err)
		}
	}
	plan, err := asked.Plan(t.Context())
	if err != nil || !reflect.DeepEqual(*plan, a.plan) {
		t.Errorf("plan of %d steps: %v", len(a.plan.Steps), err)
	}
	var seen []int
	end, err := Run(t.Context(), asked, func(p rebuild.Progress) { seen = append(seen, p.Done) })
	if err != nil || end.Mode != rebuild.ModeReleased || !reflect.DeepEqual(seen, []int{1, 2, 3}) || a.begun != 1 {
		t.Errorf("%+v, %v; seen %v; begun %d times", end, err, seen, a.begun)
	}
	a.err = fmt.Errorf("%w: no objects", ErrNone)
	if _, err := Run(t.Context(), asked, nil); !errors.Is(err, ErrNone) || err.Error() != a.err.Error() {
		t.Errorf("got %v", err)
	}
	a.err = errors.New("the API server is down")
	if _, err := asked.Plan(t.Context()); err == nil || errors.Is(err, ErrNone) || err.Error() != a.err.Error() {
		t.Errorf("got %v", err)
	}
}

// What was saved is there for the next applier.
func TestRecordIsDurable(t *testing.T) {
	dr := journaltest.Sites(t).DR
	r, err := Load(t.Context(), dr, "bank")
	if err != nil || r.Mode != rebuild.ModeStandby {
		t.Fatalf("%+v, %v", r, err)
	}
	want := RecordOf(rebuild.Progress{
		Mode: rebuild.ModeReleased, Since: time.Now().UTC().Round(0), Point: group.Point{Barrier: 7, Time: time.Now().UTC().Round(0), Kind: "crash"},
		Failed: []rebuild.Step{{Object: rebuild.Ref{Version: "v1", Resource: "pods", Kind: "Pod", Namespace: "a", Name: "b"}, Refused: "no"}},
	})
	if err := Save(t.Context(), dr, "bank", want); err != nil {
		t.Fatal(err)
	}
	got, err := Load(t.Context(), dr, "bank")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if other, err := Load(t.Context(), dr, "shop"); err != nil || other.Mode != rebuild.ModeStandby {
		t.Errorf("another group: %+v, %v", other, err)
	}
}
