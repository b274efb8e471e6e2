package main

import (
	"regexp"
	"testing"
	"time"

	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/journal"
	"github.com/farshore/farshore/pkg/resourcewatch"
)

// Keys fit the KV's alphabet and tell objects apart.
func TestKeysOfObjects(t *testing.T) {
	alphabet := regexp.MustCompile(`^[-/_=\.a-zA-Z0-9]+$`)
	seen := make(map[string]bool)
	for _, k := range []events.ObjectKey{
		{Resource: "configmaps", Namespace: "bank", Name: "a"},
		{Resource: "configmaps", Namespace: "bank", Name: "a.b"},
		{Resource: "configmaps", Namespace: "bank", Name: "a=2Eb"},
		{Resource: "namespaces", Name: "bank"},
		{Group: "rbac.authorization.k8s.io", Resource: "clusterroles", Name: "system:controller:x"},
		{Group: "rbac.authorization.k8s.io", Resource: "clusterroles", Name: "_"},
		{Group: "g", Resource: "r", Name: "ümlaut with spaces > and *"},
	} {
		s := formatKey(k)
		if !alphabet.MatchString(s) || seen[s] {
			t.Errorf("%+v has the key %q", k, s)
		}
		seen[s] = true
		if back, ok := parseKey(s); !ok || back != k {
			t.Errorf("%q is read as %+v, want %+v", s, back, k)
		}
	}
	for _, s := range []string{"", "a.b.c", "a.b.c.d.e", "a.b.c.d=", "a.b.c.d=2", "a.b.c.d=zz"} {
		if k, ok := parseKey(s); ok {
			t.Errorf("%q is read as %+v", s, k)
		}
	}
}

// What was noted is there for the next one to open the memory, of that generation and no other.
func TestMemoryRemembers(t *testing.T) {
	s := newShore(t)
	site := s.startBus(t)
	id := journal.StreamID{Group: "shop", Part: journal.Objects, Generation: 1}
	m, err := openMemory(deadline(t), site, id)
	must(t, err)
	created := time.Now().UTC()
	must(t, m.begin(deadline(t), created))
	a := events.ObjectKey{Group: "g", Version: "v2", Resource: "r", Namespace: "n", Name: "a:b"}
	b := events.ObjectKey{Version: "v1", Resource: "r", Name: "b"}
	must(t, m.Note(deadline(t), a, resourcewatch.Sent{UID: "u", Revision: "1", Seq: 5}))
	must(t, m.Note(deadline(t), a, resourcewatch.Sent{UID: "u", Revision: "2", Seq: 7}))
	must(t, m.Note(deadline(t), b, resourcewatch.Sent{UID: "v", Revision: "2", Seq: 9}))
	must(t, m.Forget(deadline(t), b))
	must(t, m.Forget(deadline(t), events.ObjectKey{Version: "v1", Resource: "r", Name: "never noted"}))

	if m, err = openMemory(deadline(t), site, id); err != nil {
		t.Fatal(err)
	}
	known, err := m.Load(deadline(t))
	must(t, err)
	if len(known) != 1 || known[a] != (resourcewatch.Sent{UID: "u", Revision: "2", Seq: 7}) || m.acked != 7 || !m.created.Equal(created) {
		t.Errorf("remembered: %+v, up to %d, of %v", known, m.acked, m.created)
	}

	id.Generation = 2
	if m, err = openMemory(deadline(t), site, id); err != nil || len(m.known) != 0 || m.acked != 0 || !m.created.IsZero() {
		t.Errorf("of another generation: %+v, %v", m, err)
	}
	must(t, m.begin(deadline(t), created))
	id.Generation = 1
	if m, err = openMemory(deadline(t), site, id); err != nil || len(m.known) != 0 {
		t.Errorf("the older generation is remembered: %+v, %v", m, err)
	}
}
