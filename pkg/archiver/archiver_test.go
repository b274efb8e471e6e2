package archiver_test

import (
	"slices"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/farshore/farshore/internal/grid"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
)

const size = 40*grid.Chunk + 512

// [I] Every archived point restores to what the group held at its commit, while the replicas go on.
func TestEveryPointIsTheTruth(t *testing.T) {
	t.Parallel()
	for name, encrypted := range map[string]bool{"plain": false, "encrypted": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			if encrypted {
				var err error
				if r.key, err = age.GenerateX25519Identity(); err != nil {
					t.Fatal(err)
				}
			}
			r.seeded("a", size)
			r.seeded("b", size/2)
			r.Objects()
			r.start()
			var last *events.Commit
			for range 15 {
				last = r.Fill(3, 2, "a", "b", journal.Objects)
			}
			r.archived(last)
			r.AppliedTo(last)
			points := r.verify()
			t.Logf("points: %v", points)
			if len(points) < 2 {
				t.Errorf("only %v were archived", points)
			}
		})
	}
}

// Every labelled commit is archived, those that the replicas passed, too: while the store fails, and while the applier is down.
func TestLabeledCommits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.spec.Every = 0
	r.seeded("a", size)
	r.Objects()
	r.start()
	var labels []*events.Commit
	label := func(name string) {
		r.Fill(1, 3, "a", journal.Objects)
		labels = append(labels, r.Cut(name))
		r.AppliedTo(r.Fill(1, 3, "a", journal.Objects))
	}
	label("first")
	r.archived(labels...)
	label("second")
	label("third")
	r.end()
	r.Fill(1, 3, "a", journal.Objects)
	labels = append(labels, r.Cut("down"))
	r.Fill(3, 3, "a", journal.Objects)
	r.start()
	r.archived(labels...)
	var want []uint64
	for _, c := range labels {
		want = append(want, c.Token.Barrier)
	}
	if got := r.verify(); !slices.Equal(got, want) {
		t.Errorf("archived are %v, want %v", got, want)
	}
	if s := r.archiver.Status(); s.Problem != "" || len(s.Lost) > 0 {
		t.Errorf("the status says %+v", s)
	}
}

// The interval goes by the commits' times.
func TestInterval(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.spec.Every = 1 << 40 // 18 minutes; a commit is a second
	r.seeded("a", size)
	first := r.Fill(1, 2, "a")
	r.start()
	r.archived(first)
	at := first.Time
	r.Clock = func() time.Time { at = at.Add(10 * time.Minute); return at }
	r.AppliedTo(r.Fill(1, 1, "a"))
	second := r.Fill(1, 1, "a")
	r.archived(second)
	if got := r.verify(); !slices.Equal(got, []uint64{first.Token.Barrier, second.Token.Barrier}) {
		t.Errorf("archived are %v", got)
	}
}
