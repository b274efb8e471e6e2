package main

import (
	"iter"

	"github.com/farshore/farshore/pkg/rebuild"
)

// within is a State without the namespaces that nobody asked for.
type within struct {
	rebuild.State
	namespaces map[string]string // by the primary's name
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
			if !yield(e) {
				return
			}
		}
	}
}
