package activity_test

import (
	"path/filepath"
	"testing"

	"github.com/farshore/farshore/pkg/cdc/activity"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestBasic(t *testing.T) {
	o := activity.Options{Path: filepath.Join(t.TempDir(), "a", "v.log"), UID: "u", Size: 10 << 30}
	l, err := activity.Open(o)
	must(t, err)
	if _, fresh := l.Fresh(); !fresh || l.StaleBytes() != 10<<30 {
		t.Fatal("not fresh")
	}
	must(t, l.Adopt(activity.Stream{Generation: 1, Epoch: 3}))
	for off := int64(0); ; {
		at, n, ok := l.NextStale(off)
		if !ok {
			break
		}
		l.Resent(at, n, 7)
		off = at + n
	}
	l.Stored(7, 70)
	l.Flushed(l.FlushBegun())
	must(t, l.Begin(t.Context(), 8<<20, 4096))
	l.End(8<<20, 4096, 8)
	must(t, l.Close())
	l, err = activity.Open(o)
	must(t, err)
	if n := l.StaleBytes(); n != 4<<20 {
		t.Fatal(n)
	}
	if s, acked := l.Tenure(); s.Generation != 1 || s.Epoch != 3 || acked != 70 {
		t.Fatal(s, acked)
	}
	if reason, fresh := l.Fresh(); fresh {
		t.Fatal(reason)
	}
	must(t, l.Close())
}
