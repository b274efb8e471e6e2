package storetest_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
)

func TestFaultyKeepsTheRules(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return storetest.NewFaulty(new(storetest.Memory)) })
}

func TestFaulty(t *testing.T) {
	f := storetest.NewFaulty(new(storetest.Memory))
	is := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: error %v, want %v", what, err, want)
		}
	}
	there := func(name string) (int, error) {
		b, err := f.Store.Get(t.Context(), name, 0, -1)
		return len(b), err
	}
	put := func(name string) error { return f.Put(t.Context(), name, []byte("content")) }

	f.On(storetest.FailAt(1, false))
	is("fail before", put("a"), storetest.ErrInjected)
	_, err := there("a")
	is("put that failed before", err, store.ErrNotFound)
	is("the next one", put("a"), nil)

	f.On(storetest.FailAt(1, true))
	is("fail after", put("b"), storetest.ErrInjected)
	_, err = there("b")
	is("put that failed after", err, nil)

	f.On(storetest.DieAt(2, true))
	is("alive", put("c"), nil)
	is("dying", f.Delete(t.Context(), "c"), storetest.ErrInjected)
	_, err = there("c")
	is("the last effect", err, store.ErrNotFound)
	is("dead", put("c"), storetest.ErrInjected)
	for _, err := range f.List(t.Context(), "") {
		is("a listing by the dead", err, storetest.ErrInjected)
	}
	var names []string
	for _, op := range f.Ops() {
		names = append(names, op.String())
	}
	if want := []string{"1: Put c", "2: Delete c", "3: Put c", "4: List "}; !slices.Equal(names, want) {
		t.Errorf("noted: %q, want %q", names, want)
	}

	f.On(func(op storetest.Op) *storetest.Fault {
		return map[int]*storetest.Fault{
			1: {Data: storetest.Flip(9)}, 2: {Data: storetest.Truncate(3)}, 4: {Data: storetest.Truncate(1)}, 5: {Data: storetest.Flip(0)},
			6: {Then: func() { is("meanwhile", f.Store.Delete(t.Context(), "d"), nil) }},
		}[op.N]
	})
	is("put with a bit flipped", put("d"), nil)
	if b, _ := f.Store.Get(t.Context(), "d", 0, -1); string(b) != "cmntent" {
		t.Errorf("stored with a bit flipped: %q", b)
	}
	is("put cut short", put("e"), nil)
	if n, _ := there("e"); n != 4 {
		t.Errorf("stored cut short: %d bytes", n)
	}
	is("put", put("d"), nil)
	_, err = f.Get(t.Context(), "d", 0, 7)
	is("read cut short", err, store.ErrShort)
	if b, err := f.Get(t.Context(), "d", 0, 7); err != nil || string(b) != "bontent" {
		t.Errorf("read with a bit flipped: %q, %v", b, err)
	}
	is("put, and then something else", put("d"), nil)
	_, err = there("d")
	is("deleted right after", err, store.ErrNotFound)
}
