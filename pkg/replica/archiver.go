package replica

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
)

// Archiver is told of the commits that the replicas come by, to archive some of them. Its methods are called by several
// goroutines, and with the follower's locks held: they return at once and don't call the follower.
type Archiver interface {
	// Wanted tells whether the replicas are to stop at a commit on their way.
	Wanted(c Commit) bool
	// Reached is called between two commits, with the set whole at one: at the start, after each that it was advanced to, and again
	// while it stays there. The replicas wait for it. It may take a Snapshot.
	Reached(ctx context.Context, s *Set)
	// Needs returns a barrier whose commit, and the history behind it, the retention must not trim; 0: all may be trimmed. Mirrors that
	// are full are trimmed all the same.
	Needs() uint64
	// Status tells how the archive stands; nil: nothing is known.
	Status() *group.ArchiveStatus
}

// ErrNoCommit means that the control mirror doesn't have a commit, or not any more.
var ErrNoCommit = errors.New("the control mirror has no such commit")

// Commits returns the commits behind a barrier that the control mirror has and the follower has read, oldest first. It may be called
// at any time.
func (f *Follower) Commits(after uint64) []Commit { return f.timeline.behind(after) }

// CommitAt reads a commit that Commits told of. One that was trimmed meanwhile gives ErrNoCommit. It may be called at any time.
func (f *Follower) CommitAt(ctx context.Context, barrier uint64) (*events.Commit, error) {
	p, ok := f.timeline.last(func(c Commit) bool { return c.Barrier == barrier })
	if !ok {
		return nil, fmt.Errorf("read barrier %d: %w", barrier, ErrNoCommit)
	}
	c, err := f.commitAt(ctx, p.at)
	if _, _, damaged := Damage(err); damaged {
		return nil, fmt.Errorf("read barrier %d: %w: %w", barrier, ErrNoCommit, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read barrier %d: %w", barrier, err)
	}
	return c, nil
}

// wanted tells whether the replicas are to stop at a commit.
func (f *Follower) wanted(c *events.Commit) bool {
	return f.o.Archiver != nil && f.o.Archiver.Wanted(CommitOf(c))
}

// reached tells the archiver where the replicas are; f.turn is held.
func (f *Follower) reached(ctx context.Context) {
	if f.o.Archiver == nil {
		return
	}
	if cp := f.set.Checkpoint(); cp.Whole() {
		f.o.Archiver.Reached(ctx, f.set)
	}
}

// archiveNeeds returns the barrier from whose commit on the archiver needs the history; 0: it needs none.
func (f *Follower) archiveNeeds() uint64 {
	if f.o.Archiver == nil {
		return 0
	}
	return f.o.Archiver.Needs()
}

// unarchived tells what the archiver loses where history before a barrier is given up; "": nothing.
func (f *Follower) unarchived(before uint64) string {
	needs := f.archiveNeeds()
	if needs == 0 || before <= needs {
		return ""
	}
	var labels []string
	for _, c := range f.timeline.behind(needs) {
		if c.Barrier < before && c.Label != "" {
			labels = append(labels, fmt.Sprintf("%q (barrier %d)", c.Label, c.Barrier))
		}
	}
	if len(labels) == 0 {
		return fmt.Sprintf("; the archive had come to barrier %d only, and compares whole volumes next time", needs)
	}
	return fmt.Sprintf("; the archive had come to barrier %d only, and won't have %s", needs, strings.Join(labels, ", "))
}

// archiveProblems tells what keeps commits from being archived, and which ones never will be.
func archiveProblems(s *group.ArchiveStatus, problems map[string][]string) {
	if s == nil {
		return
	}
	if s.Problem != "" {
		problems[group.ConditionArchive] = append(problems[group.ConditionArchive], s.Problem)
	}
	if len(s.Lost) > 0 {
		var labels []string
		for _, p := range s.Lost {
			labels = append(labels, fmt.Sprintf("%q (barrier %d)", p.Label, p.Barrier))
		}
		problems[group.ConditionArchive] = append(problems[group.ConditionArchive],
			"not archived, and never will be, since their history is gone: "+strings.Join(labels, ", "))
	}
}
