package archive

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/farshore/farshore/pkg/archive/store"
)

// What leases are for: the folders of the store that they lie in.
const (
	runLeases  = "runs/"
	lockLeases = "locks/"
)

// leaseTimes say how often a lease is renewed, and after how long without it its holder counts as dead.
type leaseTimes struct{ renew, dead time.Duration }

var usualTimes = leaseTimes{renew: time.Minute, dead: 30 * time.Minute}

// errLost means that somebody took the lease's holder for dead: what the lease protected may be gone.
var errLost = errors.New("it was not renewed for so long that it was taken for dead")

// A lease tells others, through the store alone, that its holder is alive: a run, or who has the lock. It is an object that
// is put anew under another name for every renewal; ages are told by the store's clock alone, since listings have it.
//
// A lease that was taken for dead never comes back to life unnoticed, whatever stalls: who declares it dead deletes
// its objects and then lists them again, so a renewal that was put before that listing is seen and keeps the holder alive; and a holder that
// puts a renewal lists then, so where the deletion came before that it misses the object of the renewal before, and knows.
type lease struct {
	store  store.Store
	name   string // of its objects, without the number
	holder leaseHolder
	times  leaseTimes
	cancel context.CancelFunc // ends the renewals
	ended  chan struct{}

	renewing sync.Mutex // held through a renewal
	tried    uint64     // the newest object's number, whether it was put or not
	number   uint64     // of the newest object that is known to be there

	mu      sync.Mutex
	renewed time.Time // when the newest object was put, by the store's clock
	asked   time.Time // when its renewal began, by this machine's
	lost    bool
}

// leaseHolder is what a lease's object says.
type leaseHolder struct {
	Holder string    `json:"holder"`
	Since  time.Time `json:"since"` // by the store's clock; zero in the first object
}

// takeLease puts a lease and renews it until end.
func takeLease(ctx context.Context, s store.Store, folder string, times leaseTimes) (*lease, error) {
	l := &lease{
		store: s, name: folder + uuid.NewString() + ".", times: times,
		holder: leaseHolder{Holder: thisProcess()}, ended: make(chan struct{}),
	}
	if err := l.renew(ctx); err != nil {
		l.remove(ctx)
		return nil, err
	}
	l.holder.Since = l.renewed
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l.cancel = cancel
	go func() {
		defer close(l.ended)
		l.keep(background)
	}()
	return l, nil
}

// thisProcess names the process for the people who wait for it.
func thisProcess() string {
	host, err := os.Hostname()
	if err != nil {
		host = "a machine without a name"
	}
	return fmt.Sprintf("%s on %s (process %d)", filepath.Base(os.Args[0]), host, os.Getpid())
}

// keep renews the lease. What fails is tried again soon; whether that was too late, the store tells.
func (l *lease) keep(ctx context.Context) {
	wait := l.times.renew
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		wait = l.times.renew
		if err := l.renew(ctx); errors.Is(err, errLost) {
			return
		} else if err != nil {
			wait = l.times.renew / 4
		}
	}
}

// renew puts the lease anew and tells whether it was alive all along: errLost, if not.
func (l *lease) renew(ctx context.Context) error {
	l.renewing.Lock()
	defer l.renewing.Unlock()
	if l.isLost() {
		return errLost
	}
	content, err := json.Marshal(l.holder)
	if err != nil {
		return err
	}
	l.tried++ // never a name that somebody may be deleting
	asked, next := time.Now(), l.tried
	if err := l.store.Put(ctx, l.object(next), content); err != nil {
		return err
	}
	var renewed time.Time
	before := l.number == 0
	for info, err := range l.store.List(ctx, l.name) {
		if err != nil {
			return err
		}
		before = before || info.Name == l.object(l.number)
		if info.Name == l.object(next) {
			renewed = info.Modified
		}
	}
	l.mu.Lock()
	l.lost = !before || renewed.IsZero()
	if !l.lost {
		l.asked, l.renewed = asked, renewed
	}
	l.mu.Unlock()
	if l.isLost() {
		l.remove(ctx)
		return errLost
	}
	if l.number > 0 {
		// One that stays is in nobody's way: the newest object counts, and end deletes all.
		_ = l.store.Delete(ctx, l.object(l.number))
	}
	l.number = next
	return nil
}

func (l *lease) isLost() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

func (l *lease) object(number uint64) string { return fmt.Sprintf("%s%08d", l.name, number) }

// alive tells, without asking the store, whether the lease can have been taken for dead yet.
func (l *lease) alive() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost || time.Since(l.asked) > l.times.dead/2 {
		return errLost
	}
	return nil
}

// now is the store's clock as of the newest renewal.
func (l *lease) now() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.renewed
}

// end gives the lease up.
func (l *lease) end(ctx context.Context) {
	l.cancel()
	<-l.ended
	l.renewing.Lock()
	defer l.renewing.Unlock()
	l.remove(ctx)
}

// remove deletes the lease's objects, also when the work was called off. One that stays is dead after a while.
func (l *lease) remove(ctx context.Context) {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for info, err := range l.store.List(limited, l.name) {
		if err != nil {
			return
		}
		_ = l.store.Delete(limited, info.Name)
	}
}

// leaseState is a lease of anybody, as the store has it.
type leaseState struct {
	id      string // its objects' name, without folder and number
	objects []string
	renewed time.Time // by the store's clock
}

// leases lists the leases in a folder, by their IDs.
func leases(ctx context.Context, s store.Store, folder string) ([]leaseState, error) {
	var out []leaseState
	for info, err := range s.List(ctx, folder) {
		if err != nil {
			return nil, err
		}
		id, _, _ := strings.Cut(path.Base(info.Name), ".")
		if len(out) == 0 || out[len(out)-1].id != id {
			out = append(out, leaseState{id: id})
		}
		last := &out[len(out)-1]
		last.objects = append(last.objects, info.Name)
		if info.Modified.After(last.renewed) {
			last.renewed = info.Modified
		}
	}
	return out, nil
}

// said reads what the lease's newest object says; zero where it is gone.
func (l leaseState) said(ctx context.Context, s store.Store) (leaseHolder, error) {
	var out leaseHolder
	content, err := s.Get(ctx, l.objects[len(l.objects)-1], 0, -1)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return out, nil
	case err != nil:
		return out, err
	}
	if err := json.Unmarshal(content, &out); err != nil {
		return leaseHolder{}, nil // it is there: that is what counts
	}
	if out.Since.IsZero() {
		out.Since = l.renewed
	}
	return out, nil
}

// bury removes the leases of a folder whose holders are dead at now, the store's time, and returns the others and how
// many it removed. See lease for why it lists twice.
func bury(ctx context.Context, s store.Store, folder string, now time.Time, dead time.Duration) (alive []leaseState, buried int, err error) {
	all, err := leases(ctx, s, folder)
	if err != nil {
		return nil, 0, err
	}
	for _, l := range all {
		if now.Sub(l.renewed) <= dead {
			alive = append(alive, l)
			continue
		}
		for _, name := range l.objects {
			if err := s.Delete(ctx, name); err != nil {
				return nil, buried, err
			}
		}
		again, err := leases(ctx, s, folder+l.id+".")
		if err != nil {
			return nil, buried, err
		}
		if len(again) == 0 {
			buried++
			continue
		}
		l.objects, l.renewed = again[0].objects, again[0].renewed
		alive = append(alive, l)
	}
	return slices.Clip(alive), buried, nil
}

// id is the lease's, as leases has it.
func (l *lease) id() string { return strings.TrimSuffix(path.Base(l.name), ".") }

// takeLock takes the archive's lock, which admits one process that deletes; another's is a *LockedError. Two that come at once may both be refused.
func takeLock(ctx context.Context, s store.Store, times leaseTimes) (*lease, error) {
	l, err := takeLease(ctx, s, lockLeases, times)
	if err != nil {
		return nil, err
	}
	alive, _, err := bury(ctx, s, lockLeases, l.now(), times.dead)
	for _, other := range alive {
		if err != nil || other.id == l.id() {
			continue
		}
		var said leaseHolder
		if said, err = other.said(ctx, s); err == nil {
			err = &LockedError{Holder: cmp.Or(said.Holder, "another process"), Since: said.Since}
		}
	}
	if err != nil {
		l.end(ctx)
		return nil, err
	}
	return l, nil
}
