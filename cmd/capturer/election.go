package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

// How fast a capturer that ended without giving its Lease back is replaced: within leaseDuration + leaseRetry.
const (
	leaseDuration = 10 * time.Second
	leaseDeadline = 7 * time.Second
	leaseRetry    = time.Second
)

// election chooses, among the capturers that reach the API server, the one that watches the group's objects.
//
// The Lease decides who begins; the objects stream's epoch decides who may write. So a watcher that can't renew its Lease,
// since the API server is away, goes on: nothing changes there that it could miss, and barriers need its votes. It ends when it
// sees that another one has the Lease, or when that one has fenced it.
type election struct {
	client    coordination.LeasesGetter
	namespace string
	name      string
	identity  string
	log       *slog.Logger
}

func newElection(config *rest.Config, namespace, group, identity string, log *slog.Logger) (*election, error) {
	config = rest.CopyConfig(config)
	config.Timeout = leaseDeadline / 2 // a server that hangs must not use up the time in which the Lease can be renewed
	client, err := coordination.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("compete for watching objects: %w", err)
	}
	return &election{client, namespace, "farshore-" + group, identity, log}, nil
}

// run competes until ctx ends. While this process is chosen it runs lead, whose context ends when it no longer is; when lead returns
// the Lease is given back, and after a while it competes again.
func (e *election) run(ctx context.Context, lead func(context.Context)) {
	for ctx.Err() == nil {
		e.once(ctx, lead)
		pause(ctx, retryEvery)
	}
}

func (e *election) once(ctx context.Context, lead func(context.Context)) {
	// The Lease is held for as long as lead needs to end.
	competing, giveBack := context.WithCancel(context.WithoutCancel(ctx))
	elected, other := make(chan struct{}, 1), make(chan string, 1)
	var work sync.WaitGroup
	work.Go(func() { e.compete(competing, elected, other) })
	defer work.Wait()
	defer giveBack()
	select {
	case <-ctx.Done():
		return
	case <-elected:
	}
	select {
	case <-other: // who had it before
	default:
	}
	leading, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() { defer close(done); lead(leading) }()
	select {
	case <-done:
	case holder := <-other:
		e.log.Warn("another capturer watches the objects now", "holder", holder)
		stop()
		<-done
	}
}

// compete holds the Lease whenever it can. It tells when it has it, and whenever it sees that another one has it.
func (e *election) compete(ctx context.Context, elected chan<- struct{}, other chan<- string) {
	lock := &lease{
		Interface: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: e.namespace, Name: e.name},
			Client:     e.client,
			LockConfig: resourcelock.ResourceLockConfig{Identity: e.identity},
		},
		election: e, other: other,
	}
	ctx = klog.NewContext(ctx, logr.Discard()) // what matters is told here
	for ctx.Err() == nil {
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: lock, Name: e.name, ReleaseOnCancel: true,
			LeaseDuration: leaseDuration, RenewDeadline: leaseDeadline, RetryPeriod: leaseRetry,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) {
					select {
					case elected <- struct{}{}:
					default: // it watches already, and has the Lease back
					}
				},
				OnStoppedLeading: func() {},
			},
		})
		if err != nil {
			e.log.Error("can't compete for watching the objects", "error", err)
			return
		}
		elector.Run(ctx)
		pause(ctx, leaseRetry)
	}
}

// lease is the Lease as it is used: what fails is told, and who has it.
type lease struct {
	resourcelock.Interface
	*election
	other chan<- string

	told   string // trouble, as last reported
	toldAt time.Time
	holder string // as last reported
}

// Get implements resourcelock.Interface.
func (l *lease) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, raw, err := l.Interface.Get(ctx)
	if err == nil && record.HolderIdentity != "" && record.HolderIdentity != l.identity {
		if record.HolderIdentity != l.holder {
			l.holder = record.HolderIdentity
			l.log.Info("another capturer has the Lease", "lease", l.Describe(), "holder", l.holder)
		}
		select {
		case l.other <- record.HolderIdentity:
		default:
		}
	}
	return record, raw, l.trouble(ctx, err)
}

// Create implements resourcelock.Interface.
func (l *lease) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.trouble(ctx, l.Interface.Create(ctx, r))
}

// Update implements resourcelock.Interface.
func (l *lease) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.trouble(ctx, l.Interface.Update(ctx, r))
}

// trouble reports what keeps the process from competing, when it changes and from time to time.
func (l *lease) trouble(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) ||
		errors.Is(err, context.Canceled) {
		return err
	}
	if err.Error() != l.told || time.Since(l.toldAt) >= repeatAfter {
		l.told, l.toldAt = err.Error(), time.Now()
		l.log.Warn("the Lease that chooses who watches the objects can't be used, trying again: check that the API server is up, and the rights of deploy/kubernetes",
			"lease", l.Describe(), "error", err)
	}
	return err
}
