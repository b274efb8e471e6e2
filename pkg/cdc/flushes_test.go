package cdc

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

// Those who ask while a flush runs share the next one, with its error, and never the one that runs.
func TestFlushesAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f flushes
		calls := make(chan chan error)
		flush := func() error {
			answer := make(chan error)
			calls <- answer
			return <-answer
		}
		var wg sync.WaitGroup
		results := make([]error, 12)
		ask := func(from, to int) {
			for i := from; i < to; i++ {
				wg.Go(func() { results[i] = f.do(flush) })
			}
			synctest.Wait()
		}
		ask(0, 1)
		first := <-calls
		ask(1, 6)
		select {
		case <-calls:
			t.Fatal("two flushes at once")
		default:
		}
		bad := errors.New("bad")
		first <- nil
		second := <-calls
		ask(6, 12) // they are not served by the second, which had begun
		second <- bad
		third := <-calls
		third <- nil
		wg.Wait()
		for i, err := range results {
			if want := i >= 1 && i < 6; (err == bad) != want {
				t.Errorf("flush %d: %v", i, err)
			}
		}
	})
}
