package archiver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/archive/store/storetest"
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
	a.points = append([]archive.Point{{Barrier: 6, Time: time.Unix(3599, 0)}}, a.points...)
	if s := a.Status(); !strings.Contains(s.Problem, "earlier life of the group, up to barrier 100,") {
		t.Errorf("it isn't told once this life has a point: %+v", s)
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

// A labelled commit that is trimmed before it was archived is not forgotten: it is found lost. Others that are trimmed are forgotten.
func TestTrimmedLabels(t *testing.T) {
	t.Parallel()
	a := standing(t, archive.Point{Barrier: 2, Time: time.Unix(2, 0), Label: "is there"})
	a.at = commit(9, "")
	all := []replica.Commit{commit(1, "trimmed"), commit(2, "is there"), commit(3, ""), commit(4, "new history"), commit(5, "stays")}
	a.look(func(uint64) []replica.Commit { return all }, false)
	left := []replica.Commit{commit(3, ""), commit(5, "stays")}
	behind := func(uint64) []replica.Commit { return left }
	a.look(behind, true)
	want := []replica.Commit{commit(1, "trimmed"), commit(5, "stays")}
	if !slices.Equal(a.labeled, want) || a.looked != 5 {
		t.Errorf("known are %v, want %v", a.labeled, want)
	}
	for n := range mostTries {
		delete(a.tries, 5)
		if t := a.tries[1]; t != nil {
			t.next = time.Time{}
		}
		c, ok := a.passed()
		if !ok || c != want[0] {
			t.Fatalf("attempt %d is at %v", n, c)
		}
		a.tried(c, replica.ErrNoCommit)
	}
	a.look(behind, true)
	if s := a.Status(); !slices.Equal(a.labeled, want[1:]) || len(s.Lost) != 1 || s.Lost[0].Barrier != 1 || s.Waiting != 1 {
		t.Errorf("known are %v, the status is %+v", a.labeled, s)
	}
}

// The policy of a document is not that of the archive that an earlier one named.
func TestPruneAfterMove(t *testing.T) {
	t.Parallel()
	a := standing(t)
	a.dir = t.TempDir()
	opened, err := archive.Create(t.Context(), archive.Options{Store: new(storetest.Memory), Group: "g", Cache: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	for _, step := range []struct {
		at     string
		pruned bool
	}{{"elsewhere", false}, {place(a.document), true}} {
		a.use(opened, step.at)
		if err := a.prune(t.Context(), a.document); err != nil || (a.pruned != nil) != step.pruned {
			t.Errorf("at %s: pruned %v, %v", step.at, a.pruned, err)
		}
	}
}
