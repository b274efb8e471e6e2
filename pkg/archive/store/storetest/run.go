package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/archive/store"
)

// Run checks that a store does what store.Store says. open returns an empty one.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, store.Store)
	}{
		{"put and get", putAndGet},
		{"ranges", ranges},
		{"replace", replace},
		{"delete", deleteObjects},
		{"list", list},
		{"list many", listMany},
		{"modified", modified},
		{"names", namesOfObjects},
		{"whole or not at all", whole},
		{"cancelled", cancelled},
		{"below", below},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

func put(t *testing.T, s store.Store, name string, data []byte) {
	t.Helper()
	if err := s.Put(t.Context(), name, data); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s store.Store, name string, off, length int64) []byte {
	t.Helper()
	data, err := s.Get(t.Context(), name, off, length)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func listed(t *testing.T, s store.Store, prefix string) []string {
	t.Helper()
	var names []string
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	return names
}

// pattern is n bytes that differ from place to place.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7) ^ byte(i>>8) ^ seed
	}
	return b
}

func putAndGet(t *testing.T, s store.Store) {
	for _, size := range []int{0, 1, 4096, 16<<20 + 3} {
		name := fmt.Sprintf("packs/%d", size)
		data := pattern(size, byte(size))
		given := slices.Clone(data)
		put(t, s, name, given)
		if !bytes.Equal(given, data) {
			t.Fatalf("%s: Put changed what it was given", name)
		}
		clear(given) // it belongs to the caller again
		if got := get(t, s, name, 0, -1); !bytes.Equal(got, data) {
			t.Fatalf("%s: got %d bytes that are not what was put", name, len(got))
		}
	}
	if _, err := s.Get(t.Context(), "packs/none", 0, -1); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an object that isn't there: %v", err)
	}
	if _, err := s.Get(t.Context(), "packs", 0, -1); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a directory of objects: %v", err)
	}
	if _, err := s.Get(t.Context(), "packs/1/2", 0, 1); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an object below another: %v", err)
	}
	if _, err := s.Get(t.Context(), "none", 0, 0); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no bytes of an object that isn't there: %v", err)
	}
	if s.String() == "" {
		t.Error("nobody can tell where the store is")
	}
}

func ranges(t *testing.T, s store.Store) {
	const size = 1000
	data := pattern(size, 1)
	put(t, s, "a/object", data)
	put(t, s, "a/empty", nil)
	for _, tt := range []struct {
		off, length int64
		short       bool
	}{
		{0, size, false}, {0, 1, false}, {size - 1, 1, false}, {10, 500, false}, {10, 0, false}, {size, 0, false},
		{10, -1, false}, {size - 1, -1, false}, {size, -1, false},
		{0, size + 1, true}, {size - 1, 2, true}, {size, 1, true}, {size + 1, 1, true}, {size + 1, -1, true}, {size + 1, 0, true},
	} {
		got, err := s.Get(t.Context(), "a/object", tt.off, tt.length)
		if tt.short {
			if !errors.Is(err, store.ErrShort) {
				t.Errorf("%d bytes from %d of %d: error %v, want ErrShort", tt.length, tt.off, size, err)
			}
			continue
		}
		end := tt.off + tt.length
		if tt.length < 0 {
			end = size
		}
		if err != nil || !bytes.Equal(got, data[tt.off:end]) {
			t.Errorf("%d bytes from %d: got %d, error %v", tt.length, tt.off, len(got), err)
		}
	}
	if got := get(t, s, "a/empty", 0, -1); len(got) != 0 {
		t.Errorf("an empty object has %d bytes", len(got))
	}
	if _, err := s.Get(t.Context(), "a/empty", 0, 1); !errors.Is(err, store.ErrShort) {
		t.Errorf("a byte of an empty object: %v", err)
	}
}

func replace(t *testing.T, s store.Store) {
	for _, size := range []int{100, 10, 1000, 0, 5} {
		data := pattern(size, byte(size))
		put(t, s, "archive.json", data)
		if got := get(t, s, "archive.json", 0, -1); !bytes.Equal(got, data) {
			t.Fatalf("after a put of %d bytes there are %d others", size, len(got))
		}
		if got := listed(t, s, ""); !slices.Equal(got, []string{"archive.json"}) {
			t.Fatalf("listed: %v", got)
		}
	}
}

func deleteObjects(t *testing.T, s store.Store) {
	put(t, s, "runs/a", []byte("a"))
	put(t, s, "runs/b", []byte("b"))
	for range 2 {
		if err := s.Delete(t.Context(), "runs/a"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(t.Context(), "runs/a", 0, -1); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("a deleted object: %v", err)
		}
		if got := listed(t, s, "runs/"); !slices.Equal(got, []string{"runs/b"}) {
			t.Fatalf("listed: %v", got)
		}
	}
	for _, name := range []string{"none/at/all", "runs/b/c"} {
		if err := s.Delete(t.Context(), name); err != nil {
			t.Errorf("delete %s, which isn't there: %v", name, err)
		}
	}
	if err := s.Delete(t.Context(), "runs/b"); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, s, ""); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	put(t, s, "runs/a", []byte("again"))
	if got := get(t, s, "runs/a", 0, -1); string(got) != "again" {
		t.Errorf("put again after a delete: %q", got)
	}
}

func list(t *testing.T, s store.Store) {
	if got := listed(t, s, ""); len(got) != 0 {
		t.Fatalf("an empty store lists %v", got)
	}
	names := []string{"archive.json", "packs/00/00a", "packs/00/00b", "packs/0f/0f1", "packs/f0/f01", "points/00000000000000000001",
		"points/00000000000000000002", "points-a/b", "points.b", "points_c", "z"}
	slices.Sort(names) // '-' and '.' come before '/', '_' after
	for i, name := range slices.Backward(names) {
		put(t, s, name, pattern(i+1, 0))
	}
	for _, prefix := range []string{"", "p", "packs", "packs/", "packs/0", "packs/00/", "packs/00/00a", "points", "points/", "points/000", "runs/", "zz"} {
		var want []string
		for _, name := range names {
			if strings.HasPrefix(name, prefix) {
				want = append(want, name)
			}
		}
		if got := listed(t, s, prefix); !slices.Equal(got, want) {
			t.Errorf("with prefix %q listed are %v, want %v", prefix, got, want)
		}
	}
	i := 0
	for info, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if info.Size != int64(i+1) {
			t.Errorf("%s has %d bytes, want %d", info.Name, info.Size, i+1)
		}
		if i++; i == 3 {
			break // who has enough is told no more
		}
	}
}

// listMany lists more than any store gives in one answer.
func listMany(t *testing.T, s store.Store) {
	const n = 1100
	var want []string
	for i := range n {
		want = append(want, fmt.Sprintf("packs/%02x/%04d", i%7, i))
	}
	work := make(chan string)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for name := range work {
				if err := s.Put(t.Context(), name, []byte(name)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, name := range want {
		work <- name
	}
	close(work)
	all.Wait()
	slices.Sort(want)
	if got := listed(t, s, "packs/"); !slices.Equal(got, want) {
		t.Errorf("listed are %d objects, or others, want %d", len(got), n)
	}
}

// modified: the store's clock goes on, and a put moves an object's time.
func modified(t *testing.T, s store.Store) {
	at := func() time.Time {
		t.Helper()
		for info, err := range s.List(t.Context(), "runs/") {
			if err != nil {
				t.Fatal(err)
			}
			return info.Modified
		}
		t.Fatal("nothing is listed")
		return time.Time{}
	}
	put(t, s, "runs/a", []byte("a"))
	first := at()
	if first.IsZero() {
		t.Fatal("the time of an object is not known")
	}
	deadline := time.Now().Add(time.Minute)
	for put(t, s, "runs/a", []byte("a")); !at().After(first); put(t, s, "runs/a", []byte("a")) {
		if time.Now().After(deadline) {
			t.Fatal("putting an object again doesn't move its time")
		}
		<-time.After(100 * time.Millisecond) // it is the store's clock that has to go on
	}
}

func namesOfObjects(t *testing.T, s store.Store) {
	for _, name := range []string{"", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "A", "a b", "a\\b", "ä", ".hidden", "a/.b", "a*"} {
		if err := s.Put(t.Context(), name, []byte("x")); err == nil {
			t.Errorf("an object can be named %q", name)
		}
		if _, err := s.Get(t.Context(), name, 0, -1); err == nil {
			t.Errorf("there is an object named %q", name)
		}
		if err := s.Delete(t.Context(), name); err == nil {
			t.Errorf("%q was deleted", name)
		}
	}
	if got := listed(t, s, ""); len(got) != 0 {
		t.Errorf("listed: %v", got)
	}
	put(t, s, "a.b-c_d/0.z", []byte("x"))
}

// whole: whoever reads while others write sees one whole object.
func whole(t *testing.T, s store.Store) {
	const size, writers, rounds = 300 << 10, 4, 10
	put(t, s, "locks/a", bytes.Repeat([]byte{0}, size))
	var writing, reading sync.WaitGroup
	done := make(chan struct{})
	for w := range writers {
		writing.Go(func() {
			for i := range rounds {
				if err := s.Put(t.Context(), "locks/a", bytes.Repeat([]byte{byte(1 + w*rounds + i)}, size-w)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 2 {
		reading.Go(func() {
			for {
				data, err := s.Get(t.Context(), "locks/a", 0, -1)
				if err != nil || len(data) < size-writers || bytes.Count(data, data[:1]) != len(data) {
					t.Errorf("read %d bytes while others write, error %v; they are of one object: %t", len(data), err, len(data) > 0 && bytes.Count(data, data[:1]) == len(data))
					return
				}
				if got := listed(t, s, "locks/"); len(got) != 1 {
					t.Errorf("listed while others write: %v", got)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	writing.Wait()
	close(done)
	reading.Wait()
}

func cancelled(t *testing.T, s store.Store) {
	put(t, s, "a", []byte("a"))
	why := errors.New("enough of it")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	_, getErr := s.Get(ctx, "a", 0, -1)
	var listErr error
	for _, err := range s.List(ctx, "") {
		listErr = err
	}
	for what, err := range map[string]error{"put": s.Put(ctx, "b", nil), "get": getErr, "list": listErr, "delete": s.Delete(ctx, "a")} {
		if !errors.Is(err, why) {
			t.Errorf("%s with a context that is done: %v", what, err)
		}
	}
	if got := listed(t, s, ""); !slices.Equal(got, []string{"a"}) {
		t.Errorf("listed: %v", got)
	}
}

func below(t *testing.T, s store.Store) {
	bank, ban := store.Sub(s, "bank"), store.Sub(s, "ban")
	put(t, bank, "points/1", []byte("bank"))
	put(t, ban, "points/1", []byte("ban"))
	put(t, ban, "points/2", []byte("2"))
	if got := get(t, bank, "points/1", 1, 2); string(got) != "an" {
		t.Errorf("got %q", got)
	}
	if got := listed(t, ban, ""); !slices.Equal(got, []string{"points/1", "points/2"}) {
		t.Errorf("listed: %v", got)
	}
	if err := ban.Delete(t.Context(), "points/1"); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, s, ""); !slices.Equal(got, []string{"ban/points/2", "bank/points/1"}) {
		t.Errorf("listed: %v", got)
	}
	if !strings.HasSuffix(bank.String(), "/bank") || store.Sub(s, "") != s {
		t.Errorf("a part of the store is called %s", bank)
	}
}
