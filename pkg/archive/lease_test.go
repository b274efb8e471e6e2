package archive

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
)

// stepper lets the operations of several actors on one store happen one at a time, in the order that it is told.
type stepper struct {
	store store.Store
	turn  []chan struct{}
}

func newStepper(s store.Store, actors int) *stepper {
	out := &stepper{store: s}
	for range actors {
		out.turn = append(out.turn, make(chan struct{}))
	}
	return out
}

// of is the store as one actor sees it.
func (s *stepper) of(actor int) store.Store {
	f := storetest.NewFaulty(s.store)
	f.On(func(storetest.Op) *storetest.Fault {
		<-s.turn[actor]
		return nil
	})
	return f
}

// step lets the actor's next operation happen; false: there is none.
func (s *stepper) step(actor int) bool {
	synctest.Wait()
	select {
	case s.turn[actor] <- struct{}{}:
		synctest.Wait()
		return true
	default:
		return false
	}
}

// A holder that comes back after it was taken for dead, at whatever moment, knows it, or it wasn't taken for dead. All orders of
// the operations of both are tried.
func TestLeaseRevival(t *testing.T) {
	t.Parallel()
	outcomes := make(map[string]int)
	for order := range 1 << 10 {
		synctest.Test(t, func(t *testing.T) {
			ctx := t.Context()
			memory := new(storetest.Memory)
			s := newStepper(memory, 2)
			times := leaseTimes{renew: 1000 * time.Hour, dead: time.Minute}
			l, err := takeLease(ctx, memory, runLeases, times)
			if err != nil {
				t.Fatal(err)
			}
			defer l.end(ctx)
			time.Sleep(2 * times.dead)
			l.store = s.of(0)
			var renewed, buriedErr error
			buried := 0
			done := make(chan struct{}, 2)
			go func() {
				renewed = l.renew(ctx)
				done <- struct{}{}
			}()
			go func() {
				var alive []leaseState
				alive, buried, buriedErr = bury(ctx, s.of(1), runLeases, time.Now(), times.dead)
				if buriedErr == nil && len(alive)+buried != 1 {
					buriedErr = fmt.Errorf("%d alive, %d buried", len(alive), buried)
				}
				done <- struct{}{}
			}()
			for bits := order; s.step(bits & 1); bits >>= 1 {
			}
			for s.step(0) || s.step(1) {
			}
			<-done
			<-done
			l.store = memory
			if buriedErr != nil || renewed != nil && !errors.Is(renewed, errLost) {
				t.Fatalf("order %b: %v, %v", order, renewed, buriedErr)
			}
			if renewed == nil && buried > 0 {
				renewed = l.renew(ctx) // it learns it at the latest when it asks again
			}
			if buried > 0 && !errors.Is(renewed, errLost) {
				t.Errorf("order %b: buried, and does not know", order)
			}
			outcomes[fmt.Sprintf("buried %d, lost %v", buried, renewed != nil)]++
		})
	}
	if outcomes["buried 1, lost true"] == 0 || outcomes["buried 0, lost false"] == 0 {
		t.Errorf("only these outcomes: %v", outcomes)
	}
}

func TestLeaseLivesAndDies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		faulty := storetest.NewFaulty(new(storetest.Memory))
		l, err := takeLease(ctx, faulty, runLeases, usualTimes)
		if err != nil {
			t.Fatal(err)
		}
		look := func(wait time.Duration, alive, buried int) {
			t.Helper()
			time.Sleep(wait)
			a, b, err := bury(ctx, faulty.Store, runLeases, time.Now(), usualTimes.dead)
			if err != nil || len(a) != alive || b != buried {
				t.Fatalf("%d alive, %d buried, error %v, want %d and %d", len(a), b, err, alive, buried)
			}
		}
		look(100*time.Hour, 1, 0)
		if err := l.alive(); err != nil {
			t.Error(err)
		}
		faulty.On(func(storetest.Op) *storetest.Fault { return &storetest.Fault{Before: storetest.ErrInjected} })
		look(29*time.Minute, 1, 0)
		if err := l.alive(); !errors.Is(err, errLost) {
			t.Errorf("a lease that could not be renewed for long: %v", err)
		}
		faulty.On(nil)
		look(time.Minute, 1, 0)
		if err := l.alive(); err != nil {
			t.Errorf("renewed in time: %v", err)
		}
		faulty.On(func(storetest.Op) *storetest.Fault { return &storetest.Fault{Before: storetest.ErrInjected} })
		look(32*time.Minute, 0, 1)
		faulty.On(nil)
		time.Sleep(usualTimes.renew)
		if err := l.renew(ctx); !errors.Is(err, errLost) {
			t.Errorf("after it was buried: %v", err)
		}
		l.end(ctx)
		look(0, 0, 0)
	})
}

func TestLock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, s := t.Context(), new(storetest.Memory)
		began := time.Now()
		first, err := takeLock(ctx, s, usualTimes)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Hour)
		var locked *LockedError
		if _, err := takeLock(ctx, s, usualTimes); !errors.As(err, &locked) || locked.Holder != thisProcess() || !locked.Since.Equal(began) {
			t.Errorf("a second one: %v", err)
		}
		first.end(ctx)
		second, err := takeLock(ctx, s, usualTimes)
		if err != nil {
			t.Fatalf("after the first was given up: %v", err)
		}
		second.cancel() // it dies
		<-second.ended
		time.Sleep(usualTimes.dead)
		if _, err := takeLock(ctx, s, usualTimes); !errors.As(err, &locked) {
			t.Errorf("while the dead one's may be alive: %v", err)
		}
		time.Sleep(time.Minute)
		third, err := takeLock(ctx, s, usualTimes)
		if err != nil {
			t.Fatalf("after the second ran out: %v", err)
		}
		third.end(ctx)
		for info := range s.List(ctx, "") {
			t.Errorf("left behind: %s", info.Name)
		}
		called, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := takeLock(called, s, usualTimes); !errors.Is(err, context.Canceled) {
			t.Errorf("called off: %v", err)
		}
	})
}
