package resourcewatch

import (
	"testing"

	"github.com/farshore/farshore/pkg/resourcewatch/selection"
)

// A feed has reached a revision once what existed then is what it received; what is newer doesn't matter.
func TestProofComparesWithWhatExisted(t *testing.T) {
	k := &selection.Kind{Version: "v1", Resource: "configmaps", Kind: "ConfigMap", Namespaced: true}
	o := func(name, revision string) *object {
		return &object{kind: k, namespace: "n", name: name, uid: "u" + name, revision: revision}
	}
	listed := func() *feed {
		f := newFeed(place{resource: "configmaps", namespace: "n"}, nil, &budget{most: 1 << 20}, func() {})
		f.kind = k
		if err := f.Replace([]any{o("a", "5"), o("b", "6")}, "10"); err != nil {
			t.Fatal(err)
		}
		f.take("")
		f.apply("10")
		return f
	}
	for name, c := range map[string]struct {
		existed map[string]stamp
		want    bool
	}{
		"unchanged":          {map[string]stamp{"a": {"ua", "5"}, "b": {"ub", "6"}}, true},
		"a change is coming": {map[string]stamp{"a": {"ua", "15"}, "b": {"ub", "6"}}, false},
		"one more is coming": {map[string]stamp{"a": {"ua", "5"}, "b": {"ub", "6"}, "c": {"uc", "12"}}, false},
		"a deletion":         {map[string]stamp{"a": {"ua", "5"}}, false},
		"another of a name":  {map[string]stamp{"a": {"ua", "5"}, "b": {"other", "14"}}, false},
	} {
		f := listed()
		if got, err := f.prove("20", c.existed); got != c.want || err != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if got := f.done("20"); got != c.want {
			t.Errorf("%s: done is %v", name, got)
		}
	}
}

// What was listed anew behind a revision is cut there, where nothing of then is lost.
func TestListIsCutAtARevision(t *testing.T) {
	k := &selection.Kind{Version: "v1", Resource: "configmaps", Kind: "ConfigMap", Namespaced: true}
	old := &object{kind: k, namespace: "n", name: "old", uid: "u", revision: "5"}
	late := &object{kind: k, namespace: "n", name: "late", uid: "v", revision: "25"}
	f := newFeed(place{resource: "configmaps", namespace: "n"}, nil, &budget{most: 1 << 20}, func() {})
	f.kind = k
	if err := f.Replace([]any{old, late}, "30"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.prove("20", map[string]stamp{"old": {"u", "4"}}); err == nil {
		t.Error("a version that is lost is proven")
	}
	if ok, err := f.prove("20", map[string]stamp{"old": {"u", "5"}}); !ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	c, _, ok := f.take("20")
	if !ok || len(c.all) != 1 || c.all["old"] != old {
		t.Fatalf("taken is %+v", c)
	}
	f.apply(c.revision)
	if _, _, ok := f.take("20"); ok {
		t.Error("more than the revision holds is taken")
	}
	if !f.done("20") {
		t.Error("not done")
	}
	if c, _, ok := f.take(""); !ok || c.object != late {
		t.Errorf("taken is %+v", c)
	}
}
