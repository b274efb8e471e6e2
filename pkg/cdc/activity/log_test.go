package activity

import (
	"path/filepath"
	"testing"
)

func TestBasic(t *testing.T) {
	o := Options{Path: filepath.Join(t.TempDir(), "a", "v.log"), UID: "u", Size: 10 << 30}
	l, err := Open(o)
	must(t, err)
	if _, fresh := l.Fresh(); !fresh || l.StaleBytes() != 10<<30 {
		t.Fatal("not fresh")
	}
	must(t, l.Adopt(Stream{Generation: 1, Epoch: 3}))
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
	l, err = Open(o)
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
