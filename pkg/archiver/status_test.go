package archiver

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/replica"
)

func standing(t *testing.T, points ...archive.Point) *Archiver {
	t.Helper()
	g := group.Default()
	g.Metadata.Name, g.Spec.Recovery.Archive = "g", &group.Archive{Every: group.Duration(time.Hour), Labeled: true, Keep: group.Keep{Labels: []string{"*"}}}
	a, err := New(Options{Group: g})
	if err != nil {
		t.Fatal(err)
	}
	a.points, a.known = points, true
	return a
}

func commit(barrier uint64, label string) replica.Commit {
	return replica.Commit{Barrier: barrier, Time: time.Unix(int64(barrier), 0), Label: label}
}

// What is late, and what belongs to an earlier life of the group, is told.
func TestStatusTells(t *testing.T) {
	t.Parallel()
	old := archive.Point{Barrier: 100, Time: time.Unix(1, 0)}
	a := standing(t, old)
	a.at = replica.Commit{Barrier: 101, Time: time.Unix(3600, 0)}
	if s := a.Status(); s.Problem != "" || *s.LagSeconds != 3599 {
		t.Errorf("after an hour the status is %+v", s)
	}
	a.at = replica.Commit{Barrier: 101, Time: time.Unix(20000, 0)}
	if s := a.Status(); !strings.Contains(s.Problem, "takes longer than spec.recovery.archive.every") {
		t.Errorf("what is late isn't told: %+v", s)
	}
	a.at = replica.Commit{Barrier: 7, Time: time.Unix(3600, 0)}
	if s := a.Status(); !strings.Contains(s.Problem, "earlier life of the group") {
		t.Errorf("that barriers began anew isn't told: %+v", s)
	}
	if a.wants(replica.Commit{Barrier: 100, Time: time.Unix(9000, 0), Label: "x"}) {
		t.Error("a point of an earlier life would be replaced")
	}
	a.problem("archive", hinted(fmt.Errorf("put: %w", syscall.ENOSPC)))
	if s := a.Status(); !strings.Contains(s.Problem, "make room") {
		t.Errorf("what to do isn't told: %+v", s)
	}
	for _, err := range []error{archive.ErrKey, archive.ErrForeign, replica.ErrSnapshotLost, &archive.DamageError{Object: "packs/x"}} {
		if hinted(err) == err.Error() {
			t.Errorf("%v: it isn't told what to do", err)
		}
	}
	if err := fmt.Errorf("the store says what to do: %w", store.ErrDenied); hinted(err) != err.Error() || !errors.Is(err, store.ErrDenied) {
		t.Error("a store's error is told twice what to do about")
	}
}

// History stays from the newest point before the oldest labelled commit that waits, and what was not looked at yet stays, too.
func TestNeeds(t *testing.T) {
	t.Parallel()
	a := standing(t, archive.Point{Barrier: 10, Time: time.Unix(10, 0)}, archive.Point{Barrier: 20, Time: time.Unix(20, 0), Label: "is there"})
	for _, step := range []struct {
		what string
		do   func()
		want uint64
	}{
		{"nothing was looked at", func() {}, 1},
		{"nothing waits", func() { a.looked, a.labeled = 50, []replica.Commit{commit(20, "is there")} }, 50},
		{"one waits", func() { a.labeled = append(a.labeled, commit(30, "waits")) }, 20},
		{"an older one waits", func() { a.labeled = append([]replica.Commit{commit(15, "waits")}, a.labeled...) }, 10},
		{"one waits from before every point", func() { a.labeled = append([]replica.Commit{commit(5, "waits")}, a.labeled...) }, 5},
		{"two of them are lost", func() { a.lost = []loss{{Commit: commit(5, "waits")}, {Commit: commit(15, "waits")}} }, 20},
		{"the points are not known", func() { a.known, a.points, a.lost = false, nil, nil }, 5},
		{"labels are not archived", func() { a.document.Spec.Recovery.Archive.Labeled = false }, 0},
		{"there is no archive", func() { a.document.Spec.Recovery.Archive = nil }, 0},
	} {
		if step.do(); a.Needs() != step.want {
			t.Errorf("%s: needed from %d on, want %d", step.what, a.Needs(), step.want)
		}
	}
}
