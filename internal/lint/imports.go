package lint

import (
	"fmt"
	"slices"
	"strings"
)

// What packages must not import: import paths, each standing for everything below it.
var (
	nats       = []string{"github.com/nats-io"}
	kubernetes = []string{"k8s.io", "sigs.k8s.io"}
	everything = []string{module}
)

// harmless is published by the Kubernetes project and knows nothing about it.
var harmless = []string{"sigs.k8s.io/yaml", "sigs.k8s.io/json"}

// wall keeps one part of the module from knowing others, however many packages lie between.
type wall struct {
	part  string   // path in the module, standing for everything below it
	never []string // import paths
	but   []string // exceptions of never
}

// walls is the table of docs/design.md: the two shores meet in pkg/events alone.
var walls = []wall{
	{part: "pkg/events", never: join(nats, kubernetes, everything), but: []string{module + "/pkg/events"}},
	{part: "pkg/journal", never: join(kubernetes, inModule("pkg/cdc"))},
	{part: "pkg/cdc", never: kubernetes},
	{part: "pkg/resourcewatch", never: join(nats, inModule("pkg/cdc"))},
	{part: "pkg/barrier", never: inModule("pkg/cdc/nbd", "pkg/cdc/fuse", "pkg/cdc/ublk", "pkg/cdc/scan")},
	{part: "pkg/repair", never: join(kubernetes, inModule("pkg/cdc", "pkg/replica", "pkg/resourcewatch", "pkg/rebuild"))},
	{part: "pkg/replica", never: inModule("pkg/cdc", "pkg/resourcewatch", "pkg/rebuild")},
	{part: "pkg/rebuild", never: join(nats, inModule("pkg/cdc", "pkg/resourcewatch"))},
	{part: "pkg/archive", never: join(nats, kubernetes, everything), but: inModule("pkg/archive", "internal")},
	{part: "pkg/archiver", never: inModule("pkg/cdc", "pkg/resourcewatch", "pkg/rebuild")},
	{part: "pkg/replay", never: inModule("pkg/cdc")},
	{part: "pkg/group", never: join(nats, everything), but: []string{module + "/pkg/group", module + "/pkg/transform"}},
	{part: "pkg/transform", never: join(nats, []string{"k8s.io/client-go"}, everything), but: []string{module + "/pkg/transform"}},
	{part: "pkg/telemetry", never: everything, but: []string{module + "/pkg/telemetry"}},
	{part: "pkg", never: inModule("cmd", "integration", "deploy")},
}

func inModule(parts ...string) []string {
	out := make([]string, len(parts))
	for i, p := range parts {
		out[i] = module + "/" + p
	}
	return out
}

func join(lists ...[]string) []string { return slices.Concat(lists...) }

// below tells whether an import path is one of roots or below one.
func below(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return path == root || strings.HasPrefix(path, root+"/")
	})
}

// graph is which package imports which, by import path, without the files of tests.
func graph(sources []*source) map[string][]string {
	out := make(map[string][]string)
	for _, s := range sources {
		if s.test() {
			continue
		}
		from := module + "/" + s.dir()
		out[from] = append(out[from], s.imports()...)
	}
	return out
}

// breaches lists every way from a walled part to what it must not know.
func breaches(imports map[string][]string, walls []wall) (found []string) {
	for _, w := range walls {
		for from := range imports {
			if below(from, inModule(w.part)) {
				found = append(found, w.search(imports, []string{from}, make(map[string]bool))...)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// search follows the imports of the package at the end of way.
func (w wall) search(imports map[string][]string, way []string, seen map[string]bool) (found []string) {
	for _, to := range imports[way[len(way)-1]] {
		if seen[to] {
			continue
		}
		seen[to] = true
		next := append(slices.Clone(way), to)
		if below(to, w.never) && !below(to, w.but) && !below(to, harmless) {
			found = append(found, fmt.Sprintf("%s must not import %s: %s", w.part, to, strings.Join(next, " → ")))
			continue
		}
		found = append(found, w.search(imports, next, seen)...)
	}
	return found
}
