package objects_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/objects"
)

const benchObjects, benchSize = 5000, 4 << 10

// large returns a store of 5,000 objects of 4 KiB.
func large(b *testing.B, dir string) *objects.Store {
	b.Helper()
	s, err := objects.Open(replica.OS{}, dir, objects.Place{}, point(0), "", objects.Options{})
	if err != nil {
		b.Fatal(err)
	}
	change(b, s, 0, benchObjects, 1)
	return s
}

// change puts n objects, from number from on, in one batch.
func change(b *testing.B, s *objects.Store, from, n, barrier int) {
	b.Helper()
	batch := s.Begin(false)
	raw := bytes.Repeat([]byte{byte(barrier)}, benchSize)
	for i := range n {
		o := object(fmt.Sprintf("o-%d", (from+i)%benchObjects), 0, 1)
		o.Raw = raw
		if err := batch.Add(header, o); err != nil {
			b.Fatal(err)
		}
	}
	if err := batch.Finish(); err != nil {
		b.Fatal(err)
	}
	s.Take(batch, point(barrier), "")
}

// A commit of 50 changes among 5,000 objects, what is written anew now and then included.
func BenchmarkCommit(b *testing.B) {
	s := large(b, filepath.Join(b.TempDir(), "objects"))
	for i := 0; b.Loop(); i++ {
		change(b, s, 50*i, 50, i+2)
	}
}

// A store of 5,000 objects that is opened.
func BenchmarkOpen(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "objects")
	at := large(b, dir).Place()
	b.SetBytes(at.Length)
	for b.Loop() {
		if _, err := objects.Open(replica.OS{}, dir, at, point(1), "", objects.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// 5,000 objects that come at once.
func BenchmarkFirstCommit(b *testing.B) {
	b.SetBytes(benchObjects * benchSize)
	for b.Loop() {
		large(b, filepath.Join(b.TempDir(), "objects"))
	}
}
