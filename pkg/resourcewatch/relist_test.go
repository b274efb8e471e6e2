package resourcewatch_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/farshore/farshore/internal/kube"
	"github.com/farshore/farshore/internal/kube/kubetest"
	"github.com/farshore/farshore/internal/link"
	"github.com/farshore/farshore/pkg/events"
)

// [I] What was deleted while the watcher could not watch, and what no watch can tell any more, is deleted in the stream: the
// kind is listed again, and the list is said.
func TestMissedDeletionsAppear(t *testing.T) {
	dir := t.TempDir()
	c := kubetest.New(t, kube.Options{Dir: dir})[0]
	s := newSite(t, c)
	l := link.New(t, strings.TrimPrefix(c.URL, "https://"))
	s.config.Host = "https://" + l.Address()
	for i := range 30 {
		s.put(fmt.Sprintf("c%d", i), nil)
	}
	s.ready(s.watch())
	s.converges(configMaps)

	before := len(s.stream.events())
	l.Cut()
	const missed = 10
	for i := range missed {
		s.remove(fmt.Sprintf("c%d", i))
	}
	s.put("c20", map[string]string{"changed": "unseen"})
	last := s.put("c30", nil).ResourceVersion
	c.Kill() // with the server goes its memory of recent changes, which a watch could go on from
	must(t, c.Restart(t.Context()))
	compact(t, dir, last)
	l.Heal()
	s.converges(configMaps)

	var deletions, upserts, lists int
	for _, e := range s.stream.events()[before:] {
		switch e := e.(type) {
		case *events.Object:
			if e.Verb == events.Delete {
				deletions++
			} else {
				upserts++
			}
		case *events.Listed:
			if e.Resource == "configmaps" {
				lists++
			}
		}
	}
	if deletions != missed || upserts != 2 || lists == 0 {
		t.Errorf("%d deletions, %d upserts and %d lists, want %d, 2 and at least one", deletions, upserts, lists, missed)
	}
}
