package rebuild

import (
	"cmp"
	"maps"
	"slices"

	"github.com/farshore/farshore/pkg/group"
)

// status tells how the objects stand at the API server.
func (r *reconciler) status() group.ObjectsStatus {
	var s group.ObjectsStatus
	for _, id := range sortedTargets(r.items) {
		it := r.items[id]
		if it.told != "" { // within a pass it may still go in a later round
			s.Refusals++
			if len(s.Refused) < shownRefusals {
				held := it.p != nil && it.p.kind.back && r.form == formHeld
				s.Refused = append(s.Refused, refusalOf(refOf(it.entry.Key), it.told, held, it))
			}
		}
		switch {
		case it.p == nil || it.p.kind.never || it.raw != nil:
		case it.p.kind.back && r.form == formHeld && !it.released:
			s.HeldBack++
		case it.broken == "" && it.refusal == "" && (it.have == it.p.hash || it.released):
			s.Current++
		}
	}
	for _, t := range sortedTargets(r.strays) {
		st := r.strays[t]
		if st.refusal == "" {
			continue
		}
		s.Refusals++
		if len(s.Refused) < shownRefusals {
			s.Refused = append(s.Refused, group.Refusal{
				Group: st.ref.Group, Version: st.ref.Version, Resource: st.ref.Resource, Namespace: st.ref.Namespace, Name: st.ref.Name,
				Reason: st.refusal, Since: st.since,
			})
		}
	}
	return s
}

func refusalOf(ref Ref, reason string, held bool, it *item) group.Refusal {
	return group.Refusal{
		Group: ref.Group, Version: ref.Version, Resource: ref.Resource, Namespace: ref.Namespace, Name: ref.Name,
		Held: held, Reason: reason, Since: it.since,
	}
}

// releases tells whether a release has to do with it.
func (r *reconciler) releases(it *item) bool {
	return it.p != nil && !it.p.kind.never && (!it.p.ended || it.p.ref.Kind != "Pod") && (r.only == nil || r.only[it.p.target()])
}

// progress tells how far a release is.
func (r *reconciler) progress() Progress {
	var p Progress
	at := phases
	for _, id := range sortedTargets(r.items) {
		it := r.items[id]
		if it.p == nil && it.broken != "" {
			p.Total++
			p.Failed = append(p.Failed, Step{Object: refOf(it.entry.Key), Refused: it.broken})
			continue
		}
		if !r.releases(it) {
			continue
		}
		p.Total++
		switch {
		case it.refusal != "":
			p.Failed = append(p.Failed, Step{Object: it.p.ref, Phase: it.p.kind.phase.String(), Action: ActionRelease, Refused: it.refusal})
		case r.wants(it):
			at = min(at, it.p.kind.phase)
		default:
			p.Done++
		}
	}
	if at < phases {
		p.Phase = at.String()
	}
	return p
}

// spent tells whether a release has nothing left to do: what isn't released was refused often enough.
func (r *reconciler) spent() bool {
	for _, it := range r.items {
		if r.wants(it) && it.failures < patience {
			return false
		}
	}
	return true
}

func sortedTargets[V any](m map[target]V) []target {
	return slices.SortedFunc(maps.Keys(m), func(a, b target) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.resource, b.resource),
			cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
	})
}
