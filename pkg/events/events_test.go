package events

import (
	"fmt"
	"slices"
	"testing"
)

// TestTokensAreOrdered: first by epoch, so that a new snapshotter's first token is newer than any of the old one.
func TestTokensAreOrdered(t *testing.T) {
	order := []Token{{1, 1}, {1, 2}, {1, 900}, {2, 1}, {2, 901}, {1 << 40, 1}}
	for i, a := range order {
		for j, b := range order {
			if got, want := a.Compare(b), min(1, max(-1, i-j)); got != want {
				t.Errorf("%v against %v: %d, want %d", a, b, got, want)
			}
		}
	}
	if !slices.IsSortedFunc(order, Token.Compare) {
		t.Error("not sorted")
	}
}

func TestKindsHaveNames(t *testing.T) {
	for k := KindEpoch; k <= KindHooksOpen; k++ {
		b := newBody(k)
		if b == nil || b.Kind() != k || "*events."+k.String() != fmt.Sprintf("%T", b) {
			t.Errorf("kind %d is called %s and is %T", k, k, b)
		}
	}
	for k, want := range map[Kind]string{0: "Kind(0)", KindHooksOpen + 1: "Kind(13)", 255: "Kind(255)"} {
		if k.String() != want || newBody(k) != nil {
			t.Errorf("kind %d is called %s and is %T", k, k, newBody(k))
		}
	}
}
