package objects

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/farshore/farshore/integration/harness"
	"github.com/farshore/farshore/pkg/group"
)

// A definition and objects of its kind that are in one commit arrive, in the right order, while everything runs; those of a kind that isn't
// listed as inert are held back and only rehearsed. Both go with their definition.
func TestDefinitionAndObjectInOneCommit(t *testing.T) {
	s := start(t, options{recovery: "inert: [{group: bank.example, resource: widgets}]"})
	s.primary.apply(config("settings", "1"))
	s.applied("before")
	// No commit lies between these.
	s.Snapshotter.Signal(syscall.SIGSTOP)
	s.primary.apply(definition("Widget") + custom("Widget", "inert", 1) + definition("Robot") + custom("Robot", "acting", 1))
	s.Snapshotter.Signal(syscall.SIGCONT)
	s.applied("both")
	if obj := s.dr.get(widgets, "bank", "inert"); obj == nil {
		t.Error("the inert object is missing")
	}
	robots := widgets.GroupVersion().WithResource("robots")
	if obj := s.dr.get(robots, "bank", "acting"); obj != nil {
		t.Error("an object of a kind that may act is applied before a takeover")
	}
	s.status("one is held back", func(st *group.Status) error {
		if st.Objects.HeldBack != 1 {
			return errors.New("not one")
		}
		return nil
	})
	s.primary.apply(custom("Widget", "inert", 2))
	s.applied("changed")
	if obj := s.dr.get(widgets, "bank", "inert"); obj == nil || fmt.Sprint(obj.Object["spec"]) != "map[size:2]" {
		t.Errorf("after a change it is %v", obj)
	}
	for _, name := range []string{"widgets.bank.example", "robots.bank.example"} {
		s.primary.delete(definitions, "", name)
	}
	harness.Eventually(t, limit, "the definitions are gone at the primary", func() error {
		if s.primary.get(definitions, "", "widgets.bank.example") != nil || s.primary.get(definitions, "", "robots.bank.example") != nil {
			return errors.New("they are there")
		}
		return nil
	})
	s.applied("gone")
	harness.Eventually(t, limit, "the definitions are gone at the DR site", func() error {
		if s.dr.get(definitions, "", "widgets.bank.example") != nil || s.dr.get(definitions, "", "robots.bank.example") != nil {
			return errors.New("they are there")
		}
		return nil
	})
	// And they may come back.
	s.primary.apply(definition("Widget") + custom("Widget", "inert", 3))
	s.applied("again")
	if obj := s.dr.get(widgets, "bank", "inert"); obj == nil || fmt.Sprint(obj.Object["spec"]) != "map[size:3]" {
		t.Errorf("made again it is %v", obj)
	}
}
