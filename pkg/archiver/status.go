package archiver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/archive/store"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/replica"
)

// How late the newest point may be before that is said: so many times as long as the document wants, and at least so long.
const (
	lateTimes = 3
	lateLeast = 10 * time.Minute
)

// Status implements replica.Archiver.
func (a *Archiver) Status() *group.ArchiveStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	spec := a.spec()
	if spec == nil {
		return nil
	}
	s := &group.ArchiveStatus{Points: len(a.points), Pruned: a.pruned}
	if len(a.points) > 0 {
		oldest, newest := replica.PointOf(commitOf(&a.points[0])), replica.PointOf(commitOf(a.newest()))
		s.Oldest, s.Newest = &oldest, &newest
		if !a.at.Time.IsZero() {
			lag := max(0, a.at.Time.Sub(newest.Time).Seconds())
			s.LagSeconds = &lag
		}
	}
	if a.running != nil {
		s.Running = a.running.status()
	}
	for _, c := range a.labeled {
		if a.known && c.Barrier <= a.at.Barrier && a.wantsLabel(c) && (a.running == nil || a.running.commit != c) {
			s.Waiting++
		}
	}
	for _, l := range a.lost {
		s.Lost = append(s.Lost, replica.PointOf(l.Commit))
	}
	s.Lost = s.Lost[max(0, len(s.Lost)-16):]
	s.Problem = a.told(spec, s)
	return s
}

// told puts together what is wrong; a.mu is held.
func (a *Archiver) told(spec *group.Archive, s *group.ArchiveStatus) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(a.problems)) {
		all = append(all, a.problems[key])
	}
	limit := max(lateTimes*time.Duration(spec.Every), lateLeast)
	if s.LagSeconds != nil && spec.Every > 0 && *s.LagSeconds > limit.Seconds() && a.problems["archive"] == "" {
		all = append(all, fmt.Sprintf("the newest archived point is %s older than the replicas: archiving takes longer than spec.recovery.archive.every; give the store "+
			"or the applier more room to work, or raise it", (time.Duration(*s.LagSeconds)*time.Second).String()))
	}
	for i := range slices.Backward(a.points) {
		if p := &a.points[i]; a.at.Barrier > 0 && a.at.Barrier < p.Barrier && p.Time.Before(a.at.Time) {
			all = append(all, fmt.Sprintf("the archive has points of an earlier life of the group, up to barrier %d, and barriers began anew: give "+
				"spec.recovery.archive another directory or prefix, so that both are kept", p.Barrier))
			break
		}
	}
	return strings.Join(all, "; ")
}

// problem notes what can't be done of a kind; "" is that it can.
func (a *Archiver) problem(kind, message string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if message == "" {
		delete(a.problems, kind)
		return
	}
	a.problems[kind] = message
}

// pause returns how long nothing is tried after the next failure; a.mu is held.
func (a *Archiver) pause() time.Duration {
	return min(a.o.Retry<<min(a.failures, 20), retryTimes*a.o.Retry)
}

// failed notes that nothing could be archived, and waits before the next attempt.
func (a *Archiver) failed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	a.mu.Lock()
	pause := a.pause()
	a.failures++
	repeated := a.problems["archive"] != ""
	a.mu.Unlock()
	a.metrics.failed(ctx)
	a.problem("archive", "nothing is archived: "+hinted(err))
	if repeated {
		a.log.Debug("nothing is archived, trying again", "error", err, "pause", pause)
	} else {
		a.log.Error("nothing is archived, trying again", "error", err, "pause", pause)
	}
	a.wait(ctx, pause)
}

// hinted tells an error, and what to do about it where it doesn't say so itself. Stores say what to do about their own.
func hinted(err error) string {
	hint := ""
	var damage *archive.DamageError
	switch {
	case errors.Is(err, store.ErrDenied), errors.Is(err, store.ErrNoBucket), errors.Is(err, store.ErrClockSkew):
	case errors.Is(err, archive.ErrKey):
		hint = "; spec.recovery.archive.identities needs an identity that the archive was made for"
	case errors.Is(err, archive.ErrForeign):
		hint = "; give spec.recovery.archive a directory or prefix of its own"
	case errors.Is(err, replica.ErrSnapshotLost):
		hint = "; it is tried again with the next commit: the replicas' file system needs room for what is overwritten meanwhile"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		hint = "; make room: it goes on by itself"
	case errors.As(err, &damage):
		hint = "; the next attempt reads everything anew; farshore archive check tells which points are damaged"
	}
	return err.Error() + hint
}
