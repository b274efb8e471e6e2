package objects

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/group"
)

// configs judges ConfigMaps and Secrets of the namespace "bank".
var configs = judge{kinds: []schema.GroupVersionResource{configMaps, secrets}, namespaces: map[string]string{"bank": "bank"}, selected: everything}

// everything is the selection of a group without a selector.
func everything(obj *unstructured.Unstructured) bool { return !ofCluster(obj) }

// While the DR API server is down recovery points are made, listed and recoverable, and the status says what is wrong; an
// applier that starts meanwhile works. What changed meanwhile is there once the server is back, and what was deleted isn't.
func TestRecoveryServerAway(t *testing.T) {
	s := start(t, options{volumes: 1})
	for i := range 20 {
		s.primary.apply(config(fmt.Sprint("early-", i), "1"))
	}
	s.applied("before")
	configs.same(s)
	s.dr.Kill()
	for i := range 20 {
		if i%2 == 0 {
			s.primary.delete(configMaps, "bank", fmt.Sprint("early-", i))
		} else {
			s.primary.apply(config(fmt.Sprint("early-", i), "2"))
		}
	}
	s.primary.apply(config("late", "1"))
	away := s.Recovered("away", limit) // the volumes and the durable copy follow
	st := s.status("the status tells that the DR API server is away", func(st *group.Status) error {
		switch {
		case st.Objects.Problem == "":
			return errors.New("no problem")
		case st.RecoveryPoint == nil || st.RecoveryPoint.Barrier < away:
			return errors.New("no newer recovery point")
		}
		return nil
	})
	if st.Objects.Applied != nil && st.Objects.Applied.Barrier >= away {
		t.Errorf("an API server that is down is said to hold barrier %d", st.Objects.Applied.Barrier)
	}
	s.Applier.Kill()
	s.Applier.Start()
	s.Applier.WaitReady()
	s.Recovered("still-away", limit)
	if err := s.dr.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.applied("back")
	configs.same(s)
}

// A primary API server that is killed and comes back loses no change. While it is gone volumes go on making recovery points,
// with the objects as they were proven before.
func TestPrimaryServerRestarts(t *testing.T) {
	random := harness.Seeded(t)
	s := start(t, options{volumes: 1, spec: `namespaces: [bank], selector: "app=bank"`, recovery: "inert: [{group: bank.example, resource: widgets}]"})
	s.primary.apply(definition("Widget"))
	c := startChurn(s, 100, random)
	for round := range 3 {
		c.more(100)
		s.primary.Kill()
		if round == 0 {
			from := time.Now()
			s.status("recovery points are made while the API server is away", func(st *group.Status) error {
				if st.Applied == nil || st.Applied.Time.Before(from.Add(time.Second)) {
					return errors.New("no newer point is applied")
				}
				return nil
			})
		}
		if err := s.primary.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	c.more(100)
	c.end()
	s.applied("settled")
	ofChurn.same(s)
}

// An object of the same name that somebody else made is reported, by name, and left as it is, whatever happens to
// Farshore's own; the rest arrives. Once it is out of the way, Farshore's takes its place.
func TestForeignObjects(t *testing.T) {
	s := start(t, options{away: true})
	s.dr.apply(manifest("v1", "Namespace", "", "bank", ""))
	foreign := s.dr.apply(config("settings", "theirs"))[0]
	account := s.dr.apply(manifest("v1", "ServiceAccount", "bank", "clerk", ""))[0]
	s.primary.apply(config("settings", "ours") + config("other", "ours") + manifest("v1", "ServiceAccount", "bank", "clerk", "automountServiceAccountToken: false"))
	s.begin()
	s.applied("first")
	untouched := func(when string) {
		t.Helper()
		for _, obj := range []struct {
			kind  schema.GroupVersionResource
			name  string
			uid   any
			since string
		}{{configMaps, "settings", foreign.GetUID(), foreign.GetResourceVersion()}, {accounts, "clerk", account.GetUID(), account.GetResourceVersion()}} {
			now := s.dr.get(obj.kind, "bank", obj.name)
			if now == nil || any(now.GetUID()) != obj.uid || now.GetResourceVersion() != obj.since {
				t.Errorf("%s somebody else's %s %s is now %v", when, obj.kind.Resource, obj.name, now)
			}
		}
	}
	untouched("first,")
	if got := value(s.dr.get(configMaps, "bank", "other")); got != "ours" {
		t.Errorf("the object beside it has %q", got)
	}
	s.status("the foreign objects are reported", func(st *group.Status) error {
		return refused(st, "configmaps", "settings", "").and(refused(st, "serviceaccounts", "clerk", ""))
	})
	text, err := s.Farshore("status")
	if err != nil || !strings.Contains(text, "bank/settings") {
		t.Errorf("`farshore status` doesn't name the foreign object: %v\n%s", err, text)
	}
	s.primary.apply(config("settings", "ours, changed"))
	s.applied("changed")
	untouched("after ours changed,")
	s.primary.delete(configMaps, "bank", "settings")
	s.applied("deleted")
	untouched("after ours was deleted,")
	s.primary.apply(config("settings", "ours again"))
	s.applied("again")
	untouched("after ours was made again,")
	s.dr.delete(configMaps, "bank", "settings")
	harness.Eventually(t, limit, "ours takes the place of the foreign object", func() error {
		if got := value(s.dr.get(configMaps, "bank", "settings")); got != "ours again" {
			return fmt.Errorf("it has %q", got)
		}
		return nil
	})
}

// found is nil where a status says what a test looks for.
type found struct{ error }

func (f found) and(g found) error { return errors.Join(f.error, g.error) }

// refused looks for a refusal in a status.
func refused(st *group.Status, resource, name, reason string) found {
	for _, r := range st.Objects.Refused {
		if r.Resource == resource && r.Name == name && r.Namespace == "bank" && strings.Contains(r.Reason, reason) {
			return found{}
		}
	}
	return found{fmt.Errorf("no refusal of %s %s (%s)", resource, name, reason)}
}
