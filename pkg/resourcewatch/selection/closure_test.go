package selection

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/farshore/farshore/pkg/events"
)

// TestIncrementalIsFromScratch: after each step of a random history the closure selects what one selects that is told
// of the objects that exist in another order, and the changes that it returned add up to that.
func TestIncrementalIsFromScratch(t *testing.T) {
	for range 300 {
		seed := rand.Uint64()
		if !history(t, rand.New(rand.NewPCG(seed, 1))) {
			t.Fatalf("seed %d", seed)
		}
	}
}

func history(t *testing.T, rng *rand.Rand) bool {
	n := 3 + rng.IntN(15)
	ref := func(i int) Ref { return Ref{"g", "K", "", fmt.Sprint(i)} }
	key := func(i int) events.ObjectKey {
		return events.ObjectKey{Group: "g", Version: "v1", Resource: "ks", Name: fmt.Sprint(i)}
	}
	some := func(most int) (out []Ref) {
		for range rng.IntN(most + 1) {
			out = append(out, ref(rng.IntN(n)))
		}
		return out
	}
	c := NewClosure()
	exists := make(map[int]Facts)
	told := make(map[events.ObjectKey]bool)
	for step := range 60 {
		i := rng.IntN(n)
		var changes []Change
		if rng.IntN(3) == 0 {
			delete(exists, i)
			changes = c.Delete(key(i))
		} else {
			f := Facts{Key: key(i), Ref: ref(i), Root: rng.IntN(5) == 0, Needs: some(2), Serves: some(1)}
			if rng.IntN(6) == 0 {
				f.Rule, f.Root = "x", false
			}
			exists[i] = f
			changes = c.Put(f)
		}
		for _, ch := range changes {
			if told[ch.Key] == ch.Selected {
				t.Errorf("step %d: %s is told twice to be %v", step, ch.Key.Name, ch.Selected)
				return false
			}
			told[ch.Key] = ch.Selected
		}
		fresh := NewClosure()
		order := make([]int, 0, len(exists))
		for i := range exists {
			order = append(order, i)
		}
		for _, i := range order {
			fresh.Put(exists[i])
		}
		for i := range n {
			want := fresh.Selected(key(i))
			if got := c.Selected(key(i)); got != want || told[key(i)] != want {
				t.Errorf("step %d: %d is selected: %v, from scratch %v, as told %v", step, i, got, want, told[key(i)])
				return false
			}
		}
		if want := reachable(exists, ref); !slices.EqualFunc(order, order, func(i, _ int) bool { return want[ref(i)] == c.Selected(key(i)) }) {
			t.Errorf("step %d: not what the definition says: %v", step, want)
			return false
		}
		if len(c.nodes) > 3*n || len(exists) == 0 && len(c.nodes) != 0 {
			t.Errorf("step %d: %d nodes are kept for %d objects", step, len(c.nodes), len(exists))
			return false
		}
	}
	return true
}

// reachable is the definition: roots, and whatever a way leads to, again and again.
func reachable(exists map[int]Facts, ref func(int) Ref) map[Ref]bool {
	reached := make(map[Ref]bool)
	for grown := true; grown; {
		grown = false
		add := func(r Ref) {
			if !reached[r] {
				reached[r], grown = true, true
			}
		}
		for _, f := range exists {
			if f.Root {
				add(f.Ref)
			}
			if reached[f.Ref] {
				for _, r := range f.Needs {
					add(r)
				}
			}
			for _, r := range f.Serves {
				if reached[r] {
					add(f.Ref)
				}
			}
		}
	}
	for i, f := range exists {
		if f.Rule != "" {
			reached[ref(i)] = false
		}
	}
	return reached
}
