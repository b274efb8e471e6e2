package durable_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/farshore/farshore/internal/durable"
)

func TestLocks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	for range 2 {
		if err := durable.MkdirAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	taken := errors.New("taken")
	name := filepath.Join(dir, "lock")
	first, err := durable.Lock(name, true, taken)
	if err != nil {
		t.Fatal(err)
	}
	second, err := durable.Lock(name, true, taken)
	if err != nil {
		t.Fatalf("a shared lock is not shared: %v", err)
	}
	if _, err := durable.Lock(name, false, taken); !errors.Is(err, taken) {
		t.Fatalf("a lock of its own beside others: %v", err)
	}
	if err := errors.Join(first.Close(), second.Close()); err != nil {
		t.Fatal(err)
	}
	own, err := durable.Lock(name, false, taken)
	if err != nil {
		t.Fatalf("a lock outlives its holders: %v", err)
	}
	if _, err := durable.Lock(name, true, taken); !errors.Is(err, taken) {
		t.Fatalf("shared with one who wants it alone: %v", err)
	}
	if err := own.Close(); err != nil {
		t.Fatal(err)
	}
	if err := durable.Sync(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that isn't there is made durable: %v", err)
	}
}
