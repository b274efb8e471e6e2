package main

import (
	"iter"
	"slices"

	"github.com/farshore/farshore/pkg/rebuild"
)

// within is a State without the namespaces that nobody asked for, and without what was left out of the manifests: that was told.
type within struct {
	rebuild.State
	namespaces map[string]string // by the primary's name
	without    []leftOut
}

// All implements rebuild.State.
func (w within) All() iter.Seq[rebuild.Entry] {
	return func(yield func(rebuild.Entry) bool) {
		for e := range w.State.All() {
			namespace := e.Key.Namespace
			if e.Key.Group == "" && e.Key.Resource == "namespaces" {
				namespace = e.Key.Name
			}
			if _, wanted := w.namespaces[namespace]; !wanted && namespace != "" {
				continue
			}
			if slices.ContainsFunc(w.without, func(l leftOut) bool {
				return l.Object.Group == e.Key.Group && l.Object.Resource == e.Key.Resource && l.Object.Namespace == e.Key.Namespace && l.Object.Name == e.Key.Name
			}) {
				continue
			}
			if !yield(e) {
				return
			}
		}
	}
}
