package rebuild

import (
	"cmp"
	"strings"
	"time"

	"github.com/farshore/farshore/pkg/group"
)

// Ref names an object at the DR site.
type Ref struct {
	Group     string `json:"group,omitempty"`
	Version   string `json:"version"`
	Resource  string `json:"resource"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// String returns resource.group namespace/name, for people.
func (r Ref) String() string {
	var b strings.Builder
	b.WriteString(r.Resource)
	if r.Group != "" {
		b.WriteString("." + r.Group)
	}
	b.WriteString(" ")
	if r.Namespace != "" {
		b.WriteString(r.Namespace + "/")
	}
	b.WriteString(r.Name)
	return b.String()
}

func (r Ref) compare(s Ref) int {
	return cmp.Or(cmp.Compare(r.Group, s.Group), cmp.Compare(r.Resource, s.Resource),
		cmp.Compare(r.Namespace, s.Namespace), cmp.Compare(r.Name, s.Name))
}

// Action is what a release does to an object.
type Action string

// The actions.
const (
	ActionCreate  Action = "create"  // held back until now
	ActionRelease Action = "release" // exists in a held form
	ActionKeep    Action = "keep"    // exists as it should be, is only marked as released
	ActionDone    Action = "done"    // was released before
)

// Step is one object of a release.
type Step struct {
	Object Ref    `json:"object"`
	Phase  string `json:"phase"` // of the order, see Phases
	Action Action `json:"action"`
	// Detail tells what changes, such as "replicas 0 → 3"; empty where there is nothing to tell.
	Detail string `json:"detail,omitempty"`
	// Refused is why the API server would refuse, or refuses, the step; empty where it doesn't.
	Refused string `json:"refused,omitempty"`
}

// Plan is what a release would do, in its order. Every step was tried by a server-side dry run.
type Plan struct {
	Point group.Point `json:"point"` // that the objects are of
	Steps []Step      `json:"steps"`
}

// Progress is how far a release has come.
type Progress struct {
	Point  group.Point `json:"point"` // that the objects are of
	Phase  string      `json:"phase"` // that it is at; empty at the end
	Done   int         `json:"done"`  // objects released
	Total  int         `json:"total"`
	Mode   Mode        `json:"mode"`
	Since  time.Time   `json:"since"`            // when the release was asked for
	Failed []Step      `json:"failed,omitempty"` // what the API server refuses, so far
}

// Mode is where a group's objects stand.
type Mode string

// The modes.
const (
	ModeStandby   Mode = "standby"   // held
	ModeReleasing Mode = "releasing" // on their way
	ModeReleased  Mode = "released"  // not Farshore's any more
)
