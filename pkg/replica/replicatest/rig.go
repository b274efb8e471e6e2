package replicatest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/group"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/journal/journaltest"
	"github.com/farshore/farshore/pkg/replica"
	"github.com/farshore/farshore/pkg/replica/objects"
)

// Rig is a history on real brokers: both sites, a writer for each volume, for the objects and for the control stream.
type Rig struct {
	*History
	Pair      *journaltest.Pair
	Retention time.Duration // of the document; 0: a day

	t       testing.TB
	dir     string
	writers map[string]*writer
	view    atomic.Pointer[objects.View] // the newest that a follower told of
}

type writer struct {
	*journal.Writer
	cancel context.CancelFunc
	done   chan error
}

// NewRig starts both sites with an empty group.
func NewRig(t testing.TB, groupName string, seed uint64) *Rig {
	r := &Rig{Pair: journaltest.Sites(t), t: t, dir: t.TempDir(), writers: make(map[string]*writer)}
	r.History = NewHistory(groupName, seed, func(volume string, e events.Event) (uint64, error) {
		return r.writers[volume].Append(t.Context(), e)
	})
	r.open(journal.Control, func(uint64) *events.Epoch { return &events.Epoch{Writer: "snapshotter"} })
	return r
}

func (r *Rig) open(part string, open func(uint64) *events.Epoch) {
	r.t.Helper()
	id := r.ID(part)
	o := journal.StreamOptions{MaxBytes: 1 << 30}
	if part != journal.Control {
		o.UID, o.Size = r.UID(part), int64(len(r.Content(part)))
	}
	if err := r.Pair.Primary.EnsureStream(r.t.Context(), id, o); err != nil {
		r.t.Fatal(err)
	}
	w, err := r.Pair.Primary.OpenWriter(r.t.Context(), id, journal.WriterOptions{
		Writer: "rig-" + part, Open: open, HeartbeatEvery: 100 * time.Millisecond,
		Heartbeat: func() *events.Heartbeat { return &events.Heartbeat{DebtBytes: 42, DebtAge: time.Millisecond} },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	running := &writer{w, cancel, make(chan error, 1)}
	go func() { running.done <- w.Run(ctx) }()
	r.t.Cleanup(cancel)
	r.writers[part] = running
}

// Volume adds a blank volume.
func (r *Rig) Volume(name string, size int64) {
	r.t.Helper()
	r.must(r.Add(name, size, true))
	r.Reopen(name)
}

// Objects opens the stream of the group's objects, or lets a new writer take it over, and makes them part of the commits.
func (r *Rig) Objects() {
	r.t.Helper()
	r.Reopen(journal.Objects)
	r.Join(journal.Objects)
}

// View returns the newest objects that a follower told of; nil: none.
func (r *Rig) View() *objects.View { return r.view.Load() }

// Reopen lets a new writer take a volume's stream over, or that of the objects.
func (r *Rig) Reopen(name string) {
	r.t.Helper()
	r.StopWriter(name)
	r.open(name, func(uint64) *events.Epoch { return r.Epoch(name) })
}

// StopWriter stops a volume's writer once everything is stored.
func (r *Rig) StopWriter(name string) {
	r.t.Helper()
	w := r.writers[name]
	if w == nil {
		return
	}
	w.cancel()
	if err := <-w.done; err != nil {
		r.t.Fatal(err)
	}
	delete(r.writers, name)
}

// Raw stores a message in a volume's stream behind the back of its writer, which must be stopped.
func (r *Rig) Raw(volume string, body []byte) (seq uint64) {
	r.t.Helper()
	ack, err := r.Pair.Primary.JetStream().Publish(r.t.Context(), r.ID(volume).Subject(), body)
	r.must(err)
	return ack.Sequence
}

func (r *Rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// Stored waits until everything appended to a part is stored at the primary.
func (r *Rig) Stored(part string) uint64 {
	r.t.Helper()
	w := r.writers[part]
	seq, err := w.Append(r.t.Context(), &events.Heartbeat{})
	r.must(err)
	r.must(w.WaitStored(r.t.Context(), seq))
	return seq
}

// Cut commits what the volumes hold now.
func (r *Rig) Cut(label string) *events.Commit {
	r.t.Helper()
	c, err := r.Commit(label)
	r.must(err)
	for _, e := range replica.Parts(c) {
		r.must(r.writers[e.Volume].WaitStored(r.t.Context(), e.Position.Seq))
	}
	r.Publish(c)
	return c
}

// Publish stores a commit in the control stream.
func (r *Rig) Publish(c *events.Commit) {
	r.t.Helper()
	w := r.writers[journal.Control]
	seq, err := w.Append(r.t.Context(), c)
	r.must(err)
	r.must(w.WaitStored(r.t.Context(), seq))
}

// Fill appends frames to volumes and commits, so many times, and returns the last commit.
func (r *Rig) Fill(commits, frames int, volumes ...string) (last *events.Commit) {
	r.t.Helper()
	for range commits {
		for _, v := range volumes {
			for range frames {
				if v == journal.Objects {
					r.must(r.Change(4))
					continue
				}
				r.must(r.Frame(v, 8))
			}
		}
		last = r.Cut("")
	}
	return last
}

// Dir returns the group's directory at the DR site.
func (r *Rig) Dir() string { return filepath.Join(r.dir, r.Group) }

// Document returns the group's document.
func (r *Rig) Document() *group.Group {
	g := group.Default()
	g.Metadata.Name = r.Group
	g.Spec.Recovery.Directory = r.dir
	if r.Retention > 0 {
		g.Spec.Recovery.Retention = group.Duration(r.Retention)
	}
	return g
}

// Follow runs a follower until the result is called or the test ends.
func (r *Rig) Follow(change func(*replica.FollowerOptions)) (stop func()) {
	r.t.Helper()
	_, stop = r.FollowUntil(change)
	return stop
}

// Follower runs a follower until the test ends.
func (r *Rig) Follower(change func(*replica.FollowerOptions)) *replica.Follower {
	r.t.Helper()
	f, _ := r.FollowUntil(change)
	return f
}

// FollowUntil runs a follower until the result is called or the test ends.
func (r *Rig) FollowUntil(change func(*replica.FollowerOptions)) (f *replica.Follower, stop func()) {
	r.t.Helper()
	ready := make(chan struct{})
	o := replica.FollowerOptions{Site: r.Pair.DR, Group: r.Document(), Instance: "rig", Ready: func() { close(ready) }, Applied: func(v *objects.View) { r.view.Store(v) }}
	if change != nil {
		change(&o)
	}
	f, err := replica.NewFollower(o)
	r.must(err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		r.t.Fatalf("the follower ended: %v", err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("the follower ended with %v", err)
		}
	}
	r.t.Cleanup(stop)
	return f, stop
}

// MirrorBytes returns what the mirrors use.
func (r *Rig) MirrorBytes() (bytes uint64) {
	r.t.Helper()
	streams, err := r.Pair.DR.Streams(r.t.Context(), r.Group)
	r.must(err)
	for _, m := range journal.Mirrors(streams) {
		bytes += m.Bytes()
	}
	return bytes
}

// Eventually polls until check returns nil, and fails with its last error.
func Eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(90 * time.Second) // bounds a machine that has much else to do
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("waited for nothing: %s: %v", what, err)
		case <-tick.C:
		}
	}
}

// Status returns the group's published status.
func (r *Rig) Status() (*group.Status, error) {
	kv, err := r.Pair.DR.JetStream().KeyValue(r.t.Context(), group.StatusBucket)
	if err != nil {
		return nil, err
	}
	entry, err := kv.Get(r.t.Context(), r.Group)
	if err != nil {
		return nil, err
	}
	s := new(group.Status)
	return s, json.Unmarshal(entry.Value(), s)
}

// StatusWhere waits for a status that holds accepts.
func (r *Rig) StatusWhere(what string, holds func(*group.Status) bool) *group.Status {
	r.t.Helper()
	var s *group.Status
	Eventually(r.t, what, func() (err error) {
		if s, err = r.Status(); err != nil {
			return err
		}
		if !holds(s) {
			body, _ := json.Marshal(s)
			return fmt.Errorf("the status is %s", body)
		}
		return nil
	})
	return s
}

// Condition returns a condition of a status.
func Condition(s *group.Status, kind string) group.Condition {
	for _, c := range s.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return group.Condition{Type: kind, Message: "there is no such condition"}
}

// AppliedTo waits until the replicas are at a commit, then compares them with the history.
func (r *Rig) AppliedTo(c *events.Commit) {
	r.t.Helper()
	Eventually(r.t, fmt.Sprintf("barrier %d is applied", c.Token.Barrier), func() error {
		cp, err := replica.ReadCheckpoint(r.Dir())
		if err == nil && (cp.Commit.Barrier != c.Token.Barrier || cp.Applying != nil) {
			err = fmt.Errorf("the replicas are at %d", cp.Commit.Barrier)
		}
		return err
	})
	SameFiles(r.t, r.State(c.Token.Barrier), func(volume string) string { return replica.VolumePath(r.Dir(), volume) })
	if c.Objects == nil {
		return
	}
	Eventually(r.t, "the objects are told of", func() error {
		if v := r.View(); v == nil || v.Barrier() != c.Token.Barrier {
			return errors.New("they are not")
		}
		return nil
	})
	SameObjects(r.t, r.View(), r.ObjectsAt(c.Token.Barrier))
}

// SameFiles fails unless files hold exactly what volumes should.
func SameFiles(t testing.TB, want map[string][]byte, path func(volume string) string) {
	t.Helper()
	for volume, content := range want {
		got, err := os.ReadFile(path(volume))
		if err != nil {
			t.Fatal(err)
		}
		if i := firstDifference(got, content); i >= 0 {
			t.Fatalf("volume %s differs from byte %d on (%d bytes, want %d)", volume, i, len(got), len(content))
		}
	}
}

// DeleteFromMirror removes a message of the newest incarnation of a part's mirror.
func (r *Rig) DeleteFromMirror(part string, seq uint64) {
	r.t.Helper()
	m, err := r.Pair.DR.Mirror(r.t.Context(), r.ID(part))
	r.must(err)
	s, err := r.Pair.DR.JetStream().Stream(r.t.Context(), m.Newest().Name)
	r.must(err)
	r.must(s.DeleteMsg(r.t.Context(), seq))
}

// Mirrored waits until a part's mirror holds what the primary has stored.
func (r *Rig) Mirrored(part string) {
	r.t.Helper()
	want := r.Stored(part)
	Eventually(r.t, part+" is mirrored", func() error {
		m, err := r.Pair.DR.Mirror(r.t.Context(), r.ID(part))
		if err == nil && m.End() < want {
			err = fmt.Errorf("at %d of %d", m.End(), want)
		}
		return err
	})
}
