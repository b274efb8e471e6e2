package rebuild

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"sigs.k8s.io/yaml"
)

// Manifest is one object as a file.
type Manifest struct {
	Object Ref
	Phase  string // of the order, see Phases
	// Content is YAML, or, where Encrypted, an age file of the Secret as the primary had it, before any mapping.
	Content   []byte
	Encrypted bool
}

// Broken is an object that no manifest can be made of.
type Broken struct {
	Object Ref
	Reason string
}

// Manifests returns every object of state as it would be applied after a release, mapped by rules, in the
// order in which it can be applied. A Secret that none of the identities opens is returned Encrypted. Pods that had ended are
// left out, Jobs that had are suspended.
func Manifests(rules Rules, state State) ([]Manifest, []Broken, error) {
	p := preparer{rules: rules, volumes: make(map[string]bool)}
	for e := range state.All() {
		if e.Key.Group == "" && e.Key.Resource == "persistentvolumes" {
			p.volumes[e.Key.Name] = true
		}
	}
	type ordered struct {
		phase phase
		Manifest
	}
	var all []ordered
	var broken []Broken
	for e := range state.All() {
		raw, err := state.Raw(e.Key)
		if err != nil {
			return nil, nil, fmt.Errorf("read durable copy: %w", err)
		}
		out, err := p.prepare(e, raw, formPlain)
		switch {
		case errors.Is(err, errSealed):
			ref := refOf(e.Key)
			ref.Kind = "Secret"
			all = append(all, ordered{phaseConfig, Manifest{Object: ref, Content: raw, Encrypted: true}})
			continue
		case err != nil:
			broken = append(broken, Broken{refOf(e.Key), err.Error()})
			continue
		case out.kind.never || out.ended && out.ref.Kind == "Pod":
			continue
		}
		content, err := yaml.Marshal(out.obj)
		if err != nil {
			return nil, nil, fmt.Errorf("encode %s: %w", out.ref, err)
		}
		all = append(all, ordered{out.kind.phase, Manifest{Object: out.ref, Content: content}})
	}
	slices.SortFunc(all, func(a, b ordered) int { return cmp.Or(int(a.phase-b.phase), a.Object.compare(b.Object)) })
	manifests := make([]Manifest, len(all))
	for i, o := range all {
		o.Manifest.Phase = o.phase.String()
		manifests[i] = o.Manifest
	}
	return manifests, broken, nil
}
