package resourcewatch

import (
	"context"
	"fmt"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/resourcewatch/selection"
)

// listedBytes is about how much of names one Listed may hold; its message may have twice that.
const listedBytes = 200 << 10

func (o *object) key() events.ObjectKey {
	return events.ObjectKey{Group: o.kind.Group, Version: o.kind.Version, Resource: o.kind.Resource, Namespace: o.namespace, Name: o.name}
}

func (i id) key(version string) events.ObjectKey {
	return events.ObjectKey{Group: i.group, Version: version, Resource: i.resource, Namespace: i.namespace, Name: i.name}
}

// evaluate sends what the reader lacks of an object, if it lacks anything.
func (t *tenure) evaluate(ctx context.Context, i id) error {
	o, _ := t.have.get(i)
	was, wasSent := t.sent.get(i)
	if o != nil && t.closure.Selected(o.key()) {
		delete(t.deferred, i)
		if wasSent && was == (sent{o.kind.Version, o.uid, o.revision}) {
			return nil
		}
		if wasSent && was.uid != o.uid {
			if err := t.remove(ctx, i, was, was.revision); err != nil {
				return err
			}
		}
		return t.upsert(ctx, i, o, was)
	}
	switch {
	case !wasSent:
		return nil
	case o == nil && t.exists(i):
		return nil // as far as can be seen: the kind can't be read at the moment
	case o != nil && !t.complete():
		t.deferred[i] = struct{}{}
		return nil
	}
	revision := was.revision
	if t.from != nil {
		revision = t.revision
	}
	return t.remove(ctx, i, was, revision)
}

// exists tells of an object that isn't known whether it may exist all the same.
func (t *tenure) exists(i id) bool {
	f := t.w.feed(i.place())
	if f == nil {
		return t.w.mayBeServed(i.place().kind(), i.namespace)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.listed || !t.taken[f.place]
}

// upsert sends an object as it is. A large one is sent in parts, which nothing comes between.
func (t *tenure) upsert(ctx context.Context, i id, o *object, was sent) error {
	raw, err := selection.Seal(*o.kind, o.raw, t.w.recipients)
	if err != nil {
		return fmt.Errorf("send %s %s/%s: %w", i.resource, i.namespace, i.name, err)
	}
	parts := selection.Split(raw, events.MaxRaw)
	if dropped() {
		parts = nil
	}
	var seq uint64
	for n, part := range parts {
		seq, err = t.sink.Append(ctx, &events.Object{
			Verb: events.Upsert, Key: o.key(), UID: o.uid, Revision: o.revision, Part: uint32(n), Parts: uint32(len(parts)), Raw: part,
		})
		if err != nil {
			return fmt.Errorf("send %s %s/%s: %w", i.resource, i.namespace, i.name, err)
		}
	}
	t.w.count.upserts.Add(1)
	t.sent.put(i, sent{o.kind.Version, o.uid, o.revision})
	if was.version != "" && was.version != o.kind.Version {
		t.notes.forget(i.key(was.version), seq)
	}
	t.notes.note(o.key(), Sent{o.uid, o.revision, seq})
	return nil
}

// remove sends that an object doesn't exist, or doesn't belong to the group, any more.
func (t *tenure) remove(ctx context.Context, i id, was sent, revision string) error {
	seq, err := t.sink.Append(ctx, &events.Object{
		Verb: events.Delete, Key: i.key(was.version), UID: was.uid, Revision: revision, Parts: 1,
	})
	if err != nil {
		return fmt.Errorf("send the deletion of %s %s/%s: %w", i.resource, i.namespace, i.name, err)
	}
	t.w.count.deletes.Add(1)
	t.sent.delete(i)
	t.notes.forget(i.key(was.version), seq)
	return nil
}

// listOne sends the list of one kind that is due, unless it can't be read as a whole. It holds what the reader should
// have at this place of the stream.
func (t *tenure) listOne(ctx context.Context) error {
	var k kindID
	for k = range t.list {
		break
	}
	delete(t.list, k)
	version, revision := "", ""
	for _, f := range t.w.feeds() {
		if f.place.kind() != k {
			continue
		}
		f.mu.Lock()
		whole := f.listed && t.taken[f.place] && len(f.refused) == 0
		version = f.kind.Version
		f.mu.Unlock()
		if !whole {
			return nil
		}
		if r, _ := f.proven(); revision == "" || after(revision, r) {
			revision = r
		}
	}
	objects, size := []events.ListedObject(nil), 0
	var parts [][]events.ListedObject
	for i, s := range t.sent.all() {
		if i.place().kind() != k {
			continue
		}
		o := events.ListedObject{Namespace: i.namespace, Name: i.name, UID: s.uid}
		n := len(o.Namespace) + len(o.Name) + len(o.UID)
		if len(objects) == events.MaxListed || size+n > listedBytes {
			parts = append(parts, objects)
			objects, size = nil, 0
		}
		objects, size = append(objects, o), size+n
	}
	parts = append(parts, objects)
	for n, part := range parts {
		if _, err := t.sink.Append(ctx, &events.Listed{
			Group: k.group, Version: version, Resource: k.resource, Revision: revision,
			Part: uint32(n), Parts: uint32(len(parts)), Objects: part,
		}); err != nil {
			return fmt.Errorf("send the list of %s: %w", k.resource, err)
		}
	}
	t.w.count.lists.Add(1)
	return nil
}
