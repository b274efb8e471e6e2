package archiver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farshore/farshore/pkg/archive"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/replica"
)

// Run archives what f comes by until ctx ends, then returns nil. Whatever goes wrong is told in the status and tried again.
func (a *Archiver) Run(ctx context.Context, f *replica.Follower) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.keepLooking(ctx, f) })
	g.Go(func() error { return a.keepPruning(ctx) })
	g.Go(func() error {
		for ctx.Err() == nil {
			a.session(ctx, f)
		}
		return nil
	})
	return g.Wait()
}

// session works with one archive, until the document names another one or ctx ends.
func (a *Archiver) session(ctx context.Context, f *replica.Follower) {
	a.mu.Lock()
	document := a.document
	a.mu.Unlock()
	if document.Spec.Recovery.Archive == nil {
		a.problem("archive", "")
		a.wait(ctx, 0)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan struct{})
	go func() { // the work ends where the document changes what it relies on
		defer close(watched)
		tick := time.NewTicker(a.o.Look)
		defer tick.Stop()
		for {
			a.mu.Lock()
			moved := place(a.document) != place(document)
			a.mu.Unlock()
			if moved {
				cancel()
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	defer func() { cancel(); <-watched }()
	opened, err := a.o.Open(ctx, document)
	if err != nil {
		a.failed(ctx, fmt.Errorf("open the archive: %w", err))
		return
	}
	a.log.Info("archiving", "every", document.Spec.Recovery.Archive.Every, "encrypted", opened.Encrypted())
	a.use(opened, place(document))
	defer func() {
		cancel()
		a.use(nil, "")
		if err := opened.Close(); err != nil {
			a.log.Warn("the archive was not closed in order", "error", err)
		}
	}()
	mirrors := replica.NewMirrors(a.o.Site)
	defer mirrors.Close()
	w := &worker{Archiver: a, archive: opened, follower: f, source: patient{mirrors, patience}, ahead: make(map[string]*ahead)}
	for ctx.Err() == nil {
		if err := w.once(ctx); err != nil {
			w.quarantine(ctx, err)
			a.failed(ctx, err)
		}
	}
}

// use makes an archive, which is at a place, the open one, once nobody uses the one before; nil: none is.
func (a *Archiver) use(opened *archive.Archive, at string) {
	a.inUse.Lock()
	a.open, a.openAt = opened, at
	a.inUse.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.points, a.known = nil, false
}

// worker works with an archive that is open.
type worker struct {
	*Archiver
	archive  *archive.Archive
	follower *replica.Follower
	source   patient
	ahead    map[string]*ahead // by volume
}

// once does what is to be done next, or waits for something to do.
func (w *worker) once(ctx context.Context) error {
	if err := w.readPoints(ctx, false); err != nil {
		return err
	}
	if c, ok := w.passed(); ok {
		err := w.build(ctx, c)
		if err != nil {
			w.postpone(c)
		}
		return err
	}
	h, ok := w.awaitSnapshot(ctx)
	if !ok {
		return nil
	}
	if h.err != nil {
		return h.err
	}
	err := w.live(ctx, h.snapshot)
	return errors.Join(err, h.snapshot.Close())
}

// quarantine lets nothing be built on what turned out to be damaged: the next attempt reads everything, and stores anew what it has to.
func (w *worker) quarantine(ctx context.Context, err error) {
	var damage *archive.DamageError
	if !errors.As(err, &damage) {
		return
	}
	d := archive.Damage{Object: damage.Object, Reason: damage.Reason}
	w.mu.Lock()
	for _, p := range w.points {
		d.Points = append(d.Points, p.Barrier)
	}
	w.mu.Unlock()
	if _, err := w.archive.Quarantine(ctx, []archive.Damage{d}, nil); err != nil {
		w.log.Warn("damage of the archive was not noted in it", "object", damage.Object, "error", err)
	}
}

// readPoints reads which points there are, where that was not done for a while.
func (w *worker) readPoints(ctx context.Context, now bool) error {
	w.mu.Lock()
	fresh := w.known && time.Since(w.readAt) < readEvery && !now
	w.mu.Unlock()
	if fresh {
		return nil
	}
	points, damaged, err := w.archive.Points(ctx)
	if err != nil {
		return fmt.Errorf("read the archive's points: %w", err)
	}
	message := ""
	if len(damaged) > 0 {
		message = fmt.Sprintf("%d archived points can't be used, as %v; farshore archive check tells more", len(damaged), damaged[0])
	}
	w.problem("points", message)
	w.mu.Lock()
	w.points, w.known, w.readAt = points, true, time.Now()
	w.mu.Unlock()
	w.measure(ctx)
	return nil
}

// passed returns the oldest labelled commit that the replicas have passed and that is still to be archived. In an archive without points the
// next one comes first, unless only labelled ones are wanted: that takes the least to have one.
func (a *Archiver) passed() (replica.Commit, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if spec := a.spec(); spec == nil || len(a.points) == 0 && spec.Every > 0 {
		return replica.Commit{}, false
	}
	for _, c := range a.labeled {
		if t := a.tries[c.Barrier]; t != nil && time.Now().Before(t.next) {
			continue
		}
		if c.Barrier < a.at.Barrier && a.wantsLabel(c) {
			return c, true
		}
	}
	return replica.Commit{}, false
}

// awaitSnapshot waits for a snapshot to be handed over, at most until it is time to look for other work.
func (w *worker) awaitSnapshot(ctx context.Context) (handed, bool) {
	w.mu.Lock()
	w.free = true
	w.mu.Unlock()
	timer := time.NewTimer(w.o.Look)
	defer timer.Stop()
	select {
	case h := <-w.handed:
		return h, true
	case <-ctx.Done():
	case <-timer.C:
		w.readAhead(ctx)
	case <-w.wake:
	}
	w.mu.Lock()
	taken := !w.free
	w.free = false
	w.mu.Unlock()
	if taken {
		return <-w.handed, true
	}
	return handed{}, false
}

// wait waits for the document to change, or for a time, unless that is 0.
func (a *Archiver) wait(ctx context.Context, d time.Duration) {
	var timer <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
	case <-timer:
	case <-a.wake:
	}
}

// keepLooking notes which labelled commits there are.
func (a *Archiver) keepLooking(ctx context.Context, f *replica.Follower) error {
	tick := time.NewTicker(a.o.Look)
	defer tick.Stop()
	for n := 0; ; n++ {
		a.look(f.Commits, n%60 == 0)
		a.measure(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look notes labelled commits that came in, or, now and then, all of them: some are trimmed, and a history may go on from somewhere else. One
// that was trimmed before it was archived, by mirrors that were full, stays: a snapshot of it may be under way, and else an attempt to build
// it finds out that it is lost, and tells.
func (a *Archiver) look(behind func(barrier uint64) []replica.Commit, all bool) {
	a.mu.Lock()
	after := a.looked
	a.mu.Unlock()
	if all {
		after = 0
	}
	commits := behind(after)
	a.mu.Lock()
	defer a.mu.Unlock()
	if all {
		a.looked = 0
		a.labeled = slices.DeleteFunc(a.labeled, func(c replica.Commit) bool {
			return len(commits) == 0 || c.Barrier >= commits[0].Barrier || !a.wantsLabel(c)
		})
	}
	for _, c := range commits {
		if a.looked = max(a.looked, c.Barrier); c.Label != "" {
			a.labeled = append(a.labeled, c)
		}
	}
	for len(a.lost) > 0 && time.Since(a.lost[0].at) > lostShown {
		a.lost = a.lost[1:]
	}
}

// keepPruning prunes as often as the document says.
func (a *Archiver) keepPruning(ctx context.Context) error {
	began, failed := time.Now(), time.Time{}
	for {
		a.mu.Lock()
		document, spec := a.document, a.spec()
		a.mu.Unlock()
		if spec != nil && spec.Prune > 0 && time.Since(failed) > pruneRetry && time.Since(a.lastPrune(began, time.Duration(spec.Prune))) >= time.Duration(spec.Prune) {
			if err := a.prune(ctx, document); err != nil && ctx.Err() == nil {
				failed = time.Now()
			}
		}
		timer := time.NewTimer(min(pruneLook, 10*a.o.Look))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// lastPrune returns when the archive was last pruned. Where that is not known it is as if it were due an hour after the start.
func (a *Archiver) lastPrune(began time.Time, every time.Duration) time.Time {
	info, err := os.Stat(filepath.Join(a.dir, prunedFile))
	if err != nil {
		return began.Add(min(time.Hour, every) - every)
	}
	return info.ModTime()
}

// prune removes what a document doesn't keep, from the archive that it names, where that is open. Another prune that is under way is as good.
func (a *Archiver) prune(ctx context.Context, document *group.Group) error {
	a.inUse.RLock()
	defer a.inUse.RUnlock()
	if a.open == nil || a.openAt != place(document) {
		return nil
	}
	began := time.Now()
	result, err := a.open.Prune(ctx, archive.PruneOptions{Policy: policy(document.Spec.Recovery.Archive)})
	var locked *archive.LockedError
	if errors.As(err, &locked) {
		a.log.Info("the archive is being pruned by somebody else", "holder", locked.Holder)
		return err
	}
	if err != nil {
		if ctx.Err() == nil {
			a.problem("prune", "the archive is not pruned: "+hinted(err))
		}
		return err
	}
	a.problem("prune", "")
	now := time.Now()
	a.mu.Lock()
	a.pruned, a.readAt = &now, time.Time{}
	a.mu.Unlock()
	a.log.Info("pruned the archive", "points", result.Removed, "packs", result.Packs, "freed", result.Freed, "took", time.Since(began))
	return os.WriteFile(filepath.Join(a.dir, prunedFile), nil, 0o640)
}
