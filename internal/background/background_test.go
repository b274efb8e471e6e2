package background_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/farshore/farshore/internal/background"
)

// A goroutine that gives way takes no other one with it.
func TestThread(t *testing.T) {
	t.Parallel()
	nice := func() int {
		n, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
		if err != nil {
			t.Error(err)
		}
		return 20 - n // as the system call has it
	}
	before := nice()
	inside := make(chan int)
	go func() {
		background.Thread()
		inside <- nice()
	}()
	if got := <-inside; got != max(before, 10) {
		t.Errorf("niceness is %d, was %d", got, before)
	}
	for range 100 {
		done := make(chan int)
		go func() { done <- nice() }()
		if got := <-done; got != before {
			t.Fatalf("niceness of another goroutine is %d, was %d", got, before)
		}
	}
}
