package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
)

func TestRetryKeepsTheRules(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return store.NewRetry(new(storetest.Memory), store.RetryOptions{}) })
}

// away fails operations with err until a moment.
func away(s store.Store, err error, until time.Time) *storetest.Faulty {
	f := storetest.NewFaulty(s)
	f.On(func(storetest.Op) *storetest.Fault {
		if time.Now().Before(until) {
			return &storetest.Fault{Before: err}
		}
		return nil
	})
	return f
}

// operations does everything that a store can do, in a store that has an object "a".
func operations(ctx context.Context, s store.Store) map[string]func() error {
	return map[string]func() error{
		"put": func() error { return s.Put(ctx, "b", nil) },
		"get": func() error { _, err := s.Get(ctx, "a", 0, -1); return err },
		"list": func() error {
			n := 0
			for _, err := range s.List(ctx, "") {
				if err != nil {
					return err
				}
				n++
			}
			if n == 0 {
				return errors.New("nothing is listed")
			}
			return nil
		},
		"delete": func() error { return s.Delete(ctx, "c") },
	}
}

func memory(t *testing.T, names ...string) *storetest.Memory {
	t.Helper()
	m := new(storetest.Memory)
	for _, name := range names {
		if err := m.Put(t.Context(), name, []byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func TestRetryWaits(t *testing.T) {
	for name := range operations(t.Context(), nil) {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			began := time.Now()
			f := away(memory(t, "a"), errors.New("connection refused"), began.Add(10*time.Minute))
			r := store.NewRetry(f, store.RetryOptions{Log: slog.New(slog.NewTextHandler(&log, nil))})
			if err := operations(t.Context(), r)[name](); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if took := time.Since(began); took < 10*time.Minute || took > 10*time.Minute+16*time.Second {
				t.Errorf("%s of a store that is away for 10 minutes took %v", name, took)
			}
			// Between two attempts are 7.5 to 15 seconds, after the first few.
			if n := len(f.Ops()); n < 40 || n > 100 {
				t.Errorf("%s was tried %d times", name, n)
			}
			if n := strings.Count(log.String(), "waiting for the store"); n < 10 || n > 21 {
				t.Errorf("%s: said %d times that it waits", name, n)
			}
			if n := strings.Count(log.String(), "the store is back"); n != 1 {
				t.Errorf("%s: said %d times that the store is back", name, n)
			}
		})
	}
}

func TestRetryGivesUp(t *testing.T) {
	for name := range operations(t.Context(), nil) {
		synctest.Test(t, func(t *testing.T) {
			passing := errors.New("connection refused")
			never := time.Now().Add(1000 * time.Hour)
			for _, err := range []error{store.ErrDenied, store.ErrNoBucket, store.ErrClockSkew, store.ErrNotFound, store.ErrShort} {
				f := away(memory(t, "a"), fmt.Errorf("here: %w", err), never)
				if got := operations(t.Context(), store.NewRetry(f, store.RetryOptions{}))[name](); !errors.Is(got, err) || len(f.Ops()) != 1 {
					t.Errorf("%s: error %v after %d attempts, want %v after one", name, got, len(f.Ops()), err)
				}
			}
			began := time.Now()
			f := away(memory(t, "a"), passing, never)
			err := operations(t.Context(), store.NewRetry(f, store.RetryOptions{Limit: time.Minute}))[name]()
			if took := time.Since(began); !errors.Is(err, passing) || took > time.Minute || took < 30*time.Second || !strings.Contains(err.Error(), "given up after") {
				t.Errorf("%s with a limit of a minute: error %v after %v", name, err, took)
			}
			enough := errors.New("enough of it")
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Minute, func() { cancel(enough) })
			began = time.Now()
			err = operations(ctx, store.NewRetry(f, store.RetryOptions{}))[name]()
			if took := time.Since(began); took != time.Minute || !errors.Is(err, enough) || !errors.Is(err, passing) {
				t.Errorf("%s, cancelled after a minute: error %v after %v", name, err, took)
			}
		})
	}
}

// stutter is a store whose listings fail after each few objects.
type stutter struct {
	store.Store
	every int
}

func (s *stutter) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		n := 0
		s.every++
		for info, err := range s.Store.List(ctx, prefix) {
			if n == s.every {
				yield(store.Info{}, errors.New("connection reset"))
				return
			}
			n++
			if !yield(info, err) {
				return
			}
		}
	}
}

// A listing that is broken off tells every object once all the same.
func TestRetryList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory(t, "a", "b", "c", "d", "e", "f")
		var got string
		for info, err := range store.NewRetry(&stutter{Store: m}, store.RetryOptions{}).List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			got += info.Name
		}
		if got != "abcdef" {
			t.Errorf("listed: %s", got)
		}
	})
}
