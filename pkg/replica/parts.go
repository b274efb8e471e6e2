package replica

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/replica/objects"
)

// objectsDir is the name of the objects' store within a set's directory.
const objectsDir = "objects"

// Parts returns what a commit names: its volumes and, under the name journal.Objects, the objects. To a set they are alike but
// for what holds them.
func Parts(c *events.Commit) []events.VectorEntry {
	if c.Objects == nil {
		return c.Vector
	}
	return append(slices.Clip(c.Vector), events.VectorEntry{Volume: journal.Objects, Position: *c.Objects})
}

// partName writes a part of a group for people.
func partName(part string) string {
	switch part {
	case journal.Objects:
		return "the objects"
	case journal.Control:
		return "the control stream"
	}
	return "volume " + part
}

// PointOf returns the commit as a status tells it.
func PointOf(c Commit) group.Point {
	return group.Point{Barrier: c.Barrier, Time: c.Time, Kind: c.Kind, Label: c.Label}
}

// Objects returns the objects that the set durably holds; nil: it never had any. Where its commits have none any more they
// are those of the last one that had.
func (s *Set) Objects() *objects.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.store == nil || s.cp.Volumes[journal.Objects].Seq == 0 {
		return nil
	}
	return s.store.View()
}

// openObjects opens the store where the checkpoint has it.
func (s *Set) openObjects() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.store != nil {
		return nil
	}
	at := s.cp.Volumes[journal.Objects]
	point := group.Point{Barrier: at.Barrier, Time: at.Time}
	if at.Barrier == s.cp.Commit.Barrier {
		point = PointOf(s.cp.Commit)
	}
	store, err := objects.Open(s.fs, filepath.Join(s.dir, objectsDir), at.Log, point, at.Revision, objects.Options{Slack: s.o.ObjectsSlack, Log: s.log})
	if err != nil {
		return err
	}
	s.store = store
	return nil
}

// isObjects tells whether the step is that of the objects.
func (st *step) isObjects() bool { return st.v.name == journal.Objects }

// stage reads and verifies the objects' part of the way to a commit and writes it behind what the store holds. That
// changes nothing: it counts from when a checkpoint names it.
func (s *Set) stage(ctx context.Context, src Source, st *step, token events.Token) error {
	if err := s.openObjects(); err != nil {
		return err
	}
	st.batch = s.store.Begin(st.from.Seq == 0)
	w := s.walk(src, st.v.name, st.from, st.legs, token)
	defer w.close()
	for !w.done() {
		_, m, err := w.next(ctx, nil)
		if err != nil {
			return err
		}
		s.hooks.read(st.v.name, m)
		if err := st.batch.Add(m.Header, m.Event); objects.Refused(err) {
			return w.check.refuse(m, err)
		} else if err != nil {
			return fmt.Errorf("keep event %d: %w", m.Seq, err)
		}
	}
	st.iv = &interval{to: w.at()}
	return nil
}

// keep makes what was staged durable.
func (s *Set) keep(st *step) error {
	if err := st.batch.Finish(); err != nil {
		return err
	}
	st.iv.to.Log, st.iv.to.Revision = st.batch.Place(), st.batch.Revision()
	s.hooks.written(st.v.name, st.batch.Bytes())
	return nil
}

// take makes the store hold what the checkpoint names now.
func (s *Set) take(st *step, c *events.Commit) {
	s.store.Take(st.batch, PointOf(CommitOf(c)), st.iv.to.Revision)
	if s.hooks.Objects != nil {
		s.hooks.Objects(st.batch.Objects())
	}
	st.batch = nil
}

// release gives back what the steps took and no commit needs.
func (s *Set) release(steps []*step) {
	for _, st := range steps {
		if st.iv != nil {
			st.iv.drop(&s.memory)
		}
		if st.batch != nil {
			st.batch.Discard()
			st.batch = nil
		}
	}
}
