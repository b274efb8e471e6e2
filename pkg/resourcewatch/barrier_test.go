package resourcewatch_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/farshore/farshore/internal/kube/kubetest"
	"github.com/farshore/farshore/pkg/events"
	"github.com/farshore/farshore/pkg/resourcewatch"
)

func token(barrier uint64) events.Token { return events.Token{Epoch: 1, Barrier: barrier} }

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// labelled makes a barrier whose revision is asked for, and returns the revision and the sequence of the mark.
func labelled(t testing.TB, w *watching, b uint64) (revision string, seq uint64) {
	t.Helper()
	ctx := deadline(t)
	must(t, w.Hold(token(b), time.Minute))
	revision, err := w.Revision(ctx, token(b))
	must(t, err)
	m, err := w.Mark(ctx, token(b))
	must(t, err)
	if m.Revision != revision {
		t.Fatalf("the mark proves %s, want %s", m.Revision, revision)
	}
	seq, err = m.Stored(ctx)
	must(t, err)
	return revision, seq
}

// [I] A mark whose revision is asked for cuts the stream at exactly that revision: while objects of several kinds change, a reader at the
// mark knows what a list at that revision shows, no more and no less.
func TestMarkCutsAtTheRevision(t *testing.T) {
	s := newSite(t, kubetest.Shared(t))
	crd := install(t, s, "cut.example.com", "widgets", "Widget")
	custom(t, s, crd, "Widget", "w")
	w := s.ready(s.watch())
	ctx, end := context.WithCancel(context.Background())
	var load sync.WaitGroup
	for c := range 4 {
		load.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				name := fmt.Sprintf("c%d-%d", c, n%10)
				if _, err := putMap(s.client, s.namespace, name, map[string]string{"n": fmt.Sprint(n)}); err != nil {
					t.Error(err)
				}
				if n%10 == 9 {
					if err := s.client.CoreV1().ConfigMaps(s.namespace).Delete(context.Background(), name, deleteNow); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	defer load.Wait()
	defer end()
	var longest time.Duration
	defer func() { t.Logf("the longest of the barriers took %s", longest) }()
	for b := range uint64(25) {
		start := time.Now()
		revision, seq := labelled(t, w, b+1)
		longest = max(longest, time.Since(start))
		got := replay(t, s.stream.events()[:seq])
		for _, r := range append(kinds, crd) {
			if diff := differences(of(got, r), s.existed(r, revision)); len(diff) > 0 {
				t.Fatalf("barrier %d at revision %s, %s: %v", b+1, revision, r.Resource, diff)
			}
		}
		if m, ok := s.stream.events()[seq-1].(*events.Mark); !ok || m.Token != token(b+1) || m.Revision != revision {
			t.Fatalf("event %d is %+v, not the mark of barrier %d", seq, s.stream.events()[seq-1], b+1)
		}
	}
}

// While the stream is held nothing is appended that happened behind the hold, and it opens by the mark, by a release and by its limit.
func TestHoldWithholds(t *testing.T) {
	s := newSite(t, kubetest.Shared(t))
	w := s.ready(s.watch())
	s.put("a", nil)
	s.converges(configMaps)
	ends := map[string]func(events.Token){
		"mark": func(b events.Token) {
			m, err := w.Mark(deadline(t), b)
			must(t, err)
			if m.Hold <= 0 || m.Hold > time.Minute {
				t.Errorf("the hold lasted %s", m.Hold)
			}
		},
		"release": func(b events.Token) { w.Release(b) },
		"limit":   func(events.Token) {},
	}
	b := uint64(0)
	for name, end := range ends {
		b++
		limit := time.Minute
		if name == "limit" {
			limit = 700 * time.Millisecond
		}
		must(t, w.Hold(token(b), limit))
		cm := s.put("a", map[string]string{"by": name})
		eventually(t, "the change is received", func() bool { n, _ := w.Debt(); return n > 0 })
		for _, o := range objects(s.stream.events()) {
			if o.Revision == cm.ResourceVersion {
				t.Fatalf("%s: a change was appended behind the hold", name)
			}
		}
		end(token(b))
		s.converges(configMaps)
		all := s.stream.events()
		last, ok := all[len(all)-1].(*events.Object)
		if !ok || last.Revision != cm.ResourceVersion {
			t.Fatalf("%s: the last event is %+v, want the change that was withheld", name, all[len(all)-1])
		}
		if name == "mark" {
			if m, ok := all[len(all)-2].(*events.Mark); !ok || m.Token != token(b) {
				t.Fatalf("the change isn't preceded by the mark but by %+v", all[len(all)-2])
			}
		}
	}
	if _, err := w.Mark(deadline(t), token(b)); !errors.Is(err, resourcewatch.ErrNotHeld) {
		t.Errorf("a mark without a hold gives %v", err)
	}
	if err := w.Hold(token(b), time.Minute); !errors.Is(err, resourcewatch.ErrStaleToken) {
		t.Errorf("a hold that has ended, said again, gives %v", err)
	}
	if err := w.Hold(token(b-1), time.Minute); !errors.Is(err, resourcewatch.ErrStaleToken) {
		t.Errorf("an older hold gives %v", err)
	}
}

// A newer hold takes the stream over from an older one that is about to mark, and stays closed.
func TestNewerHoldVoidsAMark(t *testing.T) {
	s := newSite(t, kubetest.Shared(t))
	w := s.ready(s.watch())
	ctx := deadline(t)
	must(t, w.Hold(token(1), time.Minute))
	_, err := w.Revision(ctx, token(1))
	must(t, err)
	must(t, w.Hold(token(2), time.Minute))
	if _, err := w.Mark(ctx, token(1)); !errors.Is(err, resourcewatch.ErrNotHeld) {
		t.Errorf("the older mark gives %v", err)
	}
	cm := s.put("a", nil)
	eventually(t, "the change is received", func() bool { n, _ := w.Debt(); return n > 0 })
	m, err := w.Mark(ctx, token(2))
	must(t, err)
	if m.Revision == "" || !newer(t, cm.ResourceVersion, m.Revision) {
		t.Errorf("a mark at once proves %q, and the change behind its hold has %s", m.Revision, cm.ResourceVersion)
	}
	s.converges(configMaps)
}

// The proven revision follows the API server's although the group's kinds don't change, without a hold.
func TestIdleKindsAreProven(t *testing.T) {
	s := newSite(t, kubetest.Shared(t))
	w := s.ready(s.watch())
	other := kubetest.Namespace(t, s.cluster, "other")
	for range 3 {
		cm, err := putMap(s.client, other, "c", map[string]string{"at": time.Now().String()})
		must(t, err)
		before := len(s.stream.events())
		eventually(t, "what happens elsewhere moves the proven revision", func() bool {
			r := w.Status().Revision
			return r != "" && !newer(t, cm.ResourceVersion, r)
		})
		if n := len(s.stream.events()); n != before {
			t.Errorf("%d events were appended", n-before)
		}
		if at := w.Status().Proven; at.IsZero() || time.Since(at) > time.Minute {
			t.Errorf("the revision was read at %s", at)
		}
	}
	must(t, w.Hold(token(1), time.Minute))
	m, err := w.Mark(deadline(t), token(1))
	must(t, err)
	if m.Revision == "" {
		t.Error("the mark proves nothing")
	}
}

// A custom kind that is installed while the watcher runs is in the first cut behind it, its definition and its objects.
func TestKindInstalledWhileRunning(t *testing.T) {
	s := newSite(t, kubetest.Shared(t))
	s.tune = func(o *resourcewatch.Options) { o.Rediscover = time.Hour }
	w := s.ready(s.watch())
	for i := range uint64(3) {
		group := fmt.Sprintf("late%d.example.com", i)
		crd := install(t, s, group, "gadgets", "Gadget")
		made := custom(t, s, crd, "Gadget", "g")
		_, seq := labelled(t, w, i+1)
		got := replay(t, s.stream.events()[:seq])
		if o := of(got, crd); len(o) != 1 {
			t.Fatalf("the cut behind %s holds %d of %s", made.GetResourceVersion(), len(o), group)
		}
		definition := events.ObjectKey{Group: crdResource.Group, Version: "v1", Resource: crdResource.Resource, Name: "gadgets." + group}
		if _, ok := got[definition]; !ok {
			t.Fatalf("the cut lacks %s", definition.Name)
		}

		must(t, s.dynamic.Resource(crdResource).Delete(context.Background(), definition.Name, deleteNow))
		eventually(t, "the objects of a kind that goes away disappear", func() bool {
			got := replay(t, s.stream.events())
			_, defined := got[definition]
			return !defined && len(of(got, crd)) == 0
		}, func() any { return w.Status() })
	}
	if f := w.Status().Failing; len(f) > 0 {
		t.Logf("failing: %v", f)
	}
}

// The objects of a kind that went away while no watcher ran disappear at the next start.
func TestKindRemovedWhileStopped(t *testing.T) {
	s := newSite(t, kubetest.Shared(t))
	crd := install(t, s, "removed.example.com", "gadgets", "Gadget")
	custom(t, s, crd, "Gadget", "g")
	w := s.ready(s.watch())
	s.converges(crd)
	w.kill()
	must(t, s.dynamic.Resource(crdResource).Delete(context.Background(), "gadgets.removed.example.com", deleteNow))
	eventually(t, "the kind is gone", func() bool {
		_, err := s.dynamic.Resource(crd).Namespace(s.namespace).List(context.Background(), listAll)
		return err != nil
	})
	s.ready(s.watch())
	eventually(t, "its objects disappear", func() bool { return len(of(replay(t, s.stream.events()), crd)) == 0 })
}
